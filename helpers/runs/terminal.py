"""What a run or a sweep shows in a terminal while it works, and the table at its end."""

import json
import threading

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from helpers.engine.files import relative
from helpers.engine.progress import done_of
from helpers.hub.secrets import redacted
from helpers.runs.folder import Run
from helpers.runs.parameters import STEPS, folder_of
from helpers.runs.run import Listener


class View(Progress):
    """A line for each step that is done, and a bar for each that runs.

    Give `listener(name)` to `execute_run`. The steps of a run with a name, which is one of
    several, get no lines.
    """

    def __init__(self, console: Console, runs: int = 0):
        columns = (
            TextColumn("  {task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
        )
        super().__init__(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._bars: dict[str, TaskID] = {}
        self._showing = threading.Lock()  # Progress's own lock must not be held while printing
        self._all = self.add_task("runs", total=runs, note="") if runs else None

    def listener(self, name: str = "") -> Listener:
        """A function that shows the events of one run."""

        def show(event: str, step: str, details: dict) -> None:
            with self._showing:
                self._show(name, event, step, details)

        return show

    def _show(self, name: str, event: str, step: str, details: dict) -> None:
        folder = folder_of(step)
        if event == "planned" and not name:
            self.console.print(f" {folder} {details['line']}")
        elif event == "begins":
            self._bars[name] = self.add_task(f"{name} {folder}".strip(), total=None, note="")
        elif event == "progress" and name in self._bars:
            done, total, note = details["done"], details["total"], details["note"]
            speed = f"{details['rate']:,.1f} per second"
            note = f"{done_of(done, total)} {details['what']}, {speed}  {note}"
            self.update(self._bars[name], total=total, completed=done, note=note)
        elif event in ("done", "skipped"):
            self._remove_bar(name)
            if not name:
                earlier = "done already, in " if event == "skipped" else ""
                line = f" {folder}  {earlier}{details['seconds']:.1f} s"
                self.console.print(Text.assemble(("✓", "green"), line))

    def _remove_bar(self, name: str) -> None:
        if name in self._bars:
            self.remove_task(self._bars.pop(name))

    def end_run(self, name: str, line: str) -> None:
        """Show how one of several runs has ended."""
        with self._showing:
            self._remove_bar(name)
            self.console.print(redacted(line))
            self.advance(self._all)


def print_summary(run: Run, console: Console) -> None:
    """Print the table at the end of a run, and where its report is."""
    metrics = json.loads((run.folder / "metrics.json").read_text(encoding="utf-8"))
    table = Table("", "base", "fine-tuned")
    for name, key, digits in (
        ("perplexity", "perplexity", 2),
        ("bits per byte", "bits_per_byte", 3),
    ):
        values = (metrics[f"{key}_{model}"] for model in ("base", "finetuned"))
        table.add_row(name, *(f"{value:.{digits}f}" for value in values))
    console.print(table)
    console.print(
        f"perplexity × {metrics['perplexity_ratio']:.3f} (95 % interval "
        f"{metrics['perplexity_ratio_low']:.3f} to {metrics['perplexity_ratio_high']:.3f})"
    )
    if "examples_validation" not in metrics:
        console.print("the best epoch was chosen on the test part, which flatters the result")
    console.print(
        f"tokens: {metrics['tokens_in']:,} in, {metrics['tokens_kept']:,} kept, "
        f"{metrics['tokens_dropped']:,} dropped; {metrics['train_tokens_per_second']:,.0f} per "
        f"second in training, {metrics['dtype']} on {metrics['device']}"
    )
    if isinstance(omitted := metrics.get("examples_left_out"), int) and omitted:
        console.print(f"examples: {omitted:,} are left out by load.split")
    seconds = ", ".join(f"{step} {metrics[f'seconds_{step}']:.1f}" for step in STEPS)
    console.print(f"seconds: {seconds}")
    console.print(f"report: {relative(run.folder / 'report.html')}")
