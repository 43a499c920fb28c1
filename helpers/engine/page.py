"""Outputs that a reader moves by hand: HTML with its data and a script, which needs no kernel.

They work in JupyterLab, in a page made by nbconvert, and in a file. Where scripts are removed, as
on GitHub and in a notebook that JupyterLab does not trust, a still text or picture remains.
"""

import json
from importlib.resources import files

import numpy as np

from helpers.engine.svg import NO_MATHEMATICS

PAGES = files("helpers.engine") / "pages"
# The script's own element is found while it runs. Lab's shortcuts, arrow keys among them, are for
# the element that has the focus, so they are turned off there.
START = """(() => {{
{code}
const script = document.currentScript, root = script.parentElement;
const data = JSON.parse(script.previousElementSibling.textContent);
root.addEventListener("focusin", ({{ target }}) => target.setAttribute(
  "data-lm-suppress-shortcuts", "true"));
root.querySelector(".still").remove();
show(root, data);
}})();"""


def source(name: str, ending: str) -> str:
    """The common file of an ending, `js` or `css`, and after it the one of a page."""
    found = [PAGES / f"{stem}.{ending}" for stem in ("common", name)]
    return "".join(path.read_text(encoding="utf-8") for path in found if path.is_file())


def page(name: str, data: dict[str, object], still: str) -> str:
    """The HTML of a page.

    Args:
        name: Of the script in `pages/`; its function `show` gets the element and the data.
        data: What the script shows, as JSON.
        still: HTML that stands there where no script runs.
    """
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<div class="by-hand {NO_MATHEMATICS}"><div class="still">{still}</div>'
        f"<style>{source(name, 'css')}</style>"
        f'<script type="application/json">{text}</script>'
        f"<script>{START.format(code=source(name, 'js'))}</script></div>"
    )


def still_part(text: str) -> str:
    """What the HTML of a page shows where no script runs; of other HTML, all of it."""
    return text.partition('<div class="still">')[2].partition("</div><style>")[0] or text


def few_numbers(logits: np.ndarray, single: int = 200, width: float = 0.25) -> dict[str, list]:
    """The greatest logits one by one, and the rest as [value, count] each, equal ones together.

    The size does not grow with the vocabulary. The value of logits that are taken together is that
    which gives them the probability that they have, so that the sum is exact without any knob.

    Args:
        logits: Of all tokens: (vocabulary,).
        width: Within how much of each other logits are taken together.
    """
    ordered = np.sort(logits.astype(float))[::-1]
    rest = ordered[single:]
    floor = rest // width * width
    below, piece, counts = np.unique(-floor, return_inverse=True, return_counts=True)
    values = np.log(np.bincount(piece, np.exp(rest - floor), len(below)) / counts) - below
    pairs = [list(pair) for pair in zip(values.round(3).tolist(), counts.tolist(), strict=True)]
    return {"logits": ordered[:single].round(3).tolist(), "rest": pairs}
