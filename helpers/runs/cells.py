"""Which of a notebook's cells have run since a step began, so that no artifact mixes two attempts.

A front end may run cells after one that failed, or skip some; their variables then still hold the
values of an earlier attempt. It may also run cells that the notebook on the disk has not: a copy
may have been edited.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import ExecutionInfo, ExecutionResult, InteractiveShell


def shell() -> "InteractiveShell | None":
    """The IPython shell of this process, if it has one."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython else None


class Cells:
    """The cells that this process has run, by their ids, or by their source if they have none."""

    def __init__(self):
        self._active, self._current, self._first, self._last = False, "", "", ""
        # Cells with the first line of each:
        self._lines: dict[str, str] = {}  # all of the notebook on the disk, in order
        self._succeeded: dict[str, str] = {}  # since `begin`
        self._failed: dict[str, str] = {}  # at their last execution
        self._after_failure: dict[str, str] = {}  # while another cell had failed
        self._earlier: set[str] = set()  # executed in an earlier attempt
        self._sources: dict[str, str] = {}  # since `begin`, as they were executed last
        self._notebook: set[str] = set()  # the sources of all cells of the notebook on the disk
        self._parameters: set[str] = set()  # the ids of its cells that are tagged so

    def begin(self, notebook: Path) -> None:
        """Start a step in the current cell."""
        if here := shell():
            here.events.register("pre_run_cell", self._before_cell)
            here.events.register("post_run_cell", self._after_cell)
            self._current = _metadata().get("cellId") or self._current
        self._earlier |= self._succeeded.keys() | self._failed.keys() | self._after_failure.keys()
        self._succeeded, self._failed, self._after_failure, self._sources = {}, {}, {}, {}
        cells = _code_cells(notebook)
        self._lines = {key: _first_line(source) for key, source, _ in cells if key}
        self._notebook = {source.strip() for _, source, _ in cells}
        self._parameters = {key for key, _, tags in cells if "parameters" in tags}
        self._first, self._last, self._active = self._current, "", True

    def end(self) -> None:
        """Finish the step: later cells are no part of it."""
        self._active = False

    def problem(self) -> str | None:
        """Why the variables are not of one attempt, or None; called by the last cell."""
        self._last, order = self._current, list(self._lines)
        faults = {"failed": self._failed, "ran after one that had failed": self._after_failure}
        for fault, cells in faults.items():
            if lines := [line for key, line in cells.items() if key != self._last]:
                return f"the cell `{lines[0]}` {fault}"
        if self._first in order and self._last in order:
            for key in order[order.index(self._first) + 1 : order.index(self._last)]:
                if key in self._earlier and key not in self._succeeded:
                    return f"the cell `{self._lines[key]}` has not run since `begin`"
        return None

    def edited(self) -> list[str]:
        """The sources, run since `begin`, that no cell of the notebook on the disk has, sorted."""
        run = {source for key, source in self._sources.items() if key not in self._parameters}
        return sorted(run - self._notebook)

    def _before_cell(self, info: "ExecutionInfo") -> None:
        if info.store_history:
            self._current = info.cell_id or info.raw_cell
            self._sources[self._current] = info.raw_cell.strip()
            for key in _metadata().get("deletedCells", ()):  # by JupyterLab: it cannot run again
                self._earlier.discard(key)
                self._failed.pop(key, None)

    def _after_cell(self, result: "ExecutionResult | None") -> None:
        """Note how a cell ended, but not the last one, which may run as often as needed."""
        is_silent = result and not result.info.store_history
        if not self._active or is_silent or self._current == self._last:
            return
        source = result.info.raw_cell if result else self._current
        key, line = self._current, _first_line(source)
        self._sources[key] = source.strip()
        for cells in (self._succeeded, self._failed, self._after_failure):
            cells.pop(key, None)
        if not result or not result.success:
            self._failed[key] = line
        elif any(not self._comes_before(key, other) for other in self._failed):
            self._after_failure[key] = line
        else:
            self._succeeded[key] = line

    def _comes_before(self, key: str, other: str) -> bool:
        order = list(self._lines)
        return key in order and other in order and order.index(key) < order.index(other)


def _first_line(source: str) -> str:
    return source.strip().split("\n")[0][:60]


def _metadata() -> dict[str, object]:
    """What the front end has sent with the current cell: JupyterLab its id, and deleted cells."""
    kernel = getattr(shell(), "kernel", None)
    return kernel.get_parent().get("metadata", {}) if kernel else {}


def _code_cells(notebook: Path) -> list[tuple[str, str, list[str]]]:
    """The id, the source and the tags of a notebook's code cells, in order."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"] if notebook.exists() else []
    return [
        (cell.get("id", ""), "".join(cell["source"]), cell["metadata"].get("tags", []))
        for cell in cells
        if cell["cell_type"] == "code"
    ]
