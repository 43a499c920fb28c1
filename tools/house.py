"""Draw the house: `python -m tools.house` reads the package's imports, writes docs/house.svg."""

import ast
import re
from html import escape
from pathlib import Path

PROJECT = Path(__file__).parent.parent
PACKAGE = PROJECT / "helpers"
WINGS = ("engine", "hub", "runs", "workshop")
LESSONS = [  # in reading order: each may import those before it
    "errors",
    "data",
    "splitting",
    "tokenization",
    "packing",
    "chunking",
    "collation",
    "models",
    "scoring",
    "perplexity",
    "generation",
    "training",
    "figures",
    "widgets",
]
LINE, PAD, WIDTH, GAP = 19, 14, 600, 70  # pixels
LONGEST = 68  # characters about a module
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328; }
.name { font-family: ui-monospace, monospace; }
.title { font-weight: 600; font-size: 15px; } .about { fill: #59636e; }
rect { fill: #f6f8fa; stroke: #59636e; } path { stroke: #0072b2; fill: none; stroke-width: 2; }
marker path { fill: #0072b2; stroke: none; } .arrow { fill: #0072b2; font-size: 12px; }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc; } .about { fill: #9198a1; } rect { fill: #151b23; stroke: #9198a1; }
  path { stroke: #56b4e9; } marker path, .arrow { fill: #56b4e9; }
}
"""


def modules_of(folder: Path) -> list[Path]:
    """The modules directly in a folder, without the package's own files."""
    return sorted(p for p in folder.glob("*.py") if not p.name.startswith("__"))


def about(path: Path) -> str:
    """The first line of a module's docstring; of a long one, the last details are left out."""
    text = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]
    text = text.rstrip(".").replace("`", "")
    while len(text) > LONGEST and (parts := re.split(r"([:;,] )", text))[1:]:
        text = "".join(parts[:-2])
    return text


def imported(path: Path) -> set[Path]:
    """The modules of the package that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("helpers"):
            inside = PACKAGE.joinpath(*node.module.split(".")[1:])
            found |= {inside.with_suffix(".py")} | {inside / f"{a.name}.py" for a in node.names}
    return {p for p in found if p.exists()}


def box(x: float, y: float, title: str, note: str, paths: list[Path]) -> tuple[str, float]:
    """A wing with its modules, and its height."""
    height = 2 * PAD + LINE * (1 + len(paths))
    parts = [f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{height}" rx="6"/>']
    line = y + PAD + 12
    parts.append(f'<text x="{x + PAD}" y="{line}"><tspan class="title name">{title}</tspan>')
    parts.append(f'<tspan class="about" dx="8">{escape(note)}</tspan></text>')
    for path in paths:
        line += LINE
        parts.append(
            f'<text x="{x + PAD}" y="{line}"><tspan class="name">{path.name}</tspan></text>'
        )
        parts.append(
            f'<text class="about" x="{x + PAD + 130}" y="{line}">{escape(about(path))}</text>'
        )
    return "".join(parts), height


def draw() -> str:
    """The picture: who imports whom, and what lies where."""
    lessons = [PACKAGE / f"{name}.py" for name in LESSONS]
    wings = {wing: modules_of(PACKAGE / wing) for wing in WINGS}
    notebooks = sorted((PROJECT / "notebooks").glob("[0-9]*.ipynb"))
    right = WIDTH + GAP
    top = f"{' '.join(n.stem for n in notebooks)}"
    parts, y = [], 0.0
    first, height = box(0, y, "notebooks/", top, [])
    parts.append(first)
    y += height + GAP / 1.6
    body, lessons_height = box(0, y, "helpers/", "the lessons, in reading order", lessons)
    parts.append(body)
    places, edge, first_edge = {}, y, y
    for wing in ("engine", "hub"):
        drawn, height = box(
            right, edge, f"helpers/{wing}/", about(PACKAGE / wing / "__init__.py"), wings[wing]
        )
        parts.append(drawn)
        places[wing] = (edge, height)
        edge += height + 24
    y = max(y + lessons_height, edge - 24) + GAP / 1.6
    for column, wing in ((0, "runs"), (right, "workshop")):
        drawn, height = box(
            column, y, f"helpers/{wing}/", about(PACKAGE / wing / "__init__.py"), wings[wing]
        )
        parts.append(drawn)
        places[wing] = (y, height)
    head = 2 * PAD + LINE
    arrows = [f"M {WIDTH / 2} {head} V {head + GAP / 1.6 - 3}"]
    for wing in ("engine", "hub"):
        if any(imported(m) & set(wings[wing]) for m in lessons):
            middle = places[wing][0] + places[wing][1] / 2
            leave = min(middle, first_edge + lessons_height - 30)
            arrows.append(f"M {WIDTH} {leave} h {GAP / 2} V {middle} H {right - 3}")
    arrows.append(f"M {WIDTH / 2} {y} V {head + GAP / 1.6 + lessons_height + 3}")
    arrows.append(f"M {right + WIDTH / 2} {y} V {edge - 24 + 3}")
    parts += [f'<path d="{d}" marker-end="url(#tip)"/>' for d in arrows]
    parts.append(
        f'<text class="arrow" x="{WIDTH / 2 + 10}" y="{head + GAP / 3.2 + 4}">import</text>'
    )
    total = y + max(places["runs"][1], places["workshop"][1])
    marker = (
        '<marker id="tip" markerWidth="8" markerHeight="8" refX="6" refY="4" '
        'orient="auto"><path d="M0 0 L8 4 L0 8 z"/></marker>'
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="-2 -2 {right + WIDTH + 4} {total + 4}" role="img" '
        'aria-label="The parts of the project and which of them imports which.">'
        f"<style>{STYLE}</style>"
        f"<defs>{marker}</defs>{''.join(parts)}</svg>\n"
    )


if __name__ == "__main__":
    (PROJECT / "docs").mkdir(exist_ok=True)
    (PROJECT / "docs" / "house.svg").write_text(draw(), encoding="utf-8")
