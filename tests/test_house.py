"""The rules of the house: who may import whom, how large a file may be, what importing costs."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests import PROJECT
from tools.house import LESSONS, draw

PACKAGE = PROJECT / "helpers"
WINGS = {"engine", "hub", "runs", "workshop", "assets"}
# These subclass a class of torch or transformers, so they import it.
SUBCLASSES = {"training", "engine.trainer", "engine.linear_loss", "engine.watch"}


@cache
def modules() -> dict[str, Path]:
    """Every module of the package but its assets' recipes, by its name inside `helpers`."""
    paths = [p for p in PACKAGE.rglob("*.py") if p.relative_to(PACKAGE).parts[0] != "assets"]
    names = (".".join(p.relative_to(PACKAGE).with_suffix("").parts) for p in paths)
    return dict(zip((n.removesuffix(".__init__") for n in names), paths, strict=True))


def imports_of(path: Path) -> list[tuple[str, str]]:
    """What a file imports of the package: (module in `helpers`, name), '' for a whole module."""
    known, found = modules(), []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [
                (a.name, "") for a in node.names if a.name.split(".")[0] in ("helpers", "tools")
            ]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in (
            "helpers",
            "tools",
        ):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}".removeprefix("helpers.")
                found.append((inner, "") if inner in known else (node.module, alias.name))
        elif isinstance(node, ast.ImportFrom) and node.level:
            found.append(("a relative import", ""))
    return [(module.removeprefix("helpers."), name) for module, name in found]


@cache
def edges() -> list[tuple[str, str, str]]:
    """(importing module, imported module, name) for the whole package."""
    return [(m, module, name) for m, path in modules().items() for module, name in imports_of(path)]


def wing(module: str) -> str:
    """`engine`, `hub`, … for what lies in a wing, `lessons` for the modules beside the wings."""
    first = module.split(".")[0]
    return first if first in WINGS else "lessons"


def test_every_lesson_has_its_place_in_the_order():
    direct = {n for n in modules() if wing(n) == "lessons"} - {"__init__", "__main__"}
    assert direct == set(LESSONS)


def test_lessons_import_earlier_lessons_engine_and_one_function_of_hub():
    wrong, from_hub = [], set()
    for importer, imported, name in edges():
        if wing(importer) != "lessons" or importer == "__main__":
            continue
        if wing(imported) == "hub":
            from_hub.add((imported, name))
        elif wing(imported) == "lessons":
            if LESSONS.index(imported) >= LESSONS.index(importer):
                wrong.append((importer, imported))
        elif wing(imported) != "engine":
            wrong.append((importer, imported))
    assert not wrong
    assert len(from_hub) <= 1, from_hub


def test_engine_imports_no_wing_and_hub_imports_errors_alone():
    wrong = [
        (importer, imported)
        for importer, imported, _ in edges()
        if (wing(importer) == "engine" and wing(imported) != "engine" and imported != "errors")
        or (wing(importer) == "hub" and wing(imported) != "hub" and imported != "errors")
    ]
    assert not wrong


def test_nothing_imports_tools_or_what_is_private_elsewhere():
    wrong = [
        (importer, imported, name)
        for importer, imported, name in edges()
        if imported.split(".")[0] == "tools"
        or name.startswith("_")
        or imported == "a relative import"
    ]
    assert not wrong


def test_tests_and_tools_import_nothing_private():
    wrong = [
        (path.name, imported, name)
        for folder in ("tests", "tools")
        for path in (PROJECT / folder).rglob("*.py")
        for imported, name in imports_of(path)
        if name.startswith("_") or imported == "a relative import"
    ]
    assert not wrong


@pytest.mark.parametrize("folder", ["engine", "hub", "runs"])
def test_the_tests_of_a_wing_are_named_after_its_modules(folder):
    tests = {p.stem.removeprefix("test_") for p in (PROJECT / "tests" / folder).glob("test_*.py")}
    assert tests
    assert tests <= {p.stem for p in (PACKAGE / folder).glob("*.py")}


def test_imports_make_no_circle():
    graph: dict[str, set[str]] = {name: set() for name in modules()}
    for importer, imported, _ in edges():
        graph[importer] |= {imported} & graph.keys()
    done: set[str] = set()
    while ready := {n for n, needs in graph.items() if n not in done and needs <= done | {n}}:
        done |= ready
    assert not set(graph) - done, "these import each other"


def test_the_package_itself_defines_nothing():
    body = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body
    assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Assign) for node in body)


def test_files_functions_and_lines_are_short():
    wrong, lessons = [], 0
    for name, path in modules().items():
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines()
        lessons += len(lines) if name in LESSONS else 0
        if len(lines) > 300:
            wrong.append(f"{name}: {len(lines)} lines")
        wrong += [f"{name}:{i}: {len(x)} columns" for i, x in enumerate(lines, 1) if len(x) > 100]
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("__"):
                body = (
                    node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
                )
                size = node.end_lineno - body[0].lineno + 1
                if size > 50:
                    wrong.append(f"{name}.{node.name}: {size} lines")
    assert not wrong
    assert lessons < 2000


@pytest.mark.parametrize("name", sorted(set(modules()) - {"__main__"}))
def test_importing_loads_neither_torch_nor_transformers(name):
    if name in SUBCLASSES:
        pytest.skip("it subclasses a class of torch or transformers")
    code = f"import helpers.{name}, sys; "
    code += "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    module = code.replace("helpers.__init__", "helpers")
    assert subprocess.run([sys.executable, "-c", module], cwd=PROJECT).returncode == 0


def test_the_picture_of_the_house_is_drawn_from_it():
    assert (PROJECT / "docs" / "house.svg").read_text(encoding="utf-8") == draw()
