"""The committed notebooks are clean and without problems, and each kind of problem is found."""

import copy
import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from helpers.runs.parameters import STEPS
from tools.notebooks import NOTEBOOKS, clean, problems


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_committed_notebook_has_no_problem_and_is_clean(path):
    assert problems(path) == []
    notebook = nbformat.read(path, as_version=4)
    assert clean(copy.deepcopy(notebook)) == notebook


PARAMETERS = new_code_cell("a: int = 1", execution_count=1, metadata={"tags": ["parameters"]})


WRITTEN = {"tags": ["written-out"]}
FLAWS = {
    "tagged 'parameters'": [new_code_cell("1", execution_count=1)],
    "median": [PARAMETERS, *(new_code_cell("1\n" * 9, execution_count=n) for n in (2, 3))],
    "defines f, and is tagged neither": [
        PARAMETERS,
        new_code_cell("if True:\n    def f(): pass", execution_count=2),
    ],
    "defines f, which the next code cell does not compare": [
        PARAMETERS,
        new_code_cell("def f(): pass", execution_count=2, metadata=WRITTEN),
        new_code_cell("of(f1)", execution_count=3),
    ],
    "defines f in 16 lines": [
        PARAMETERS,
        new_code_cell("def f():" + "\n    1" * 15, execution_count=2, metadata=WRITTEN),
        new_code_cell("f() == 1", execution_count=3),
    ],
    "from top to bottom": [PARAMETERS, new_code_cell("1", execution_count=7)],
    "depends on the machine": [
        PARAMETERS,
        new_code_cell(
            "1", execution_count=2, outputs=[new_output("stream", text="in /home/someone/x")]
        ),
    ],
    "a figure without alt text": [
        PARAMETERS,
        new_code_cell(
            "1",
            execution_count=2,
            outputs=[new_output("display_data", {"text/html": '<svg role="img" width="9">'})],
        ),
    ],
    "an image without alt text": [
        PARAMETERS,
        new_code_cell(
            "1", execution_count=2, outputs=[new_output("display_data", {"image/png": "aGk="})]
        ),
    ],
    "ends with an error": [
        PARAMETERS,
        new_code_cell(
            "1",
            execution_count=2,
            outputs=[new_output("error", ename="E", evalue="e", traceback=[])],
        ),
    ],
    "stderr": [
        PARAMETERS,
        new_code_cell(
            "1", execution_count=2, outputs=[new_output("stream", name="stderr", text="w")]
        ),
    ],
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_flaw_is_found(tmp_path, flaw):
    nbformat.write(new_notebook(cells=FLAWS[flaw]), tmp_path / "flawed.ipynb")
    found = problems(tmp_path / "flawed.ipynb")
    assert len(found) == 1 and flaw in found[0]


# The notebooks that keep the rules below: those of the steps, and further ones as they do.
RULED = [path for path in NOTEBOOKS if path.stem[3:] in STEPS]
by_name = pytest.mark.parametrize("path", RULED, ids=lambda path: path.stem)


def paragraphs_of(cells):
    """The paragraphs, list items and quotes of the prose, as plain words."""
    for cell in cells:
        if cell.cell_type == "markdown":
            for part in re.split(r"\n\s*\n|\n(?=\s*(?:[-*>|]|\d+\.) )", cell.source):
                if not re.match(r"\s*(#|\||```)", part):
                    yield re.sub(r"\]\([^)]*\)|^\s*(?:[->]|\d+\.) ", "", part)


def sentences_of(paragraph):
    return re.split(r"(?<=[.!?])[)*”]*\s+(?=[(*“`\[]*[A-Z0-9`])", paragraph)


@by_name
def test_sentences_have_30_words_and_paragraphs_90(path):
    for paragraph in paragraphs_of(nbformat.read(path, as_version=4).cells):
        assert len(paragraph.split()) <= 90, paragraph
        for sentence in sentences_of(paragraph):
            assert len(sentence.split()) <= 30, sentence


def test_sentences_and_paragraphs_are_found():
    text = "# A\n\nOne two. `three` (four. Five)\n\n- [six](x.md#y)\n- seven\n\n> **Eight.** Nine"
    found = list(paragraphs_of([new_markdown_cell(text)]))
    assert found == ["One two. `three` (four. Five)", "[six", "seven", "**Eight.** Nine"]
    assert sentences_of(found[0]) == ["One two.", "`three` (four.", "Five)"]
    assert sentences_of(found[3]) == ["**Eight.", "Nine"]


@by_name
def test_tables_have_at_most_seven_columns(path):
    for cell in nbformat.read(path, as_version=4).cells:
        rows = [line for line in cell.source.splitlines() if line.startswith("|")]
        assert all(row.count("|") - 1 <= 7 for row in rows), cell.source
        for output in cell.get("outputs", []):
            page = "".join(output.get("data", {}).get("text/html", ""))
            assert all(row.count("<th") <= 8 for row in page.split("</tr>")), page[:300]


@by_name
def test_the_few_parameters_that_a_learner_changes_come_first(path):
    lines = nbformat.read(path, as_version=4).cells[1].source.splitlines()
    [rest] = [number for number, line in enumerate(lines) if line.startswith("# The rest")]
    assert lines[0].startswith("run_dir") and 2 <= rest <= 7 and rest < len(lines) - 1


def test_cleaning_takes_away_what_an_execution_leaves():
    widget = new_output(
        "display_data", {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "Box()"}
    )
    kept = new_output("execute_result", {"text/plain": "1"}, execution_count=9)
    cells = [
        new_code_cell("a = 2", metadata={"tags": ["injected-parameters"]}),
        new_code_cell(
            "a",
            execution_count=9,
            outputs=[kept, widget, new_output("stream", name="stderr", text="w")],
        ),
        new_markdown_cell("b", metadata={"papermill": {"duration": 1}}),
    ]
    notebook = clean(new_notebook(cells=cells, metadata={"papermill": {"input_path": "here"}}))
    assert [c.source for c in notebook.cells] == ["a", "b"]
    assert [o.data for o in notebook.cells[0].outputs] == [{"text/plain": "1"}]
    assert notebook.cells[0].outputs[0].execution_count == notebook.cells[0].execution_count == 1
    assert "papermill" not in nbformat.writes(notebook)


def test_cleaning_joins_what_was_printed_in_pieces():
    """However prints are cut on their way to the notebook, the committed file is the same."""
    texts = ("a\n", "b\n", None, "a\n", "b\n")
    display = new_output("display_data", {"text/plain": "1"})
    cell = new_code_cell(
        "1", outputs=[new_output("stream", text=text) if text else display for text in texts]
    )
    outputs = clean(new_notebook(cells=[cell])).cells[0].outputs
    assert [o.get("text") for o in outputs] == ["a\nb\n", None, "a\nb\n"]
