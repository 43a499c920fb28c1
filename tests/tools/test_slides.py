"""The slides: every output that they show is there, and the page needs nothing from outside."""

import re
from html.parser import HTMLParser

import nbformat
import pytest

from helpers.errors import UserError
from helpers.runs.notebook import FOLDER
from tests import PROJECT
from tools.slides import SOURCE, build, number, output, outputs, read_slides

TEXT = SOURCE.read_text(encoding="utf-8")
PARTS = re.split(r"^(?=## )", TEXT, flags=re.M)[1:]
VOID = {"meta", "link", "br", "hr", "img", "input"}


def executed(part):
    """Skip what shows a notebook that is committed without any output."""
    for name in set(re.findall(r'(?:output|number)\("(\d\d)"', part)):
        if not outputs(FOLDER, name):
            pytest.skip(f"notebook {name} is committed without outputs: `make notebooks`")
    return part


@pytest.mark.parametrize("part", PARTS, ids=[part.splitlines()[0][3:] for part in PARTS])
def test_a_slide_shows_its_outputs_and_has_notes(part):
    (slide,) = read_slides(executed(part))
    assert len(re.sub("<[^>]+>", "", slide["notes"]).split()) >= 15
    assert 'class="output"' in slide["body"] or len(slide["body"].split()) >= 8
    assert slide["body"].count('class="output"') == part.count("{{ output(")
    assert "{{" not in slide["body"] + slide["notes"]


def test_there_are_25_to_35_with_different_titles():
    titles = [part.splitlines()[0] for part in PARTS]
    assert 25 <= len(set(titles)) == len(titles) <= 35


def test_most_slides_show_an_output():
    assert sum("{{ output(" in part for part in PARTS) > len(PARTS) / 2


PICTURES = {
    "Six steps",
    "A number for every token",
    "How surprised was it?",
    "It looks back",
    "Learning: one step",
    "Documents have all lengths",
    "Not across a border",
    "Reading the losses",
    "Could it be chance?",
    "What was learned?",
    "Temperature, top-k, top-p",
}


def test_the_slides_that_should_show_a_picture_do():
    shown = {
        slide["title"]
        for part in PARTS
        for slide in read_slides(executed(part))
        if "<svg" in slide["body"]
    }
    assert shown == PICTURES


class Page(HTMLParser):
    """The ids, the addresses and the elements of a page."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.addresses, self.open, self.sections = [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            elif name in ("src", "href", "xlink:href", "action", "data", "poster"):
                self.addresses.append(value)
        self.sections += tag == "section"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def written():
    """The page of the slides whose notebooks are executed."""
    shown = []
    for part in PARTS:
        names = re.findall(r'(?:output|number)\("(\d\d)"', part)
        shown += [part] if all(outputs(FOLDER, name) for name in names) else []
    return len(shown), build("# Title\n\n" + "".join(shown))


def test_the_page_is_one_file_without_an_address_outside(written):
    count, text = written
    page = Page(text)
    assert page.sections == count
    assert page.open == []
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert set(re.findall(r"https?://[\w./]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "@import" not in text and "<link" not in text


def test_ids_are_unique_and_each_that_is_used_is_there(written):
    page = Page(written[1])
    assert len(set(page.ids)) == len(page.ids)
    used = re.findall(r"url\(#([^)]+)\)", written[1]) + [
        a[1:] for a in page.addresses if a[0] == "#"
    ]
    assert used
    assert set(used) <= set(page.ids)


def test_pictures_have_a_text_alternative(written):
    drawings = re.findall(r"<svg[^>]*>", written[1])
    assert len(drawings) >= 5
    assert all(re.search(r'aria-label="[^"]{10,}"', drawing) for drawing in drawings)


@pytest.fixture
def notebook(tmp_path):
    cell = nbformat.v4.new_code_cell("")
    cell.outputs = [nbformat.v4.new_output("stream", text="  loss 2.50\n    <b>\n")]
    cells = [nbformat.v4.new_markdown_cell("# Title\n\n## One\n\ntext"), cell]
    cells.append(nbformat.v4.new_markdown_cell("## Two"))
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "07_small.ipynb")
    return tmp_path


def test_text_is_escaped_and_numbers_are_found(notebook):
    assert output(notebook, "07", "One") == (
        '<div class="output"><pre>loss 2.50&#10;  &lt;b&gt;</pre></div>'
    )
    assert number(notebook, "07", "loss ([0-9.]+)") == "2.50"
    source = '# T\n\n## A\n\n{{ output("07", "One") }}\n\nNotes: *why*\n\n## B\n\nx\n\nNotes: y\n'
    first, second = read_slides(source, notebook)
    assert (first["title"], second["title"]) == ("A", "B")
    assert "<em>why</em>" in first["notes"] and "why" not in first["body"]


def test_what_is_missing_is_said_in_a_sentence(notebook):
    with pytest.raises(UserError, match="Notebook 07 has 1 outputs under 'One', and output 1"):
        output(notebook, "07", "One", 1)
    with pytest.raises(UserError, match="has 0 outputs under 'Two'"):
        output(notebook, "07", "Two")
    with pytest.raises(UserError, match="prints nothing like"):
        number(notebook, "07", "perplexity (.)")


def test_the_makefile_calls_it():
    assert "-m tools.slides" in (PROJECT / "Makefile").read_text(encoding="utf-8")
