"""The code that a step executes, as a hash: its notebook's cells, and the modules they import."""

import ast
import hashlib
import json
from pathlib import Path

from helpers.engine.files import once
from helpers.hub.sources import PROJECT
from helpers.runs.parameters import folder_of

PACKAGE = "helpers"
# These keep the records, and cannot change what a step computes.
KEEPERS = ("", ".folder", ".step", ".code", ".cells")
LEFT_OUT = {PACKAGE, *(f"{PACKAGE}.runs{name}" for name in KEEPERS)}


def code_fingerprint(step: str) -> str:
    """A hash of the code that a step executes.

    It covers the code cells of the step's notebook without the parameters, which are recorded
    separately, and every module of this package that these cells import, directly or not, also
    inside functions.
    """
    digest, modules, queue = hashlib.blake2b(digest_size=16), {}, set()
    if (notebook := PROJECT / "notebooks" / f"{folder_of(step)}.ipynb").exists():
        cells, imports = once(_read_notebook, notebook)
        digest.update(cells.encode())
        queue |= imports
    while queue:
        name = queue.pop()
        if name not in modules and name not in LEFT_OUT and (path := _file_of(name)):
            modules[name], imports = once(_read_module, path)
            queue |= imports
    digest.update(json.dumps(sorted(modules.items())).encode())
    return digest.hexdigest()


def _read_notebook(path: Path) -> tuple[str, frozenset[str]]:
    """The code cells but the parameters, as JSON, and what they may import."""
    sources = [
        "".join(cell["source"])
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "code" and "parameters" not in cell["metadata"].get("tags", [])
    ]
    return json.dumps(sources), frozenset().union(*map(_imports, sources))


def _read_module(path: Path) -> tuple[str, frozenset[str]]:
    """A hash of a module, and what it may import."""
    content = path.read_bytes()
    return hashlib.blake2b(content, digest_size=16).hexdigest(), _imports(content.decode())


def _imports(text: str) -> frozenset[str]:
    """What some code imports of this package: modules, and names that may be modules."""
    try:
        tree = ast.parse(text)
    except SyntaxError:  # a cell with IPython syntax, such as %time
        from IPython.core.inputtransformer2 import TransformerManager

        try:
            tree = ast.parse(TransformerManager().transform_cell(text))
        except SyntaxError:
            return frozenset()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    parts = [name.split(".") for name in found if name.split(".")[0] == PACKAGE]
    return frozenset(".".join(p[:n]) for p in parts for n in range(1, len(p) + 1))


def _file_of(module: str) -> Path | None:
    path = PROJECT / module.replace(".", "/")
    found = [p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()]
    return found[0] if found else None
