"""Make the notebooks of exercises from those of solutions: `make exercises`.

The cells of a solutions notebook are tagged `exercise` (kept), `solution` (left out, but for the
names that the check needs) and `check` (kept, with a cell for the hints after it). Of a solution
with a part between `# solution: …` and `# end`, only that part is left out, and … put in its place.
"""

import ast
import re

import nbformat
from nbformat import NotebookNode

from helpers.hub.sources import PROJECT
from tools.notebooks import METADATA

SOLUTIONS, EXERCISES = (PROJECT / "workshop" / name for name in ("solutions", "exercises"))
HIDDEN = re.compile(r"^( *)# solution: (.*)\n(?:.*\n)*?\1# end$", re.M)


def make(solutions: NotebookNode) -> NotebookNode:
    """The notebook of exercises that a notebook of solutions gives."""
    notebook = nbformat.v4.new_notebook(metadata=METADATA)

    def add(kind: str, source: str, tags: list[str]) -> None:
        make_cell = {"code": nbformat.v4.new_code_cell, "markdown": nbformat.v4.new_markdown_cell}
        metadata = {"tags": tags} if tags else {}
        name = f"cell-{len(notebook.cells):02d}"
        notebook.cells.append(make_cell[kind](source, id=name, metadata=metadata))

    for number, cell in enumerate(solutions.cells):
        tags, source = cell.metadata.get("tags", []), cell.source
        if "solution" in tags:
            source = _stub(source, _next_check(solutions.cells[number:]))
        add(cell.cell_type, source, tags)
        if "check" in tags:
            asked = re.search(r'check\("([\d.]+)"', source)[1]
            add("code", f'# hint("{asked}")', ["hint"])
    return notebook


def _next_check(cells: list[NotebookNode]) -> str:
    return next(cell.source for cell in cells if "check" in cell.metadata.get("tags", []))


def _stub(solution: str, check: str) -> str:
    """What is left of a solution: the functions and names that its check uses, without content."""
    if HIDDEN.search(solution):
        return HIDDEN.sub(r"\1\2", solution)
    used = {node.id for node in ast.walk(ast.parse(check)) if isinstance(node, ast.Name)}
    lines, kept = solution.splitlines(), []
    for node in ast.parse(solution).body:
        if isinstance(node, ast.FunctionDef) and node.name in used:
            first = node.body[0]
            described = ast.get_docstring(node) is not None
            end = first.end_lineno if described else first.lineno - 1
            kept.append("\n".join([*lines[node.lineno - 1 : end], "    return ..."]))
        elif isinstance(node, ast.Assign) and {n.id for n in node.targets} & used:
            kept.append(f"{node.targets[0].id} = ...")
    return "\n\n\n".join(kept)


def text_of(notebook: NotebookNode) -> str:
    """A notebook as it is written: the same each time."""
    return nbformat.writes(notebook, version=4, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write every notebook of exercises; one whose solutions are gone is removed."""
    EXERCISES.mkdir(exist_ok=True)
    sources = {path.name: path for path in sorted(SOLUTIONS.glob("*.ipynb"))}
    for name, path in sources.items():
        text = text_of(make(nbformat.read(path, as_version=4)))
        (EXERCISES / name).write_text(text, encoding="utf-8", newline="\n")
        print(f"workshop/exercises/{name}")
    for path in EXERCISES.glob("*.ipynb"):
        if path.name not in sources:
            path.unlink()


if __name__ == "__main__":
    main()
