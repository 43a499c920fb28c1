"""A line chart as SVG in a millisecond, for pictures that are drawn again and again.

matplotlib needs a hundred times as long. Text and axes have the colour of the page's text.
"""

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axes:
    """A rectangle of a picture, in pixels from its left and its top, and the values it spans."""

    left: float
    right: float
    top: float
    bottom: float
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        """The pixel of a value on the x axis."""
        share = (value - self.x_low) / ((self.x_high - self.x_low) or 1.0)
        return round(self.left + share * (self.right - self.left), 1)

    def y(self, value: float) -> float:
        """The pixel of a value on the y axis."""
        share = (value - self.y_low) / ((self.y_high - self.y_low) or 1.0)
        return round(self.bottom - share * (self.bottom - self.top), 1)

    def curve(self, points: Points, colour: str, width: float = 1.5) -> str:
        """A line through points; values that are not finite are left out."""
        kept = [(x, y) for x, y in points if math.isfinite(y)]
        places = " ".join(f"{self.x(x)},{self.y(y)}" for x, y in kept)
        style = f'fill="none" stroke="{colour}" stroke-width="{width}" stroke-linejoin="round"'
        return f'<polyline points="{places}" {style}/>'

    def dots(self, points: Points, colour: str) -> str:
        """A dot on each point, with its values as a tooltip."""
        return "".join(
            f'<circle cx="{self.x(x)}" cy="{self.y(y)}" r="4" fill="{colour}">'
            f"<title>step {x:,g}: {y:.3f}</title></circle>"
            for x, y in points
            if math.isfinite(y)
        )

    def upright(self, x: float, dashes: str = "", width: float = 0.5) -> str:
        """A vertical line at a value."""
        place = f'x1="{self.x(x)}" x2="{self.x(x)}" y1="{self.top}" y2="{self.bottom}"'
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        return f'<line {place} stroke="currentColor" stroke-width="{width}"{dashed}/>'

    def level(self, y: float, width: float = 0.25) -> str:
        """A horizontal line at a value."""
        place = f'x1="{self.left}" x2="{self.right}" y1="{self.y(y)}" y2="{self.y(y)}"'
        return f'<line {place} stroke="currentColor" stroke-width="{width}"/>'


def text(x: float, y: float, words: str, anchor: str = "start", colour: str = "") -> str:
    """Words at a pixel, which is their `start`, `middle` or `end`."""
    fill = f' fill="{colour}"' if colour else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{fill}>{html.escape(words)}</text>'


def picture(parts: Iterable[str], alt: str, width: int, height: int) -> str:
    """The `<svg>` element of these parts, with a text alternative."""
    return (
        f'<svg role="img" aria-label="{html.escape(alt)}" viewBox="0 0 {width} {height}" '
        f'width="{width}" style="max-width: 100%; height: auto" fill="currentColor" '
        'font-family="system-ui, sans-serif" font-size="12" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def round_values(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round values, the first at or below `low`, the last at or above `high`.

    >>> round_values(2.93, 4.05)
    [2.5, 3.0, 3.5, 4.0, 4.5]
    >>> round_values(0, 113)
    [0.0, 50.0, 100.0, 150.0]
    """
    rough = max(high - low, 0.05 * abs(high), 1e-6) / count
    size = 10.0 ** math.floor(math.log10(rough))
    step = size * next(factor for factor in (1, 2, 5, 10) if factor * size >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]
