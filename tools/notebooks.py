"""Execute the notebooks, clean and check them, and write them in place: `make notebooks`.

`python -m tools.notebooks 00_idea` does so for the notebooks that are named.
"""

import ast
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
import papermill
from nbformat import NotebookNode

from helpers.engine.svg import in_file
from helpers.errors import UserError
from helpers.hub.sources import PROJECT
from helpers.runs.notebook import FOLDER, QUIET, execute, path_of
from helpers.runs.parameters import STEPS

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))  # 00_idea, the steps, the appendices
BY_STEP = {path_of(step): step for step in STEPS}

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
MACHINE = re.compile(  # output that depends on the machine: paths, addresses, progress bars
    re.escape(str(PROJECT)) + r"|(?<![\w.:/])/(home|root|tmp|usr|opt|var|mnt|Users)/\w"
    r"|[A-Z]:\\|127\.0\.0\.1|object at 0x|\d+%\|"
)


def clean(notebook: NotebookNode) -> NotebookNode:
    """Keep a notebook's outputs, and remove what execution and the machine have left in it."""
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.cells = [c for c in notebook.cells if "injected-parameters" not in _tags(c)]
    count = 0
    for number, cell in enumerate(notebook.cells):
        tags = _tags(cell)
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        cell.id = f"cell-{number:02d}"
        if cell.cell_type == "code":
            count += 1  # nbval compares no output of a cell without an execution count
            cell.execution_count = count
            cell.outputs = _joined([o for o in cell.outputs if _is_kept(o)])
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = count
    return notebook


def _tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def _is_kept(output: NotebookNode) -> bool:
    if output.output_type == "stream":
        return output.name == "stdout"
    return "application/vnd.jupyter.widget-view+json" not in output.get("data", {})


def _joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Merge adjacent stream outputs: how they were split depends on timing."""
    joined: list[NotebookNode] = []
    for output in outputs:
        if joined and output.output_type == joined[-1].output_type == "stream":
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def problems(path: Path) -> list[str]:
    """The defects of a committed notebook, one line each."""
    cells = nbformat.read(path, as_version=4).cells
    code = [(number, cell) for number, cell in enumerate(cells) if cell.cell_type == "code"]
    found = []
    if sum("parameters" in _tags(cell) for _, cell in code) != 1:
        found.append("not exactly one cell is tagged 'parameters'")
    lengths = sorted(len(cell.source.splitlines()) for _, cell in code)
    if (median := lengths[len(lengths) // 2]) >= 8:
        found.append(f"the median code cell has {median} lines")
    following = [cell.source for _, cell in code[1:]] + [""]
    for count, ((number, cell), after) in enumerate(zip(code, following, strict=True), 1):
        here = [*_cell_problems(cell, count), *_definition_problems(cell, after)]
        found += [f"cell {number} {problem}" for problem in here]
    return found


def _definition_problems(cell: NotebookNode, after: str) -> Iterator[str]:
    """What is wrong with the functions of a cell; `after` is the source of the next code cell."""
    tree = ast.parse(cell.source)
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if not {"written-out", "shown"} & set(_tags(cell)):
            yield f"defines {node.name}, and is tagged neither 'written-out' nor 'shown'"
        elif node in tree.body and not re.search(rf"\b{node.name}\b", after):
            yield f"defines {node.name}, which the next code cell does not compare with anything"
        elif (size := node.end_lineno - node.lineno + 1) > 15:
            yield f"defines {node.name} in {size} lines, at most 15 are read"


def _cell_problems(cell: NotebookNode, count: int) -> Iterator[str]:
    if cell.execution_count != count:
        yield "was not executed in a run from top to bottom"
    for output in cell.outputs:
        data = output.get("data", {})
        text = f"{output.get('text', '')}{ {k: v for k, v in data.items() if 'image' not in k} }"
        if machine := MACHINE.search(text):
            yield f"has an output that depends on the machine: {machine[0]!r}"
        if "image/png" in data and not output.metadata.get("image/png", {}).get("alt"):
            yield "has an image without alt text"
        for tag in re.findall("<(?:svg|img)[^>]*>", data.get("text/html", "")):
            if not re.search(r' (?:role="img" aria-label|alt)="[^"]', tag):
                yield "has a figure without alt text"
        if output.output_type == "error" and "raises-exception" not in _tags(cell):
            yield "ends with an error"
        if output.get("name") == "stderr":
            yield "has output on stderr"


def _write_losses_picture(notebook: NotebookNode) -> None:
    """Write the last picture of the training notebook as the README's."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pages = "".join(output.get("data", {}).get("text/html", "") for output in outputs)
    drawing = re.findall(r"<svg.*?</svg>", pages, re.S)[-1]
    (FOLDER / "losses.svg").write_text(in_file(drawing), encoding="utf-8")


def _execute(path: Path, output: Path) -> None:
    """Execute a notebook from its defaults; a step's in a run folder."""
    if step := BY_STEP.get(path):
        execute(step, output, {})
    else:
        papermill.execute_notebook(
            path, output, kernel_name="python3", progress_bar=False, cwd=PROJECT
        )


def main(names: list[str]) -> None:
    """Execute, clean, check and write notebooks; exit with status 1 if one has a problem.

    Args:
        names: of the notebooks, without their ending; all if there are none.
    """
    os.environ |= QUIET
    chosen = [path for path in NOTEBOOKS if not names or path.stem in names]
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for path in chosen:
            output = Path(folder) / path.name
            try:
                _execute(path, output)
            except (UserError, papermill.PapermillExecutionError) as error:
                sys.exit(f"{path.name}: {error}")
            notebook = clean(nbformat.read(output, as_version=4))
            nbformat.write(notebook, path)
            if BY_STEP.get(path) == "train":
                _write_losses_picture(notebook)
            found = problems(path)
            failed |= bool(found)
            print(f"{path.name}: {'; '.join(found) or 'executed, clean'}")
    sys.exit(failed)


if __name__ == "__main__":
    main(sys.argv[1:])
