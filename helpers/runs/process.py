"""One notebook in a process of its own: watched, limited in time, and ended with its children.

`run_notebook` starts `python -m helpers.runs.process`, which runs papermill and the kernel.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from helpers.engine.progress import FILE
from helpers.errors import UserError
from helpers.hub.secrets import redacted
from helpers.runs.notebook import QUIET
from helpers.runs.signals import interruption

POLL = 0.2  # seconds
GRACE = 60.0  # seconds for an interrupted kernel to save its work


@dataclass(frozen=True)
class Outcome:
    """How a notebook ended: its status, the reason, seconds, and peak memory of its processes.

    The status is `ok`, `failed`, `timed out`, `kernel died` or `interrupted`.
    """

    status: str
    message: str
    seconds: float
    peak_memory_mb: int


class NotebookProcess:
    """A process that executes one notebook; started ahead, it has imported what it needs.

    The descriptors `keep_open` stay open in it.
    """

    def __init__(
        self, environment: Mapping[str, str] | None = None, keep_open: tuple[int, ...] = ()
    ):
        self.folder = Path(tempfile.mkdtemp(prefix="clm-notebooks-"))
        self.progress, self.result = self.folder / "progress.json", self.folder / "result.json"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "helpers.runs.process", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, **QUIET, **(environment or {}), FILE: str(self.progress)},
            pass_fds=keep_open,
            start_new_session=True,
        )
        self.stderr, self._seen = b"", {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        self.stderr = self.process.stderr.read()

    def send(self, **task: object) -> None:
        """Send the notebook to execute: `step`, `output` and `parameters`."""
        with suppress(BrokenPipeError):  # it has ended already; `stderr` says why
            self.process.stdin.write(json.dumps({**task, "result": str(self.result)}).encode())
            self.process.stdin.close()

    def descendants(self) -> list[psutil.Process]:
        """All processes that it has started until now, directly or not."""
        with suppress(psutil.Error):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                self._seen.setdefault(process.pid, process)
        return list(self._seen.values())

    def discard(self) -> None:
        """Kill it with its descendants, and remove its files."""
        running = [p for p in self.descendants() if p.is_running()]
        self.process.kill()
        self.process.wait()
        for process in running:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(running, timeout=5)
        self._reader.join(1)
        shutil.rmtree(self.folder, ignore_errors=True)


def run_notebook(
    step: str,
    output: Path,
    parameters: Mapping[str, object],
    process: NotebookProcess | None = None,
    time_limit: float = 0,
    show: Callable[[dict], None] | None = None,
    stop: threading.Event | None = None,
    grace: float = GRACE,
) -> Outcome:
    """Execute a step's notebook, and return how it ended instead of raising.

    The kernel is interrupted after `time_limit` or once `stop` is set, so that a training saves
    its checkpoint. It is killed `grace` seconds later, or at a second Ctrl-C.

    Args:
        step: whose notebook.
        output: where the executed notebook is written.
        parameters: of the notebook, with `run_dir`.
        process: one that has been started ahead.
        time_limit: in seconds; 0: none.
        show: called with the progress that the notebook reports.
        stop: set by Ctrl-C, or from outside, to interrupt the notebook.
        grace: in seconds.
    """
    began, process = time.monotonic(), process or NotebookProcess()
    watch = _Watch(process, output, time_limit, stop or threading.Event(), grace)
    with watch.interruptions():
        try:
            process.send(step=step, output=str(output), parameters=dict(parameters))
            while not watch.is_over():
                if show and process.progress.exists():
                    show(json.loads(process.progress.read_text()))
            result = json.loads(process.result.read_text()) if process.result.exists() else {}
        finally:
            process.discard()
    if watch.status:
        status, why = watch.status, f"{step}: {watch.why}"
    elif result:
        status, why = result["status"], result["message"]
        if status == "kernel died":
            why = f"{why.removesuffix('.')}; the peak was {watch.peak:,} MB."
    else:
        lines = process.stderr.decode(errors="replace").strip().splitlines()
        last = lines[-1] if lines else f"status {process.process.returncode}"
        status, why = "failed", redacted(f"{step}: the process of its notebook ended ({last}).")
    return Outcome(status, why, round(time.monotonic() - began, 2), watch.peak)


class _Watch:
    """Polls a process for its end, its memory, its time limit, and interruptions."""

    def __init__(
        self,
        process: NotebookProcess,
        output: Path,
        limit: float,
        stop: threading.Event,
        grace: float,
    ):
        self.process, self.output, self.limit = process, output, limit
        self.stop, self.grace = stop, grace
        self.peak, self.status, self.why = 0, "", ""
        self._began = time.monotonic()
        self._deadline = None  # when an interrupted kernel is killed
        self._kill_now = False  # after a second Ctrl-C

    @contextmanager
    def interruptions(self) -> Iterator[None]:
        """Within it, Ctrl-C sets `stop`, and the kernel is interrupted at the next poll."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)

        def note(number: int, _frame: object) -> None:
            if number != signal.SIGINT or before is not signal.SIG_IGN:
                self._kill_now = self.stop.is_set()
                self.stop.set()

        signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def is_over(self) -> bool:
        """Wait for a moment; whether the process has ended, or is to be killed."""
        with suppress(subprocess.TimeoutExpired):
            self.process.process.wait(POLL)
            return True
        self._measure()
        if self.limit and time.monotonic() - self._began > self.limit:
            self._interrupt("timed out", f"its time limit of {self.limit / 60:g} minutes is over.")
        if self.stop.is_set():
            self._interrupt("interrupted", interruption())
        return self._deadline is not None and (self._kill_now or time.monotonic() > self._deadline)

    def _measure(self) -> None:
        used = 0
        for process in self.process.descendants():
            with suppress(psutil.Error):
                used += process.memory_info().rss
        self.peak = max(self.peak, round(used / 1e6))

    def _interrupt(self, status: str, why: str) -> None:
        if self._deadline is not None:
            return
        self.status, self.why, self._deadline = status, why, time.monotonic() + self.grace
        kernels = [p for p in self.process.descendants() if _is_kernel(p)]
        for kernel in kernels:
            with suppress(psutil.Error):
                kernel.send_signal(signal.SIGINT)
        if not kernels or not self._has_begun():  # an idle kernel ignores an interruption
            self._deadline = 0.0

    def _has_begun(self) -> bool:
        """Whether a cell has been started, according to what papermill has written."""
        notebook = self.output.read_text(encoding="utf-8") if self.output.exists() else ""
        return '"status": "running"' in notebook or '"status": "completed"' in notebook


def _is_kernel(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.is_running() and "ipykernel_launcher" in " ".join(process.cmdline())
    return False


def _end_with(parent: int) -> None:
    """Wait until the parent is gone, then kill this process and its children."""
    while os.getppid() == parent:
        time.sleep(POLL)
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            process.kill()
    shutil.rmtree(_own_folder(), ignore_errors=True)
    os._exit(1)


def _own_folder() -> Path:
    return Path(os.environ[FILE]).parent


def main() -> None:
    """In the process: start a kernel, wait for the task, execute the notebook, write the result."""
    threading.Thread(target=_end_with, args=(parent := int(sys.argv[1]),), daemon=True).start()
    # jsonschema, imported by nbformat, would spend a second on a grammar that no notebook needs.
    sys.modules["rfc3987_syntax"] = None
    import papermill  # noqa: F401  imported while there is no task yet
    from jupyter_client import AsyncKernelManager
    from jupyter_core.utils import run_sync

    from helpers.runs.notebook import KernelDied, execute

    connection = str(_own_folder() / "kernel.json")
    kernel = AsyncKernelManager(kernel_name="python3", connection_file=connection)
    run_sync(kernel.start_kernel)(extra_arguments=["--HistoryManager.hist_file=:memory:"])
    if not (text := sys.stdin.read()):
        _end_with(parent)
    task, status, message = json.loads(text), "ok", ""
    try:
        execute(task["step"], Path(task["output"]), task["parameters"], kernel)
    except KernelDied as error:
        status, message = "kernel died", str(error)
    except UserError as error:
        status, message = "failed", str(error)
    except OSError as error:
        status = "failed"
        message = f"{task['step']}: its notebook could not be written ({error.strerror})."
    Path(task["result"]).write_text(redacted(json.dumps({"status": status, "message": message})))
    run_sync(kernel.shutdown_kernel)(now=True)
    os._exit(0)


if __name__ == "__main__":
    main()
