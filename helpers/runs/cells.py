"""Which of a notebook's cells have run since a step began, so that no step is made of two attempts.

A kernel may run the cells that follow one that failed, or leave some out: what they would have set
has the values of an earlier attempt then.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import ExecutionInfo, ExecutionResult, InteractiveShell


def shell() -> "InteractiveShell | None":
    """The IPython that this process runs cells in, if it does."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython else None


class Cells:
    """The cells that this process has run: by their ids, or by their text where they have none."""

    def __init__(self):
        self._active, self._now, self._first, self._last = False, "", "", ""
        self._lines: dict[str, str] = {}  # of the notebook on the disk: ids in order, first lines
        self._good: dict[str, str] = {}  # ran well since `begin`, and its first line
        self._failed: dict[str, str] = {}  # failed when it ran last, and its first line
        self._after: dict[str, str] = {}  # ran while another one had failed, and its first line
        self._ever: set[str] = set()  # ran in an earlier attempt

    def begin(self, notebook: Path) -> None:
        """A step begins in the cell that runs now."""
        if here := shell():
            here.events.register("pre_run_cell", self._starts)
            here.events.register("post_run_cell", self._ended)
            if kernel := getattr(here, "kernel", None):
                self._now = kernel.get_parent()["metadata"].get("cellId") or self._now
        self._ever |= self._good.keys() | self._failed.keys() | self._after.keys()
        self._good, self._failed, self._after, self._lines = {}, {}, {}, _lines(notebook)
        self._first, self._last, self._active = self._now, "", True

    def end(self) -> None:
        """The step is finished: what runs from now on has no part in it."""
        self._active = False

    def problem(self) -> str | None:
        """Why what the cells have left is not of one attempt, or None; for the last one to ask."""
        self._last, order = self._now, list(self._lines)
        for cells, what in (self._failed, "failed"), (self._after, "ran after one that had failed"):
            if again := [line for key, line in cells.items() if key != self._last]:
                return f"the cell `{again[0]}` {what}"
        if self._first in order and self._last in order:
            for key in order[order.index(self._first) + 1 : order.index(self._last)]:
                if key in self._ever and key not in self._good:
                    return f"the cell `{self._lines[key]}` has not run since `begin`"
        return None

    def _starts(self, info: "ExecutionInfo") -> None:
        if info.store_history:
            self._now = info.cell_id or info.raw_cell

    def _ended(self, result: "ExecutionResult | None") -> None:
        """Note how the cell ended; the one that is to finish the step runs anew whenever it does."""
        if (
            not self._active
            or (result and not result.info.store_history)
            or self._now == self._last
        ):
            return
        key, line = self._now, _first_line(result.info.raw_cell if result else self._now)
        for cells in (self._good, self._failed, self._after):
            cells.pop(key, None)
        if not result or not result.success:
            self._failed[key] = line
        elif any(not self._comes_before(key, other) for other in self._failed):
            self._after[key] = line
        else:
            self._good[key] = line

    def _comes_before(self, key: str, other: str) -> bool:
        order = list(self._lines)
        return key in order and other in order and order.index(key) < order.index(other)


def _first_line(source: str) -> str:
    return source.strip().split("\n")[0][:60]


def _lines(notebook: Path) -> dict[str, str]:
    """The ids of a notebook's code cells in their order, and the first line of each."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"] if notebook.exists() else []
    code = [cell for cell in cells if cell["cell_type"] == "code" and "id" in cell]
    return {cell["id"]: _first_line("".join(cell["source"])) for cell in code}
