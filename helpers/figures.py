"""Figures for the notebooks and the report, each with alternative text for screen readers."""

import html
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from helpers.engine.svg import NO_MATHEMATICS, box, in_notebook, logarithmic, shaded, svg

if TYPE_CHECKING:
    from datasets import Dataset
    from IPython.display import HTML
    from matplotlib.figure import Figure
    from transformers import PreTrainedTokenizerBase, TrainerState

# After Okabe and Ito, for colour-blind readers; each stands out from white and from black.
COLOURS = ("#0072B2", "#C2760A", "#009E73", "#C8609B", "#8B6FD1", "#9A6A2F")
GREY = "#808080"
SLANTED = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"}  # of long names of ticks


def axes(width: float = 7, height: float = 3) -> tuple["Figure", object]:
    """A figure with one pair of axes and no frame above and to the right; sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    ax = figure.subplots()
    ax.spines[["top", "right"]].set_visible(False)
    return figure, ax


def picture(figure: "Figure", alt: str) -> "HTML":
    """The figure as the output of a notebook cell, in the colours of the page around it."""
    from IPython.display import HTML

    return HTML(in_notebook(svg(figure, alt), alt))


def mark(ax: object, x: float, label: str) -> None:
    """A dashed line across the axes at `x`, with its name above."""
    ax.axvline(x, color="black", linestyle="--", linewidth=1)
    place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
    ax.annotate(label, (x, 1), xytext=(0, 3), ha="center", **place)


def token_boxes(
    tokens: Sequence[str],
    labels: Sequence[object] | None = None,
    groups: Sequence[int] | None = None,
) -> "HTML":
    """Tokens in a row of boxes, spaces as `␣`, with a label under each, such as its id.

    Boxes of one group have one colour; without groups, colours alternate.
    """
    from IPython.display import HTML

    groups = range(len(tokens)) if groups is None else groups
    labels = [""] * len(tokens) if labels is None else labels
    colours = [COLOURS[group % len(COLOURS)] for group in groups]
    rows = zip(tokens, labels, colours, strict=True)
    boxes = [box(visible(token), str(label), colour) for token, label, colour in rows]
    return HTML(f'<div class="{NO_MATHEMATICS}" style="line-height:1.3">{"".join(boxes)}</div>')


def visible(token: str) -> str:
    """A token with its spaces and line breaks shown as signs.

    >>> visible(" the")
    '␣the'
    """
    return token.replace(" ", "␣").replace("\n", "⏎")


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


def draw_losses(history: list[dict[str, float]], base_loss: float | None = None) -> "Figure":
    """The losses of a training by step; the best epoch is marked.

    Args:
        history: From `losses_of`.
        base_loss: The loss on the evaluated part before the first step.
    """
    figure, ax = axes()
    train = [(e["step"], e["train_loss"]) for e in history if "train_loss" in e]
    name = next((n for e in history for n in e if n.endswith("_loss") and n != "train_loss"), "")
    evaluated = [(e["step"], e[name]) for e in history if name in e]
    for step, _ in evaluated[:-1]:
        ax.axvline(step, color=GREY, linewidth=0.5)
    best = min(evaluated, key=lambda point: point[1])[0] if evaluated else None
    if base_loss is not None:
        evaluated.insert(0, (0, base_loss))
    ax.plot(*zip(*train, strict=True), color=GREY, label="training")
    ax.plot(*zip(*evaluated, strict=True), color=COLOURS[0], marker="o", label=name[:-5] or "test")
    if best is not None:
        mark(ax, best, "best epoch")
    ax.set(xlabel="step", ylabel="loss (nats per token)")
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
        ax.plot(x, y, "o-" if colour == COLOURS[0] else "o--", color=colour, label=name)
    logarithmic(ax, x)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend(frameon=False)
    return figure


def draw_likeliest(tokens: Sequence[str], probabilities: dict[str, Sequence[float]]) -> "Figure":
    """A horizontal bar for the probability of each token, and under each name."""
    figure, ax = axes(7, 0.7 + len(tokens) * (0.1 + 0.2 * len(probabilities)))
    for bars in _grouped(ax.barh, probabilities):
        ax.bar_label(bars, [f"{bar.get_width():.1%}" for bar in bars], padding=3)
    ax.set_yticks(range(len(tokens)), [_label(token) for token in tokens])
    ax.invert_yaxis()
    ax.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    ax.set_xlabel("probability")
    if len(probabilities) > 1:
        ax.legend(frameon=False)
    return figure


def draw_sentence(
    tokens: Sequence[str], values: dict[str, Sequence[float]], label: str
) -> "Figure":
    """Bars over the tokens of a sentence, for each name; a dashed line marks the mean of each."""
    figure, ax = axes(max(7, 0.32 * len(tokens)), 3)
    for (name, heights), bars in zip(values.items(), _grouped(ax.bar, values), strict=True):
        bars.set_label(f"{name}, mean {np.mean(heights):.2f}")
        ax.axhline(np.mean(heights), color=bars[0].get_facecolor(), linestyle="--", linewidth=1)
    ax.set_xticks(range(len(tokens)), [_label(t) for t in tokens], **SLANTED)
    ax.set_ylabel(label)
    figure.legend(loc="outside upper left", frameon=False, ncols=3)
    return figure


def _grouped(draw: object, values: dict[str, Sequence[float]]) -> list:
    """The bars of each name, in a colour of its own, beside those of the others."""
    width = 0.8 / len(values)
    return [
        draw(
            np.arange(len(row)) + (i - (len(values) - 1) / 2) * width,
            row,
            width,
            label=name,
            color=COLOURS[i % len(COLOURS)],
        )
        for i, (name, row) in enumerate(values.items())
    ]


def _label(token: str) -> str:
    return visible(token).replace("$", r"\$")  # else matplotlib takes two of them for mathematics


def draw_histogram(
    values: Sequence[float],
    xlabel: str,
    ylabel: str,
    marks: dict[str, float] | None = None,
    interval: tuple[float, float] | None = None,
) -> "Figure":
    """A histogram, with named lines at some values and an interval in another colour."""
    figure, ax = axes()
    ax.hist(values, bins=40, color=COLOURS[0])
    if interval:
        ax.axvspan(*interval, color=COLOURS[1], alpha=0.3, zorder=0, label="95 % interval")
        ax.legend(frameon=False)
    for name, value in (marks or {}).items():
        mark(ax, value, name)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    return figure


def draw_attention(weights: np.ndarray, tokens: Sequence[str] | None = None) -> "Figure":
    """Which token looks at which: the more weight, the stronger the colour.

    Args:
        weights: One row for each token that looks, from 0 to 1: (tokens, tokens).
    """
    from matplotlib.colors import to_rgba

    figure, ax = axes(4.5, 4.5)
    shades = np.full((*weights.shape, 4), to_rgba(COLOURS[0]))
    shades[..., 3] = np.sqrt(weights)  # so that small weights can be seen
    ax.imshow(shades, interpolation="none")
    if tokens is not None:
        names = [_label(token) for token in tokens]
        ax.set_xticks(range(len(names)), names, **SLANTED)
        ax.set_yticks(range(len(names)), names)
    ax.set(xlabel="token that is looked at", ylabel="token that looks")
    return figure


def draw_flow(steps: dict[str, str]) -> "Figure":
    """Named boxes from top to bottom, an arrow from each to the next, and a text beside each."""
    figure, ax = axes(7, 0.55 * len(steps))
    ax.set(xlim=(0, 1), ylim=(len(steps) - 0.5, -0.5))
    ax.axis("off")
    frame = {"boxstyle": "round", "facecolor": "none", "edgecolor": COLOURS[0], "linewidth": 1.5}
    arrow = {"arrowstyle": "->", "color": COLOURS[0], "shrinkA": 10, "shrinkB": 10}
    for i, (name, text) in enumerate(steps.items()):
        ax.text(0.1, i, name, ha="center", va="center", weight="bold", bbox=frame)
        ax.text(0.22, i, text, va="center")
        if i:
            ax.annotate("", (0.1, i), (0.1, i - 1), arrowprops=arrow)
    return figure


def heat_map(
    text: str, offsets: list[tuple[int, int]], nats: dict[str, np.ndarray], strongest: float = 20.0
) -> "HTML":
    """The words of a text, on a stronger blue the less likely a model found them.

    There is a column for each model. The nats of a word are the sum of those of its tokens, and are
    shown as its tooltip.

    Args:
        offsets: The start and end of each token in the text.
        nats: The nats of each token, by model: (tokens,) each.
        strongest: The nats from which on the colour gets no stronger.
    """
    from IPython.display import HTML

    ends = [match.end() for match in re.finditer(r"\S+", text)] or [0]
    word_of = np.searchsorted(ends, [end for _, end in offsets]).clip(max=len(ends) - 1)
    row = ""
    for name, values in nats.items():
        words = zip(text.split(), np.bincount(word_of, values, len(ends)), strict=False)
        spans = " ".join(shaded(word, float(value), strongest) for word, value in words)
        style = "text-align:left;vertical-align:top;width:50%"
        row += f'<td style="{style}"><b>{html.escape(name)}</b><br>{spans}</td>'
    return HTML(f'<table class="{NO_MATHEMATICS}" style="line-height:1.7"><tr>{row}</tr></table>')


def token_rows(rows: dict[str, list[tuple[str, int]]]) -> "HTML":
    """Named rows of tokens as boxes; a token is its text, and a number that gives its colour."""
    from IPython.display import HTML

    page = ""
    for name, row in rows.items():
        tokens, groups = zip(*row, strict=True)
        page += f"<b>{html.escape(name)}</b> {token_boxes(tokens, groups=groups).data}"
    return HTML(page)


def block_boxes(blocks: "Dataset", tokenizer: "PreTrainedTokenizerBase") -> "HTML":
    """The first three blocks; a document has a colour of its own."""
    rows, document, last = {}, -1, tokenizer.eos_token_id
    for number, block in enumerate(blocks.select(range(min(3, len(blocks)))), 1):
        tokens = []
        for token, position in zip(block["input_ids"], block["position_ids"], strict=True):
            goes_on = not tokens and last != tokenizer.eos_token_id  # cut by the end of a block
            document += position == 0 and not goes_on
            tokens.append((tokenizer.decode([token]), document))
            last = token
        rows[f"block {number}"] = tokens
    return token_rows(rows)
