"""Figures of matplotlib as SVG, and texts in boxes, in the colours of the page around them.

What matplotlib draws in black gets the colour of the page's text, so that a figure can be read on
white and on the dark theme of JupyterLab. The same figure gives the same text on every machine.
"""

import base64
import html
import io
import re
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIDDLE = "#7a7a7a"  # a grey with a contrast of 4.2 or more on white and on JupyterLab's #111
NO_MATHEMATICS = "mathjax_ignore"  # the class of what holds no formulas, whatever its dollars
# JupyterLab removes SVG and styles from notebooks that were not run on the machine. Then the first
# element stays hidden, and the image, in grey, takes its place.
STYLE = "<style>.inline-figure{display:block!important}.inline-figure+img{display:none}</style>"


def svg(figure: "Figure", alt: str) -> str:
    """The figure as an `<svg>` element with a text alternative, on a transparent ground."""
    import matplotlib

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    settings = {"svg.fonttype": "none", "svg.hashsalt": "figure"}
    with warnings.catch_warnings(), matplotlib.rc_context(settings):
        warnings.filterwarnings("ignore", "Glyph .* missing")  # browsers have more fonts
        figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    body = re.search(r"<svg.*?>(.*)</svg>", buffer.getvalue(), re.S)[1]
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.S)
    used = set(re.findall(r"#(\w+)", body))
    body = re.sub(r"<[^>]+>", lambda tag: _shorter(tag[0], used), body)
    body = re.sub(r">\s+<", "><", body).strip()
    width, height = (round(72 * size) for size in figure.get_size_inches())
    return (
        f'<svg role="img" aria-label="{html.escape(alt)}" viewBox="0 0 {width} {height}" '
        f'width="{width * 4 // 3}" style="max-width: 100%; height: auto" fill="currentColor" '
        f'stroke-linejoin="round" xmlns="http://www.w3.org/2000/svg" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink">{body}</svg>'
    )


def _shorter(tag: str, used: set[str]) -> str:
    """A tag without line breaks, ids that nothing refers to, and digits that nobody sees."""
    tag = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", tag)
    tag = re.sub(r' transform="rotate\(-0 [^"]*"', "", tag)
    tag = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", tag)
    tag = re.sub(r"(\d\.\d\d)\d+", r"\1", tag)
    return re.sub(r"\s+", " ", tag).replace("#000000", "currentColor")


def in_notebook(drawing: str, alt: str) -> str:
    """HTML for an SVG that shows a grey image of it where a notebook may show no SVG."""
    still = base64.b64encode(drawing.replace("currentColor", MIDDLE).encode()).decode()
    image = f'<img alt="{html.escape(alt)}" src="data:image/svg+xml;base64,{still}">'
    ignored = f"inline-figure {NO_MATHEMATICS}"
    return f'{STYLE}<div class="{ignored}" style="display:none">{drawing}</div>{image}'


def in_file(drawing: str) -> str:
    """The SVG as a file, black on a light page and white on a dark one."""
    style = "svg{color:#1f2328}@media(prefers-color-scheme:dark){svg{color:#f0f6fc}}"
    head, _, rest = drawing.partition(">")
    return f"{head}><style>{style}</style>{rest}\n"


def box(text: str, label: str, colour: str) -> str:
    """HTML for a text in a frame, with a label under it."""
    outer = "display:inline-block;text-align:center;vertical-align:top;margin:2px"
    inner = f"display:block;padding:2px 4px;border:2px solid {colour};font-family:monospace"
    return (
        f'<span style="{outer}"><span style="{inner}">{html.escape(text)}</span>'
        f"<small>{html.escape(label)}</small></span>"
    )


def shaded(word: str, nats: float, strongest: float) -> str:
    """HTML for a word on blue, through which the page shows, so that its text can be read."""
    share = 0.8 * min(nats / strongest, 1.0)
    style = f"background:rgba(0,114,178,{share:.2f})"
    return f'<span title="{nats:.1f} nats" style="{style}">{html.escape(word)}</span>'


def logarithmic(ax: object, x: list[float]) -> None:
    """Make the x axis logarithmic, with the values as ticks, except those that would overlap."""
    ticks: list[float] = []
    apart = max(1.25, (max(x) / min(x)) ** 0.1)
    for value in sorted(x):
        if not ticks or value >= apart * ticks[-1]:
            ticks.append(value)
    ax.set_xscale("log")
    ax.set_xticks(ticks, [f"{value:.3g}" for value in ticks], minor=False)
    ax.set_xticks([], minor=True)
