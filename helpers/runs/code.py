"""What code a step executes, as a hash: the cells of its notebook, and the modules of this package behind them."""

import ast
import hashlib
import json
from pathlib import Path

from helpers.engine.files import once
from helpers.hub.sources import PROJECT
from helpers.runs.parameters import folder_of

PACKAGE = "helpers"
# They keep the records, and cannot change what a step computes.
LEFT_OUT = {PACKAGE, *(f"{PACKAGE}.runs{name}" for name in ("", ".folder", ".code", ".cells"))}


def code_fingerprint(step: str) -> str:
    """A hash of the code that a step executes.

    It covers the code cells of the step's notebook, but for the parameters, which are recorded by
    themselves, and every module of this package that these cells import, directly or not, wherever
    in a function the import stands.
    """
    digest, modules, waiting = hashlib.blake2b(digest_size=16), {}, set()
    if (notebook := PROJECT / "notebooks" / f"{folder_of(step)}.ipynb").exists():
        cells, imported = once(_read_notebook, notebook)
        digest.update(cells.encode())
        waiting = _modules(imported, "")
    while waiting:
        name = waiting.pop()
        if name not in modules and name not in LEFT_OUT and (path := _file_of(name)):
            modules[name], imported = once(_read_module, path)
            waiting |= _modules(
                imported, name if path.stem == "__init__" else name.rpartition(".")[0]
            )
    digest.update(json.dumps(sorted(modules.items())).encode())
    return digest.hexdigest()


def _read_notebook(path: Path) -> tuple[str, list]:
    """The cells that count, as text, and what they import."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    texts = [
        "".join(cell["source"])
        for cell in code
        if "parameters" not in cell["metadata"].get("tags", [])
    ]
    return json.dumps(texts), [one for text in texts for one in _imports(text)]


def _read_module(path: Path) -> tuple[str, list]:
    """A hash of a module, and what it imports."""
    content = path.read_bytes()
    return hashlib.blake2b(content, digest_size=16).hexdigest(), _imports(content.decode())


def _imports(text: str) -> list[tuple[int, str, tuple[str, ...]]]:
    """The import statements of some code: the dots that they begin with, the module, the names."""
    try:
        tree = ast.parse(text)
    except SyntaxError:  # a cell with a line of IPython's, such as %time
        from IPython.core.inputtransformer2 import TransformerManager

        try:
            tree = ast.parse(TransformerManager().transform_cell(text))
        except SyntaxError:
            return []
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(0, alias.name, ("*",)) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or "", tuple(a.name for a in node.names)))
    return found


def _modules(imports: list[tuple[int, str, tuple[str, ...]]], package: str) -> set[str]:
    """The modules of this package that imports in `package` may load; some of the names are none."""
    found: set[str] = set()
    for level, module, names in imports:
        if level:
            above = package.split(".")[: package.count(".") + 2 - level]
            module = ".".join([*above, module]).strip(".")
        parts = module.split(".")
        if parts[0] == PACKAGE:
            found |= {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
            found |= {f"{module}.{name}" for name in names}
    return found


def _file_of(module: str) -> Path | None:
    path = PROJECT / module.replace(".", "/")
    found = [p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()]
    return found[0] if found else None
