"""Progress of a long step: a bar in a notebook or terminal, or a file for a batch runner."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

FILE = "HELPERS_PROGRESS"  # environment variable: the file to write progress to, instead of a bar
DELAY = 3.0  # seconds until a bar is shown; what takes less shows none


class Progress:
    """The progress of a step in units of `what`; call `advance` as they are done."""

    def __init__(self, total: int, what: str):
        self.total, self.what, self.done, self._before = total, what, 0, 0
        self._file = os.environ.get(FILE)
        self._bar, self._last, self._began = None, 0.0, time.monotonic()
        if not self._file:
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
        elif time.monotonic() - self._last > 0.2:
            self._last = time.monotonic()
            rate = (self.done - self._before) / (self._last - self._began + 1e-9)
            state = {"done": self.done, "total": self.total, "what": self.what}
            temporary = f"{self._file}.new"
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump(state | {"rate": rate, "note": note}, file)
            with suppress(PermissionError):  # Windows, while the runner reads it
                os.replace(temporary, self._file)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()


@contextmanager
def progress_of_map(total: int, what: str) -> Iterator[Progress]:
    """A Progress in place of the bar of `Dataset.map`, which a batch runner could not show."""
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with closing(Progress(total, what)) as bar:
            yield bar
    finally:
        if shown:
            datasets.enable_progress_bars()
