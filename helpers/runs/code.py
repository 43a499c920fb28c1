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
        queue = _modules(imports, "")
    while queue:
        name = queue.pop()
        if name not in modules and name not in LEFT_OUT and (path := _file_of(name)):
            modules[name], imports = once(_read_module, path)
            package = name if path.stem == "__init__" else name.rpartition(".")[0]
            queue |= _modules(imports, package)
    digest.update(json.dumps(sorted(modules.items())).encode())
    return digest.hexdigest()


def _read_notebook(path: Path) -> tuple[str, list]:
    """The code cells but the parameters, as JSON, and their imports."""
    sources = [
        "".join(cell["source"])
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "code" and "parameters" not in cell["metadata"].get("tags", [])
    ]
    return json.dumps(sources), [found for source in sources for found in _imports(source)]


def _read_module(path: Path) -> tuple[str, list]:
    """A hash of a module, and its imports."""
    content = path.read_bytes()
    return hashlib.blake2b(content, digest_size=16).hexdigest(), _imports(content.decode())


def _imports(text: str) -> list[tuple[int, str, tuple[str, ...]]]:
    """The imports in some code: the number of leading dots, the module, the names."""
    try:
        tree = ast.parse(text)
    except SyntaxError:  # a cell with IPython syntax, such as %time
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
    """What imports in `package` may load: modules of this package, and names that may be ones."""
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
