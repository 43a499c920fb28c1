"""Each notebook as a person uses it: Run All, moved by hand, interrupted, saved, opened again."""

import re
import shutil

import nbformat
import pytest

from helpers.runs.folder import Run
from helpers.runs.report import write_report
from tests import PROJECT
from tests.browser.lab import Book

pytestmark = pytest.mark.browser
NOTEBOOKS = {path.stem: path for path in sorted((PROJECT / "notebooks").glob("0*.ipynb"))}
SMALL = {"04_train": {"num_train_epochs": 0.3}, "06_infer": {"max_new_tokens": 20}}
PICTURE = ".inline-figure svg, .jp-RenderedHTML .mathjax_ignore"


def open_book(lab, context, name, run_dir, **parameters):
    """A copy of a notebook, in the light theme, whose artifacts go to `run_dir`."""
    values = SMALL.get(name, {}) | ({} if name == "00_idea" else {"run_dir": str(run_dir)})
    lab.theme("light")
    return Book(lab, context, lab.copy(NOTEBOOKS[name], **values | parameters))


@pytest.fixture(scope="module", params=NOTEBOOKS)
def book(request, lab, context):
    """A notebook after Run All, which those before it in the list have had, too."""
    opened = open_book(lab, context, request.param, lab.folder / "run")
    opened.run_all()
    yield opened
    opened.close()


def chosen(*names):
    """A mark: a test for these notebooks alone."""
    return pytest.mark.parametrize("book", names, indirect=True)


def test_run_all_shows_no_error_and_no_red_box(book, screenshots):
    assert book.problems() == []
    book.screenshot(screenshots, "light", PICTURE)


@chosen("03_chunk")
def test_the_blocks_answer_to_keyboard_and_mouse(book):
    output = book.cell("blocks_page(sample")
    said, tokens = output.locator("p[role=status]"), output.locator(".stop")
    before = said.inner_text()
    output.get_by_label("block_size").focus()
    book.page.keyboard.press("ArrowUp")
    assert said.inner_text() != before
    output.get_by_label("blocks shown").focus()
    book.page.keyboard.press("ArrowRight")
    assert tokens.count() == 3 * 128
    tokens.nth(40).hover()
    output.get_by_text("place 41 of 128 in block 1").wait_for()
    book.page.keyboard.press("Tab")  # to the token that the pointer was on
    for key, place in (("ArrowRight", "42"), ("ArrowDown", "42"), ("Home", "1")):
        book.page.keyboard.press(key)
        block = 1 if key == "ArrowRight" else 2
        output.get_by_text(f"place {place} of 128 in block {block}").wait_for()
    assert book.problems() == []


@chosen("05_evaluate")
def test_the_documents_answer_to_keyboard_and_mouse(book):
    output = book.cell("documents_page(models")
    lengths = output.locator(".documents td:nth-child(2)")
    output.get_by_role("button", name="tokens").click()
    counts = [int(text.replace(",", "")) for text in lengths.all_inner_texts()]
    assert counts == sorted(counts, reverse=True)
    output.locator(".start button").nth(1).focus()
    book.page.keyboard.press("Enter")
    tokens = output.locator(".stop")
    beginning = output.locator(".chosen button").inner_text().removesuffix(" …")
    assert "".join(tokens.all_text_contents()).startswith(beginning)
    colours = []
    for key in ("ArrowLeft", "ArrowLeft"):  # from the difference to the models
        output.get_by_role("radio", checked=True).focus()
        book.page.keyboard.press(key)
        colours.append(tokens.nth(3).get_attribute("style"))
    assert len(set(colours)) == 2
    tokens.nth(3).hover()
    book.page.keyboard.press("Tab")
    book.page.keyboard.press("ArrowRight")
    name = tokens.nth(4).get_attribute("aria-label")
    first, second = re.findall(r"\d+\.\d\d", name)[-2:]
    assert output.locator(".word tbody tr").first.inner_text().split() == ["nats", first, second]
    assert book.problems() == []


@chosen("06_infer")
def test_the_quiz_answers_to_mouse_and_keyboard(book):
    output = book.cell("quiz(key)")
    score = output.get_by_role("button", name="Score")
    letters = output.get_by_role("button", name="A", exact=True)
    letters.first.click()
    before = output.inner_text()
    score.click()
    book.wait_for_change(output, before)
    assert f"{letters.count() - 1} to go" in output.inner_text()
    for number in range(letters.count()):
        letters.nth(number).focus()
        book.page.keyboard.press("Enter")
    before = output.inner_text()
    score.focus()
    book.page.keyboard.press("Enter")
    book.wait_for_change(output, before)
    assert re.search(rf"\d+ of {letters.count()} right", output.inner_text())


@chosen("06_infer")
def test_the_playground_writes(book):
    output = book.cell("playground(models")
    before = output.inner_text()
    output.get_by_role("button", name="Continue").click()
    book.wait_for_change(output, before)
    output.get_by_text("fine-tuned", exact=True).wait_for()
    assert book.problems() == []


def test_opened_again_it_shows_what_was_saved(book, lab, screenshots):
    pictures = book.page.locator(PICTURE).count()
    saved = nbformat.read(book.save(), as_version=4)
    assert all(cell.execution_count for cell in saved.cells if cell.cell_type == "code")
    lab.end_kernels()
    lab.theme("dark")
    book.open()
    assert book.problems() == []
    assert book.page.locator(PICTURE).count() == pictures
    book.screenshot(screenshots, "dark", PICTURE)


@pytest.mark.parametrize("name", ["00_idea", "03_chunk", "05_evaluate", "06_infer"])
def test_before_anything_is_run_still_pictures_are_shown(name, lab, context, screenshots):
    """JupyterLab trusts no notebook that came with its outputs: it shows no SVG, runs no script."""
    path = lab.folder / "as they came" / f"{name}.ipynb"
    path.parent.mkdir(exist_ok=True)
    shutil.copyfile(NOTEBOOKS[name], path)
    lab.theme("dark")
    book = Book(lab, context, path.relative_to(lab.folder).as_posix())
    assert book.problems() == []
    assert book.page.locator(".jp-OutputArea-output svg").count() == 0
    stills = book.page.locator(".jp-OutputArea-output :is(img, .still)")
    assert stills.count()
    for still in stills.all():
        still.scroll_into_view_if_needed()
        assert still.bounding_box()["height"] > 20
    book.screenshot(screenshots, "as it came", ".jp-OutputArea-output :is(img, .still)")
    book.close()


def test_an_interrupted_training_goes_on(lab, context):
    run = lab.folder / "interrupted"
    shutil.copytree(lab.folder / "run", run, ignore=shutil.ignore_patterns("0[456]*", "*.lock"))
    book = open_book(lab, context, "04_train", run, num_train_epochs=1.0)
    book.interrupt("trainer.train()")
    shown = book.cell("trainer.train()")
    saved = re.search(r"saved at step (\d+)", shown.text_content())
    assert saved, shown.text_content()
    reached = int(saved[1])
    assert reached > 0
    wait = book.start_cell("trainer.train()")
    shown.get_by_text(re.compile(rf"oing on from step {reached:,}\b")).wait_for()
    wait()
    book.run_below("losses_of(trainer.state")
    assert book.problems() == []
    assert Run(run).record("train")
    book.close()


def test_the_report_of_the_run(lab, findings):
    assert findings(write_report(Run(lab.folder / "run"))) == []
