"""Figures for the notebooks and the report, each with alternative text for screen readers."""

import html
import io
import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset
    from IPython.display import HTML, Image
    from matplotlib.figure import Figure
    from transformers import TrainerState

# Okabe and Ito's colours, which colour-blind readers can distinguish
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
GREY = "#999999"


def axes(width: float = 7, height: float = 3) -> tuple["Figure", object]:
    """A figure with one pair of axes and no frame above and to the right; sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=110)
    ax = figure.subplots()
    ax.spines[["top", "right"]].set_visible(False)
    return figure, ax


def png(figure: "Figure") -> bytes:
    """The figure as a PNG file, without anything that depends on the machine."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def picture(figure: "Figure", alt: str) -> "Image":
    """The figure as the output of a notebook cell."""
    from IPython.display import Image

    return Image(png(figure), alt=alt, width=int(figure.get_figwidth() * 100))


def draw_blocks(blocks: "Dataset", block_size: int, count: int = 12) -> "Figure":
    """The first blocks as rows: tokens of one document in one colour, padding in white."""
    rows = blocks[:count]["position_ids"]
    shades = np.ones((len(rows), block_size, 3))
    document, full = -1, False
    for row, positions in enumerate(rows):
        for column, position in enumerate(positions):
            continues = column == 0 and full  # a document may go on after a full block
            document += position == 0 and not continues
            shade = COLOURS[document % len(COLOURS)]
            shades[row, column] = [int(shade[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        full = len(positions) == block_size
    figure, ax = axes(7, 0.6 + 0.2 * len(rows))
    extent = (0, block_size, len(rows) + 0.5, 0.5)
    ax.imshow(shades, aspect="auto", interpolation="nearest", extent=extent)
    ax.hlines(np.arange(1.5, len(rows) + 0.5), 0, block_size, color="white", linewidth=2)
    ax.set(xlabel="token in the block", ylabel="block", yticks=range(1, len(rows) + 1, 2))
    return figure


def losses_of(state: "TrainerState", part: str = "validation") -> list[dict[str, float]]:
    """The losses in the log of a training, in nats per token; `part` is what it was evaluated on.

    >>> from transformers import TrainerState
    >>> losses_of(TrainerState(log_history=[{"step": 9, "epoch": 0.5, "eval_loss": 2.5}]))
    [{'step': 9, 'epoch': 0.5, 'validation_loss': 2.5}]
    """
    losses = []
    for entry in state.log_history:
        place = {"step": entry["step"], "epoch": round(float(entry["epoch"]), 4)}
        if "loss" in entry:
            losses.append(place | {"train_loss": float(entry["loss"])})
        if "eval_loss" in entry:
            losses.append(place | {f"{part}_loss": float(entry["eval_loss"])})
    return losses


def draw_losses(history: list[dict[str, float]], base_loss: float, part: str) -> "Figure":
    """The losses of a training by step; `base_loss` is that of `part` before the first step."""
    figure, ax = axes()
    train = [(e["step"], e["train_loss"]) for e in history if "train_loss" in e]
    held_out = [(e["step"], e[f"{part}_loss"]) for e in history if f"{part}_loss" in e]
    held_out.insert(0, (0, base_loss))
    ax.plot(*zip(*train, strict=True), color=GREY, label="training")
    ax.plot(*zip(*held_out, strict=True), color=COLOURS[0], marker="o", label=part)
    ax.set(xlabel="step", ylabel="loss (nats a token)")
    ax.legend(frameon=False)
    return figure


def draw_bars(
    values: dict[str, float], label: str, intervals: dict[str, tuple[float, float]] | None = None
) -> "Figure":
    """A horizontal bar for each value, with its number and a line across its interval."""
    figure, ax = axes(7, 0.7 + 0.4 * len(values))
    names, widths = list(values), list(values.values())
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(values))]
    errors = None
    if intervals:
        ends = [intervals.get(name, (value, value)) for name, value in values.items()]
        errors = np.abs(np.array(ends).T - widths)
    bars = ax.barh(names, widths, color=colours, xerr=errors, capsize=4)
    ax.bar_label(bars, fmt="%.1f", padding=3)
    ax.invert_yaxis()
    ax.set_xlabel(label)
    return figure


def draw_lines(
    lines: dict[str, tuple[list[float], list[float]]], xlabel: str, ylabel: str
) -> "Figure":
    """Named lines over a logarithmic x axis; each line is a pair of x and y values."""
    figure, ax = axes()
    for (name, (x, y)), colour in zip(lines.items(), COLOURS, strict=False):
        ax.plot(x, y, color=colour, marker="o", label=name)
    logarithmic(ax, x)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend(frameon=False)
    return figure


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


def heat_map(
    text: str, offsets: list[tuple[int, int]], nats: dict[str, np.ndarray], darkest: float = 20.0
) -> "HTML":
    """The words of a text, on a darker ground the less likely a model found them.

    There is a column for each model. The nats of a word are the sum of those of its tokens, and are
    shown as its tooltip.

    Args:
        offsets: The start and end of each token in the text.
        nats: The nats of each token, by model: (tokens,) each.
        darkest: The nats from which on the ground gets no darker.
    """
    from IPython.display import HTML

    ends = [match.end() for match in re.finditer(r"\S+", text)] or [0]
    word_of = np.searchsorted(ends, [end for _, end in offsets]).clip(max=len(ends) - 1)
    columns = []
    for name, values in nats.items():
        words = zip(text.split(), np.bincount(word_of, values, len(ends)), strict=False)
        spans = " ".join(_shaded(word, float(value), darkest) for word, value in words)
        style = "text-align:left;vertical-align:top;width:50%"
        columns.append(f'<td style="{style}"><b>{html.escape(name)}</b><br>{spans}</td>')
    return HTML(f'<table style="line-height:1.7"><tr>{"".join(columns)}</tr></table>')


def _shaded(word: str, nats: float, darkest: float) -> str:
    """A word on white to dark blue, in letters with enough contrast."""
    share = min(nats / darkest, 1.0)
    red, green, blue = (round(255 + share * (dark - 255)) for dark in (0, 60, 120))
    letters = "#fff" if share > 0.69 else "#000"
    style = f"background:rgb({red},{green},{blue});color:{letters}"
    return f'<span title="{nats:.1f} nats" style="{style}">{html.escape(word)}</span>'
