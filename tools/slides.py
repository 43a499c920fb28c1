"""Write build/slides.html from workshop/slides.md and the notebooks' outputs: `make slides`.

The slides are one file that needs no network. In slides.md, `{{ output("03", "Heading", 1) }}` is
the second output under that heading of notebook 03, and `{{ number("00", "with (.+) choices") }}`
is what the brackets hold in its printed text.
"""

import html
import re
import sys
import textwrap
from functools import partial
from pathlib import Path

import mistune
import nbformat
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from helpers.engine.page import still_part
from helpers.errors import UserError
from helpers.hub.sources import PROJECT
from helpers.runs.folder import hash_of
from helpers.runs.notebook import FOLDER
from helpers.runs.rendering import write_text

SOURCE, PAGE = PROJECT / "workshop" / "slides.md", PROJECT / "build" / "slides.html"
TEMPLATE = Path(__file__).with_name("slides.html.j2")
NOTES = "\nNotes: "


def outputs(folder: Path, notebook: str, heading: str | None = None) -> list[dict]:
    """The outputs of a notebook, of one part or of all, in order."""
    (path,) = folder.glob(f"{notebook}_*.ipynb")
    found, part = [], None
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            part = (re.findall(r"^## (.+)$", cell.source, re.M) or [part])[-1]
        elif heading in (None, part):
            found += [o for o in cell.outputs if o.output_type != "error"]
    return found


def output(folder: Path, notebook: str, heading: str, place: int = 0) -> Markup:
    """One output of a part of a notebook, as HTML: a picture, a table, or text.

    Raises:
        UserError: the notebook has no such output.
    """
    found = outputs(folder, notebook, heading)
    if place >= len(found):
        raise UserError(
            f"Notebook {notebook} has {len(found)} outputs under {heading!r}, and output {place} "
            "is in slides.md: run `make notebooks`, or change that number."
        )
    data = found[place].get("data", {})
    page = still_part("".join(data.get("text/html", "")))
    drawing = re.search(r"<svg.*</svg>", page, re.S)
    text = found[place].get("text") or "".join(data.get("text/plain", ""))
    plain = textwrap.dedent(text).rstrip()
    shown = drawing[0] if drawing else page or f"<pre>{html.escape(plain)}</pre>"
    name = f"{notebook}-{hash_of([heading, place])[:8]}-"  # ids of two pictures may be the same
    shown = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}", shown)
    return Markup(f'<div class="output">{shown}</div>'.replace("\n", "&#10;"))


def number(folder: Path, notebook: str, pattern: str) -> str:
    """What the first group of a pattern finds in a notebook's printed text.

    Raises:
        UserError: it finds nothing.
    """
    text = "".join(o.get("text", "") for o in outputs(folder, notebook))
    found = re.search(pattern, text)
    if not found:
        raise UserError(f"Notebook {notebook} prints nothing like {pattern!r}: `make notebooks`.")
    return found[1]


def read_slides(source: str, folder: Path = FOLDER) -> list[dict[str, str]]:
    """The slides of a text: title, body and notes of each, as HTML."""
    tools = {f.__name__: partial(f, folder) for f in (output, number)}
    environment = Environment(undefined=StrictUndefined)
    markdown = mistune.create_markdown(escape=False, plugins=["table"])
    slides = []
    for part in re.split(r"^(?=## )", source, flags=re.M)[1:]:
        title, _, rest = part.partition("\n")
        body, _, notes = environment.from_string(rest).render(tools).partition(NOTES)
        found = {"body": markdown(body), "notes": markdown(notes)}
        slides.append({"title": title.removeprefix("## "), **found})
    return slides


def build(source: str, folder: Path = FOLDER) -> str:
    """The page of all slides."""
    title = re.search(r"^# (.+)$", source, re.M)[1]
    environment = Environment(autoescape=False, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(title=title, slides=read_slides(source, folder))


def main() -> None:
    """Write the page; exit with a sentence if an output is missing."""
    try:
        page = build(SOURCE.read_text(encoding="utf-8"))
    except UserError as error:
        sys.exit(str(error))
    PAGE.parent.mkdir(exist_ok=True)
    write_text(PAGE, page)
    print(f"{PAGE.relative_to(PROJECT)}: {page.count('<section')} slides, {len(page) // 1000} KB")


if __name__ == "__main__":
    main()
