"""A training in one output of a notebook: bar, numbers, curve and texts, drawn once a second.

It has no buttons: a kernel that executes a cell handles no message of a widget before the cell's
end. An interruption comes as a signal, so the panel names JupyterLab's ■ in place of a button.
"""

import html
import math
import time
from typing import TYPE_CHECKING

from helpers.engine.chart import Axes, picture, round_values, text
from helpers.engine.svg import MIDDLE, NO_MATHEMATICS, in_notebook

if TYPE_CHECKING:
    from IPython.display import DisplayHandle
    from transformers import TrainerState

EVERY = 1.0  # seconds between two drawings
MOST = 400  # points of a curve; where there are more, neighbours are averaged
SMOOTHING = 0.25  # the weight of a new loss in the moving average
SMOOTHED, EVALUATED = "#0072B2", "#C2760A"
WIDTH, HEIGHT = 760, 276  # of the picture, in pixels
SHOWN = 4  # the latest texts, which are not folded up
STOP = "■ stops and saves; run the cell again to go on"


class Panel:
    """The panel of a training, from the log in its state, which an earlier attempt may have begun.

    Args:
        base_loss: The loss on the evaluated part before the first step, in nats per token.
        part: What the training is evaluated on.
    """

    def __init__(self, base_loss: float, part: str):
        self.base_loss, self.part = base_loss, part
        self._display: DisplayHandle | None = None

    def begin(self, state: "TrainerState", epochs: float) -> None:
        """Display the panel, at once with the curve of an earlier attempt."""
        self._first, self._began, self._drawn = state.global_step, time.monotonic(), 0.0
        self._epoch = state.max_steps / epochs  # in steps
        self._read, self._mean, self._weight = 0, 0.0, 0.0
        self._raw, self._smoothed, self._rates = [], [], []  # of (step, value), as the next one
        self._evaluated, self._texts, self._display = [(0, self.base_loss)], [], None
        self.show(state)

    def is_due(self) -> bool:
        """Whether it is time for another drawing."""
        return time.monotonic() - self._drawn >= EVERY

    def show(
        self, state: "TrainerState", speed: float = 0.0, memory: float = 0.0, end: str = ""
    ) -> None:
        """Draw the training as it is now.

        Args:
            speed: Tokens per second, 0 if unknown.
            memory: Bytes in use, 0 if unknown.
            end: How the training has ended, in words; empty while it goes on.
        """
        from IPython.display import HTML, display

        self._read_log(state.log_history)
        page = HTML(self._page(state, speed, memory, end))
        if self._display is None:
            self._display = display(page, display_id=True)
        else:
            self._display.update(page)
        self._drawn = time.monotonic()

    def _read_log(self, log: list[dict]) -> None:
        """Take in what was logged since the last time."""
        for entry in log[self._read :]:
            step = entry["step"]
            if "loss" in entry:
                loss = float(entry["loss"])
                self._mean += SMOOTHING * (loss - self._mean)
                self._weight += SMOOTHING * (1 - self._weight)  # corrects the start from 0
                _append(self._raw, step, loss)
                _append(self._smoothed, step, self._mean / self._weight)
                _append(self._rates, step, float(entry.get("learning_rate", 0.0)))
            if "eval_loss" in entry:
                self._evaluated.append((step, float(entry["eval_loss"])))
            if "sample" in entry:
                self._texts.append((step, entry["sample"]))
        self._read = len(log)

    def _page(self, state: "TrainerState", speed: float, memory: float, end: str) -> str:
        done, total = state.global_step, state.max_steps
        numbers = self._numbers(state, speed, memory, bool(end))
        cells = "".join(f'<span style="white-space:nowrap">{one}</span>' for one in numbers)
        before = f"Going on from step {self._first:,}. " if self._first and not end else ""
        best, loss = min(self._evaluated, key=lambda point: point[1])
        alt = f"Losses by step, {done:,} of {total:,} steps done; the lowest {self.part} loss is "
        alt += f"{loss:.2f}, at step {best:,}; {self.base_loss:.2f} before."
        return (
            f'<div class="{NO_MATHEMATICS}" style="max-width:{WIDTH}px">'
            f'<progress max="{total}" value="{done}" aria-label="steps of the training" '
            f'style="width:100%;accent-color:{SMOOTHED}"></progress>'
            f'<div style="display:flex;flex-wrap:wrap;gap:0 1.5em">{cells}</div>'
            f"<div>{html.escape(before + (end or STOP))}.</div>"
            f"{in_notebook(self._picture(total, alt), alt)}{self._timeline()}</div>"
        )

    def _numbers(
        self, state: "TrainerState", speed: float, memory: float, ended: bool
    ) -> list[str]:
        """What stands under the bar, each as HTML."""
        done, total = state.global_step, state.max_steps
        here, seconds = done - self._first, time.monotonic() - self._began
        numbers = [f"<b>{done:,}</b> of {total:,} steps", f"epoch {state.epoch or 0:.2f}"]
        if self._raw:
            numbers.append(f"loss <b>{self._raw[-1][1]:.2f}</b>")
            numbers.append(f"smoothed {self._smoothed[-1][1]:.2f}")
            numbers.append(f"learning rate {self._rates[-1][1]:.1e}")
        numbers += [f"{speed:,.0f} tokens/s"] if speed else []
        numbers += [f"{memory / 1e9:.1f} GB"] if memory else []
        if ended:
            numbers.append(f"took {_duration(seconds)}")
        elif here > 0:  # at the pace of this attempt, whatever an earlier one took
            left = _duration(seconds / here * (total - done))
            numbers.append(f"<b>about {left} left</b>")
        return numbers

    def _picture(self, total: int, alt: str) -> str:
        """The losses over the learning rate, from the first step to the last one there will be."""
        losses = [y for _, y in (*self._raw, *self._evaluated) if math.isfinite(y)] or [0.0]
        values = round_values(min(losses), max(losses))
        top = max([rate for _, rate in self._rates], default=0.0) or 1.0
        loss = Axes(48, 748, 26, 196, 0, total, values[0], values[-1])
        rate = Axes(48, 748, 216, 240, 0, total, 0, top)
        parts = [
            loss.level(value) + text(42, loss.y(value) + 4, f"{value:g}", "end") for value in values
        ]
        for value in round_values(0, total)[:-1]:
            if value == round(value):
                parts.append(text(rate.x(value), 256, f"{value:,.0f}", "middle"))
        ends = self._epochs(total)
        for axes in (loss, rate):
            parts += [axes.upright(step) for step in ends]
            parts += [axes.upright(self._first, "5 3", 1.5)] if self._first else []
        for number, step in enumerate(ends if len(ends) < 8 else [], 1):
            parts.append(text(loss.x(step), 210, f"epoch {number} ends", "middle"))
        parts += [rate.level(0, 1), rate.curve(self._rates, MIDDLE)]
        parts += [text(48, 212, "learning rate"), text(748, 270, "step", "end")]
        parts.append(loss.curve(self._raw, MIDDLE, 1))
        parts.append(loss.curve(self._smoothed, SMOOTHED, 2.5))
        parts.append(loss.curve(self._evaluated, EVALUATED) + loss.dots(self._evaluated, EVALUATED))
        parts.append(text(48, 14, "loss (nats per token):"))
        for place, name, colour in (
            (184, "training", MIDDLE),
            (250, "smoothed", SMOOTHED),
            (326, self.part, EVALUATED),
        ):
            parts.append(text(place, 14, name, colour=colour))
        return picture(parts, alt, WIDTH, HEIGHT)

    def _epochs(self, total: int) -> list[float]:
        """The steps at which an epoch ends, not more than can be told apart."""
        count = math.ceil(total / self._epoch)
        each = math.ceil(count / 40)
        return [self._epoch * number for number in range(each, count, each)]

    def _timeline(self) -> str:
        """The texts that the model wrote on its way: the first, and the latest."""
        if not self._texts:
            return ""
        rows = [
            f'<div style="margin:0.3em 0"><b>step {step:,}</b> {html.escape(sample)} …</div>'
            for step, sample in self._texts
        ]
        folded, latest = rows[1:-SHOWN], rows[max(1, len(rows) - SHOWN) :]
        if folded:
            title = f"{len(folded):,} more in between"
            folded = [f"<details><summary>{title}</summary>{''.join(folded)}</details>"]
        return "".join([rows[0], *folded, *latest])


def _append(points: list[tuple[float, float]], x: float, y: float) -> None:
    """Add a point; where there are too many, average each two that are next to each other."""
    points.append((x, y))
    if len(points) > MOST:
        pairs = list(zip(points[::2], points[1::2], strict=False))
        left = points[2 * len(pairs) :]
        points[:] = [((a[0] + b[0]) / 2, (a[1] + b[1]) / 2) for a, b in pairs] + left


def _duration(seconds: float) -> str:
    """A time in words: `12 s`, `3 min`, `2 h 5 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
