"""What a run or a sweep shows in a terminal while it works, and the table at its end."""

import json
import os
import threading
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from helpers.hub.secrets import redacted
from helpers.runs.folder import Run
from helpers.runs.parameters import STEPS, folder_of


class View:
    """Tells what runs do: a line for each step that is done, and a bar for each that is being done, in the order in which they began.

    Hand `view.of(name)` to `batch.do`; a run with a name is one of several, and gets no line for each of its steps.
    """

    def __init__(self, console: Console, runs: int = 0):
        columns = (
            TextColumn("  {task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
        )
        self.console = console
        self._bars = Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal
        )
        self._tasks: dict[str, TaskID] = {}
        self._all = self._bars.add_task("runs", total=runs, note="") if runs else None
        self._lock = threading.Lock()

    def __enter__(self) -> "View":
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ):
        self._bars.stop()

    def of(self, name: str = ""):
        """What `batch.do` tells about one run."""

        def tell(event: str, step: str, more: dict) -> None:
            with self._lock:
                self._note(name, event, step, more)

        return tell

    def _note(self, name: str, event: str, step: str, more: dict) -> None:
        if event == "planned" and not name:
            self.console.print(f" {folder_of(step)} {more['line']}")
        elif event == "begins":
            self._tasks[name] = self._bars.add_task(
                f"{name} {folder_of(step)}".strip(), total=None, note=""
            )
        elif event == "progress" and name in self._tasks:
            note = f"{more['done']:,} of {more['total']:,} {more['what']}, {more['rate']:,.1f} a second  {more['note']}"
            self._bars.update(
                self._tasks[name], total=more["total"], completed=more["done"], note=note
            )
        elif event in ("done", "left out"):
            self.clear(name)
            words = "done already, in" if event == "left out" else ""
            if not name:
                line = f" {folder_of(step)}  {words} {more['seconds']:.1f} s".replace("   ", "  ")
                self.console.print(Text.assemble(("✓", "green"), line))

    def clear(self, name: str) -> None:
        """Take the bar of a run away."""
        if name in self._tasks:
            self._bars.remove_task(self._tasks.pop(name))

    def finished(self, name: str, line: str) -> None:
        """A run of several has ended."""
        with self._lock:
            self.clear(name)
            self.console.print(redacted(line))
            self._bars.advance(self._all)


def summary(folder: Run, console: Console) -> None:
    """Print the table at the end of a run, and where its report lies."""
    metrics = json.loads((folder.folder / "metrics.json").read_text())
    table = Table("", "base", "fine-tuned")
    table.add_row(
        "perplexity", f"{metrics['perplexity_base']:.2f}", f"{metrics['perplexity_finetuned']:.2f}"
    )
    table.add_row(
        "bits per byte",
        f"{metrics['bits_per_byte_base']:.3f}",
        f"{metrics['bits_per_byte_finetuned']:.3f}",
    )
    console.print(table)
    console.print(
        f"perplexity × {metrics['perplexity_ratio']:.3f} "
        f"(95 % interval {metrics['perplexity_ratio_low']:.3f} to {metrics['perplexity_ratio_high']:.3f})"
    )
    console.print(
        f"tokens: {metrics['tokens_in']:,} in, {metrics['tokens_kept']:,} kept, {metrics['tokens_dropped']:,} dropped; "
        f"{metrics['train_tokens_per_second']:,.0f} a second in training, {metrics['dtype']} on {metrics['device']}"
    )
    if omitted := metrics.get("examples_left_out"):
        console.print(f"examples: {omitted:,} are left out by load.split")
    console.print(
        "seconds: " + ", ".join(f"{step} {metrics[f'seconds_{step}']:.1f}" for step in STEPS)
    )
    console.print(f"report: {os.path.relpath(folder.folder / 'report.html')}")
