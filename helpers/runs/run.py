"""Carries out the steps of one run; those done already are skipped."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from helpers.engine.files import copy_folder, move
from helpers.errors import RunError, UserError
from helpers.runs.fetching import fetch
from helpers.runs.folder import Run, identity, write_json
from helpers.runs.locking import NOTEBOOK, folder_lock
from helpers.runs.parameters import STEPS, check_order, folder_of
from helpers.runs.process import GRACE, NotebookProcess, Outcome, run_notebook
from helpers.runs.profiles import SKIPPED, outlook
from helpers.runs.record import start_record
from helpers.runs.report import write_report
from helpers.runs.signals import interruption

REPORTING = threading.Lock()  # matplotlib is not thread-safe
# Called with an event (`planned`, `begins`, `progress`, `done`, `skipped`), its step, and details.
Listener = Callable[[str, str, dict], None]


@dataclass(frozen=True)
class RunSpec:
    """All that a run needs; it can be pickled for a worker that sees the same folders.

    Attributes:
        run_dir: the run folder.
        parameters: those of every step, as `plan` makes them.
        prefetch: the command that messages suggest where something cannot be fetched.
        profile, settings: where the parameters come from; the run folder remembers them.
        start: do this step and the later ones again.
        until: the last step to do; by default the last one that there is.
        force: do every step again.
        time_limit: seconds for each notebook; 0: no limit.
        grace: seconds for an interrupted notebook to save its work.
        threads: of each notebook; 0: the libraries' default.
        shared: a folder; runs that have it do steps with the same parameters only once.
    """

    run_dir: str
    parameters: Mapping[str, Mapping[str, object]]
    prefetch: str = "python -m helpers prefetch"
    profile: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)
    start: str | None = None
    until: str = STEPS[-1]
    force: bool = False
    time_limit: float = 0.0
    grace: float = GRACE
    threads: int = 0
    shared: str = ""


def ignore_events(event: str, step: str, details: dict) -> None:
    """Ignore progress events."""


def execute_run(
    spec: RunSpec, listener: Listener = ignore_events, stop: threading.Event | None = None
) -> dict[str, object]:
    """Do every step of a run that is not done yet, and write its report.

    Args:
        spec: the run.
        listener: called for each progress event.
        stop: set it to interrupt the run.

    Returns:
        The content of `run.json`, with a `status` (`ok`, `partial`, `failed`, `timed out`,
        `kernel died` or `interrupted`) and a `message` that explains it.

    Raises:
        RunError: the folder cannot be used, or another run holds it. A run of a sweep waits for
            that one, as the same sweep may have been started twice.
    """
    run, stop = Run(spec.run_dir), stop or threading.Event()
    check_order(spec.start, spec.until)
    waiting = {"wait": bool(spec.shared), "stop": stop}
    with folder_lock(run.folder, **waiting):
        with folder_lock(run.folder, NOTEBOOK, **waiting):
            began = time.monotonic()  # no notebook of a killed runner is at work any more
        record = start_record(run, spec.profile, spec.settings, spec.parameters, "it was killed")
        try:
            outcome = _Execution(run, spec, listener, stop).execute(record["steps"])
        except UserError as error:
            outcome = Outcome("failed", str(error), 0, 0)
        except KeyboardInterrupt:
            outcome = Outcome("interrupted", interruption(), 0, 0)
        peaks = [step["peak_memory_mb"] for step in record["steps"].values()]
        record |= {
            "status": outcome.status,
            "message": outcome.message,
            "seconds": round(time.monotonic() - began, 2),
            "peak_memory_mb": max([outcome.peak_memory_mb, *peaks]),
        }
        try:
            _complete(run, record)
        except OSError:  # usually a full disk; the reason why the run failed is more useful
            if outcome.status == "ok":
                raise
    return record


def _complete(run: Run, record: dict[str, object]) -> None:
    """Add metrics and parameters to a record, write it, and the report of a successful run."""
    record["metrics"] = run.write_metrics()
    steps = {step: run.record(step) for step in STEPS}
    record["parameters"] = {step: made["parameters"] for step, made in steps.items() if made}
    write_json(run.folder / "run.json", record)
    if record["status"] == "ok":
        with REPORTING:
            write_report(run)


class _Execution:
    """The steps of a run, while they are done; the next notebook's process is started ahead."""

    def __init__(self, run: Run, spec: RunSpec, listener: Listener, stop: threading.Event):
        self.run, self.spec, self.notify, self.stop = run, spec, listener, stop
        first = STEPS.index(spec.start) if spec.start else 0
        self.last = STEPS.index(spec.until)
        self.steps = STEPS[first : self.last + 1]
        self.next_process: NotebookProcess | None = None
        self.fetched = False

    def execute(self, done: dict[str, dict]) -> Outcome:
        """Do the steps, note each in `done`, and return the outcome of the last one."""
        self._announce()
        try:
            for step in self.steps:
                with self._shared(step):
                    if self.stop.is_set():
                        raise KeyboardInterrupt
                    if self._skipped(step, done):
                        continue
                    self.notify("begins", step, {})
                    outcome = self._execute_notebook(step)
                seconds, peak = outcome.seconds, outcome.peak_memory_mb
                done[step] = {"seconds": seconds, "peak_memory_mb": peak, "done": outcome.status}
                if outcome.status != "ok":
                    return outcome
                self.notify("done", step, {"seconds": seconds})
        finally:
            if self.next_process:
                self.next_process.discard()
        left = [s for s in STEPS[self.last + 1 :] if not self._is_done(s)]
        if left:
            return Outcome("partial", f"the next step is {left[0]!r}", 0, 0)
        return Outcome("ok", "", 0, 0)

    def _announce(self) -> None:
        """Say what will happen to each step, unless all are new or all are done."""
        if self.spec.shared:
            return
        lines = outlook(self.run, self.spec.parameters, self.spec.start, self.spec.force)
        lines = {step: lines[step] for step in STEPS[: self.last + 1]}
        if any(map(self.run.record, STEPS)) and set(lines.values()) != {SKIPPED}:
            for step, line in lines.items():
                self.notify("planned", step, {"line": line})

    def _skipped(self, step: str, done: dict[str, dict]) -> bool:
        if self.spec.force or self.spec.start is not None:
            return False
        if not self._is_done(step):
            return False
        record = self.run.record(step)
        done[step] = {key: record[key] for key in ("seconds", "peak_memory_mb")}
        done[step]["done"] = "before"
        self.notify("skipped", step, {"seconds": record["seconds"]})
        return True

    def _is_done(self, step: str) -> bool:
        return self.run.is_done(step, dict(self.spec.parameters[step]))

    def _take_process(self, step: str) -> NotebookProcess:
        """The process for a step; before the first one, what the run needs is fetched."""
        if not self.fetched:
            fetch(self.spec.parameters, self.spec.prefetch)
            self.fetched = True
        process = self.next_process or self._start_process()
        self.next_process = None if step == self.steps[-1] else self._start_process()
        return process

    def _start_process(self) -> NotebookProcess:
        """Start a process; only a notebook that publishes or streams reaches for the Hub."""
        chosen = self.spec.parameters
        offline = not (chosen["evaluate"].get("push_to_hub") or chosen["load"].get("streaming"))
        variables = {"HF_HUB_OFFLINE": "1"} if offline else {}
        if self.spec.threads:  # runs beside each other share the cores
            names = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")
            variables |= dict.fromkeys(names, str(self.spec.threads))
        return NotebookProcess(variables)

    def _execute_notebook(self, step: str) -> Outcome:
        """Execute a notebook, and put it beside the step's artifact, or into the run folder."""
        parameters, name = dict(self.spec.parameters[step]), folder_of(step)
        running, failed = (
            self.run.folder / f"{name}.{state}.ipynb" for state in ("running", "failed")
        )
        for earlier in (running, failed):
            earlier.unlink(missing_ok=True)
        outcome = run_notebook(
            step,
            running,
            {"run_dir": self.run.shown, **parameters},
            self._take_process(step),
            self.spec.time_limit,
            lambda state: self.notify("progress", step, state),
            self.stop,
            self.spec.grace,
        )
        if outcome.status != "ok":
            if running.exists():
                move(running, failed)
            return replace(outcome, message=outcome.message.replace(running.name, failed.name))
        why = self.run.problem(step)
        if why or self.run.record(step)["parameters"] != parameters:
            move(running, failed)
            raise RunError(
                f"{step}: its notebook ran, but left no artifact with these parameters "
                f"({why or 'it has others'})."
            )
        move(running, self.run.path(step) / f"{name}.ipynb")
        return outcome

    @contextmanager
    def _shared(self, step: str) -> Iterator[None]:
        """Link a step from the sweep's shared folder, or into it once it is done.

        Runs of a sweep that have this step in common do it one at a time.
        """
        if not self.spec.shared:
            yield
            return
        run, parameters = self.run, dict(self.spec.parameters[step])
        name = f"{folder_of(step)}-{identity(self.spec.parameters, step)}"
        shared = Path(self.spec.shared) / name
        with folder_lock(shared.parent, name, wait=True, stop=self.stop):
            if shared.exists() and not run.is_done(step, parameters):
                lock = run.lock(step)
                shutil.rmtree(run.path(step), ignore_errors=True)
                copy_folder(shared, run.path(step))
                lock.release()
            yield
            if not shared.exists() and run.is_done(step, parameters):
                copy_folder(run.path(step), shared)
