"""Progress of a long step: a bar in a notebook or terminal, or a file for a batch runner."""

import html
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

FILE = "HELPERS_PROGRESS"  # environment variable: the file to write progress to, instead of a bar
DELAY = 3.0  # seconds until a bar is shown; what takes less shows none


def is_watched() -> bool:
    """Whether a person has this notebook open, and runs its cells.

    Only then could the front end answer a question (`allow_stdin` of Jupyter's messages), which
    papermill, nbclient and nbval declare that they cannot.
    """
    ipython = sys.modules.get("IPython")
    kernel = getattr(ipython.get_ipython(), "kernel", None) if ipython else None
    return kernel is not None and bool(kernel.get_parent()["content"].get("allow_stdin"))


class Progress:
    """The progress of a step in units of `what`; call `advance` as they are done.

    `total` is None where it is not known.
    """

    def __init__(self, total: int | None, what: str):
        self.total, self.what, self.done, self._before = total, what, 0, 0
        self._file, self._watched = os.environ.get(FILE), is_watched()
        self._bar, self._display, self._last, self._began = None, None, 0.0, time.monotonic()
        if not self._file and not self._watched:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=total, unit=f" {what}", leave=False, delay=DELAY)

    def resume(self, done: int) -> None:
        """Start from the units done by an earlier attempt, which do not count for the speed."""
        self.done = self._before = done
        if self._bar is not None:
            self._bar.update(done)
            self._bar.unpause()

    def advance(self, units: int, note: str = "") -> None:
        """Add units; `note` is shown beside the bar."""
        self.done += units
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(units)
        elif (now := time.monotonic()) - self._last > 0.2:
            self._last = now
            rate = (self.done - self._before) / (now - self._began + 1e-9)
            if self._file:
                self._write(rate, note)
            elif now - self._began > DELAY:
                self._show(rate, note)

    def _write(self, rate: float, note: str) -> None:
        state = {"done": self.done, "total": self.total, "what": self.what}
        temporary = f"{self._file}.new"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(state | {"rate": rate, "note": note}, file)
        with suppress(PermissionError):  # Windows, while the runner reads it
            os.replace(temporary, self._file)

    def _show(self, rate: float, note: str) -> None:
        """Display the bar as HTML, which unlike a widget leaves nothing behind."""
        from IPython.display import HTML, display

        words = f"{done_of(self.done, self.total)} {self.what}, {rate:,.0f} per second {note}"
        words = html.escape(words)
        sizes = f'max="{self.total}" value="{self.done}"' if self.total else ""
        page = HTML(f'<progress {sizes} aria-label="{self.what}"></progress> {words}')
        if self._display is None:
            self._display = display(page, display_id=True)
        else:
            self._display.update(page)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
        if self._display is not None:
            from IPython.display import HTML

            self._display.update(HTML(""))


def done_of(done: int, total: int | None) -> str:
    """`3 of 10`, or `3` where the total is not known."""
    return f"{done:,} of {total:,}" if total else f"{done:,}"


@contextmanager
def no_bars() -> Iterator[None]:
    """Without the bars of `datasets` and `transformers`, which say little of what takes a moment.

    In JupyterLab each would leave an empty box, and an error once the notebook is opened again.
    """
    with ExitStack() as after:
        if datasets := sys.modules.get("datasets"):
            if not datasets.are_progress_bars_disabled():
                after.callback(datasets.enable_progress_bars)
            datasets.disable_progress_bars()
        if "transformers" in sys.modules:
            from transformers.utils import logging

            if logging.is_progress_bar_enabled():
                after.callback(logging.enable_progress_bar)
            logging.disable_progress_bar()
        yield


@contextmanager
def progress_of_map(total: int, what: str) -> Iterator[Progress]:
    """A Progress in place of the bar of `Dataset.map`, which a batch runner could not show."""
    with no_bars(), closing(Progress(total, what)) as bar:
        yield bar
