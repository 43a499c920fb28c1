"""The experiment board: losses of runs over each other, and the table of them, as HTML."""

import html
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.engine.chart import Axes, Points, picture, round_values, text
from helpers.engine.files import relative
from helpers.engine.svg import in_notebook, logarithmic, svg
from helpers.figures import COLOURS, axes
from helpers.runs.folder import Run
from helpers.runs.rendering import render, write_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

VALIDATION, TEST, SCORED_IN = "validation perplexity", "test perplexity", "scored in"
BITS = "bits per byte"
# the same number of decimals down a column; other numbers have four figures
FORMATS = dict.fromkeys((VALIDATION, TEST, "low", "high"), ".2f")
FORMATS |= {BITS: ".3f", "tokens/s": ",.0f", "minutes": ".1f"}
INTERVAL = "interval"  # the column with a picture of the test perplexity and its interval
DASHES = ("none", "7 3", "2 3")  # of lines that have the same colour
WIDTH, HEIGHT = 760, 270  # of the curves, in pixels


def write_comparison(table: "pd.DataFrame", note: str, path: Path) -> Path:
    """Write the board as a page of its own; RunError where that cannot be written."""
    board = board_html(table, note, path.parent)
    return write_text(path, render("comparison.html.j2", title="Comparison", board=board))


def board_html(table: "pd.DataFrame", note: str, place: Path) -> str:
    """The board as HTML that needs no kernel: a script shows, hides and sorts the runs.

    Args:
        table: What `comparison` returns.
        note: A text above it.
        place: The folder that links to the runs' reports start from.
    """
    from pandas import notna
    from pandas.api.types import is_numeric_dtype

    varied = table.columns[1 : table.columns.get_loc(VALIDATION)]
    figures = [_figure(table, name) for name in varied if is_numeric_dtype(table[name])]
    columns = [INTERVAL if name == "low" else name for name in table.columns if name != "high"]
    ends = table["low"].min(), table["high"].max()
    rows = []
    for number, (folder, row) in enumerate(table.iterrows()):
        report = Path(folder) / "report.html"
        tested = not math.isnan(row[TEST])
        words = f"{row['low']:.2f} to {row['high']:.2f}" if tested else math.nan
        pictures = {"run": _line(number), INTERVAL: _interval(row, *ends) if tested else ""}
        values = row.to_dict() | {INTERVAL: words}
        link = Path(relative(report, place)) if report.exists() else None
        texts = {name: shown(name, value) for name, value in values.items()}
        rows.append({"values": values, "texts": texts, "pictures": pictures, "link": link})
    kept = [name for name in columns if any(notna(row["values"][name]) for row in rows)]
    return render(
        "board.html.j2",
        note=note,
        columns=kept,
        rows=rows,
        curves=_curves([(row["run"], *_losses(Run(folder))) for folder, row in table.iterrows()]),
        figures=figures,
    )


def shown(column: str, value: object) -> str:
    """A value of a column as a table shows it; NaN is empty."""
    if not isinstance(value, float):
        return f"{value:,}" if type(value) is int else "" if value is None else str(value)
    return "" if math.isnan(value) else format(value, FORMATS.get(column, ",.4g"))


def _losses(run: Run) -> tuple[str, Points]:
    """The part that a training was evaluated on, and its losses there as (step, loss)."""
    losses = json.loads((run.path("train") / "losses.json").read_text(encoding="utf-8"))
    key = f"{losses['part']}_loss"
    evaluated = [(entry["step"], entry[key]) for entry in losses["history"] if key in entry]
    return losses["part"], [(0, losses["base_loss"]), *evaluated]


def _style(number: int) -> str:
    """The colour and the dashes of a run's line, as attributes of SVG."""
    rounds, colour = divmod(number, len(COLOURS))
    dashes = DASHES[rounds % len(DASHES)]
    return f'stroke="{COLOURS[colour]}" stroke-dasharray="{dashes}"'


def _line(number: int) -> str:
    """A piece of a run's line, to be known by."""
    return (
        '<svg aria-hidden="true" width="26" height="10"><line x1="1" x2="25" y1="5" y2="5" '
        f'stroke-width="3" {_style(number)}/></svg>'
    )


def _curves(runs: list[tuple[str, str, Points]]) -> str:
    """The losses of runs over the steps, each of a name, a part and points, in a group of SVG."""
    every = [(x, y) for _, _, points in runs for x, y in points if math.isfinite(y)]
    values = round_values(min(y for _, y in every), max(y for _, y in every))
    last = max(x for x, _ in every)
    field = Axes(48, 748, 24, 226, 0, last or 1, values[0], values[-1])
    parts = [field.level(y) + text(42, field.y(y) + 4, f"{y:g}", "end") for y in values]
    steps = [step for step in round_values(0, last) if step <= last]
    parts += [text(field.x(step), 244, f"{step:,g}", "middle") for step in steps]
    for number, (name, _, points) in enumerate(runs):
        colour = COLOURS[number % len(COLOURS)]
        drawn = field.curve(points, colour, 2) + field.dots(points, colour)
        title = f"<title>{html.escape(name)}</title>"
        parts.append(f'<g data-run="{number}" {_style(number)}>{title}{drawn}</g>')
    kinds = {part for _, part, _ in runs}
    name = f"{kinds.pop()} loss" if len(kinds) == 1 else "loss on validation or test"
    parts.append(text(48, 12, f"{name} (nats per token)") + text(748, 262, "step", "end"))
    best = min(runs, key=lambda run: min(y for _, y in run[2]))
    alt = f"{name[0].upper()}{name[1:]} against steps, a line for each of {len(runs)} runs; "
    alt += f"the lowest is {min(y for _, y in best[2]):.2f}, of {best[0]}."
    return in_notebook(picture(parts, alt, WIDTH, HEIGHT), alt)


def _interval(row: "pd.Series", least: float, most: float) -> str:
    """A run's test perplexity as a dot in its interval, on the scale of all runs."""
    field = Axes(6, 94, 2, 14, least, most, 0, 1)
    bar = field.curve([(row["low"], 0.5), (row["high"], 0.5)], "currentColor", 2)
    dot = f'<circle cx="{field.x(row[TEST])}" cy="8" r="4"/>'
    return f'<svg aria-hidden="true" width="100" height="16" fill="currentColor">{bar}{dot}</svg>'


def _figure(table: "pd.DataFrame", name: str) -> str:
    """Perplexity over a parameter, as HTML."""
    by = table.attrs["by"]
    ordered, best = table.sort_values(name), table.iloc[0][name]
    figure = draw_points(ordered[name].tolist(), ordered[by].tolist(), name, by)
    alt = f"{by.capitalize()} against {name}; the best run has {name} = {best}."
    return in_notebook(svg(figure, alt), alt)


def draw_points(x: list[float], y: list[float], xlabel: str, ylabel: str) -> "Figure":
    """Points, over a logarithmic x axis if x is positive and spans a factor of 2 or more."""
    figure, ax = axes()
    ax.plot(x, y, "o", color=COLOURS[0])
    if min(x) > 0 and max(x) >= 2 * min(x):
        logarithmic(ax, x)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    return figure
