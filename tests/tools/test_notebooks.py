"""The committed notebooks are clean and without problems, and each kind of problem is found."""

import copy

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools.notebooks import NOTEBOOKS, clean, problems


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_committed_notebook_has_no_problem_and_is_clean(path):
    assert problems(path) == []
    notebook = nbformat.read(path, as_version=4)
    assert clean(copy.deepcopy(notebook)) == notebook


PARAMETERS = new_code_cell("a: int = 1", execution_count=1, metadata={"tags": ["parameters"]})


FLAWS = {
    "tagged 'parameters'": [new_code_cell("1", execution_count=1)],
    "median": [PARAMETERS, *(new_code_cell("1\n" * 9, execution_count=n) for n in (2, 3))],
    "defines something": [PARAMETERS, new_code_cell("def f(): pass", execution_count=2)],
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
