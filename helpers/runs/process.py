"""One notebook in a process of its own: watched, limited in time, and ended with its children.

`run_notebook` starts `python -m helpers.runs.process`, which runs papermill and the kernel. Its
standard input takes the task, and later `interrupt`; where it ends, the runner has ended.
"""

import asyncio
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
from queue import SimpleQueue
from typing import TYPE_CHECKING

import psutil

from helpers.engine.memory import memory_of
from helpers.engine.progress import FILE
from helpers.errors import UserError
from helpers.hub.secrets import redacted
from helpers.runs.locking import NOTEBOOK, folder_lock
from helpers.runs.notebook import QUIET
from helpers.runs.signals import interruption

if TYPE_CHECKING:
    from jupyter_client import AsyncKernelManager

POLL = 0.2  # seconds
GRACE = 60.0  # seconds for an interrupted kernel to save its work
# The signals of a terminal reach the runner only.
APART = {
    "start_new_session": True,
    "creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
}


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
    """A process that executes one notebook; started ahead, it has imported what it needs."""

    def __init__(self, environment: Mapping[str, str] | None = None):
        self.folder = Path(tempfile.mkdtemp(prefix="clm-notebooks-"))
        self.progress, self.result = self.folder / "progress.json", self.folder / "result.json"
        variables = {**os.environ, **QUIET, **(environment or {}), FILE: str(self.progress)}
        with (self.folder / "errors").open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "helpers.runs.process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=variables,
                **APART,
            )
        self._seen: dict[int, psutil.Process] = {}
        threading.Thread(target=self._permit, daemon=True).start()

    def _permit(self) -> None:
        """Let it begin once it has locked the run: then no later runner can have that."""
        for _ in self.process.stdout:
            self.send(permitted=True)

    def send(self, **message: object) -> None:
        """Send the notebook to execute (`step`, `output`, `parameters`), or `interrupt`."""
        with suppress(OSError, ValueError):  # it has ended already; `errors` says why
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def descendants(self) -> list[psutil.Process]:
        """All processes that it has started until now, directly or not."""
        with suppress(psutil.Error):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                self._seen.setdefault(process.pid, process)
        return list(self._seen.values())

    def failure(self) -> str:
        """The last line of its errors, or its exit status."""
        errors = (self.folder / "errors").read_text(encoding="utf-8", errors="replace")
        lines = errors.strip().splitlines()
        return lines[-1] if lines else f"status {self.process.returncode}"

    def discard(self) -> None:
        """Kill it with its descendants, and remove its files."""
        running = [p for p in self.descendants() if p.is_running()]
        self.process.kill()
        self.process.wait()
        for process in running:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(running, timeout=5)
        with suppress(OSError):
            self.process.stdin.close()
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
                if show and (state := _read(process.progress)):
                    show(state)
            result = _read(process.result)
            failure = "" if result or watch.status else process.failure()
        finally:
            process.discard()
    if watch.status:
        status, why = watch.status, f"{step}: {watch.why}"
    elif result:
        status, why = result["status"], result["message"]
        if status == "kernel died":
            why = f"{why.removesuffix('.')}; the peak was {watch.peak:,} MB."
    else:
        status, why = "failed", redacted(f"{step}: the process of its notebook ended ({failure}).")
    return Outcome(status, why, round(time.monotonic() - began, 2), watch.peak)


def _read(path: Path) -> dict:
    """What a file that another process writes holds; nothing where it has none or is writing."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


@dataclass
class _Watch:
    """Polls a process for its end, its memory, its time limit, and interruptions."""

    process: NotebookProcess
    output: Path
    limit: float
    stop: threading.Event
    grace: float

    def __post_init__(self) -> None:
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
        used = memory_of(self.process.descendants())
        self.peak = max(self.peak, round(used / 1e6))
        if self.limit and time.monotonic() - self._began > self.limit:
            self._interrupt("timed out", f"its time limit of {self.limit / 60:g} minutes is over.")
        if self.stop.is_set():
            self._interrupt("interrupted", interruption())
        return self._deadline is not None and (self._kill_now or time.monotonic() > self._deadline)

    def _interrupt(self, status: str, why: str) -> None:
        if self._deadline is not None:
            return
        self.status, self.why, self._deadline = status, why, time.monotonic() + self.grace
        self.process.send(interrupt=True)
        if not self._has_begun():  # an idle kernel ignores an interruption
            self._deadline = 0.0

    def _has_begun(self) -> bool:
        """Whether a cell has been started, according to what papermill has written."""
        notebook = self.output.read_text(encoding="utf-8") if self.output.exists() else ""
        return '"status": "running"' in notebook or '"status": "completed"' in notebook


def _end() -> None:
    """Kill the children of this process, remove its files, and end it."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            process.kill()
    shutil.rmtree(_own_folder(), ignore_errors=True)
    os._exit(1)


def _own_folder() -> Path:
    return Path(os.environ[FILE]).parent


def _listen(messages: SimpleQueue[dict]) -> None:
    """Pass on what the runner sends; where nothing can follow, the runner has ended."""
    for line in iter(sys.stdin.readline, ""):
        messages.put(json.loads(line))
    _end()


def _obey(messages: SimpleQueue[dict], kernel: "AsyncKernelManager") -> None:
    """Interrupt the kernel when the runner says so."""
    while True:
        if messages.get().get("interrupt"):
            with suppress(RuntimeError):  # it has just ended
                asyncio.run(kernel.interrupt_kernel())


def main() -> None:
    """In the process: start a kernel, wait for the task, execute the notebook, write the result."""
    messages: SimpleQueue[dict] = SimpleQueue()
    threading.Thread(target=_listen, args=(messages,), daemon=True).start()
    # jsonschema, imported by nbformat, would spend a second on a grammar that no notebook needs.
    sys.modules["rfc3987_syntax"] = None
    import papermill  # noqa: F401  imported while there is no task yet
    from jupyter_client import AsyncKernelManager
    from jupyter_core.utils import run_sync

    from helpers.runs.notebook import KernelDied, execute

    connection = str(_own_folder() / "kernel.json")
    kernel = AsyncKernelManager(kernel_name="python3", connection_file=connection)
    no_history = ["--HistoryManager.hist_file=:memory:"]
    run_sync(kernel.start_kernel)(extra_arguments=no_history, stdout=subprocess.DEVNULL)
    task, status, message = messages.get(), "ok", ""
    try:
        with folder_lock(Path(task["output"]).parent, NOTEBOOK):
            print("locked", flush=True)
            while not messages.get().get("permitted"):
                pass
            threading.Thread(target=_obey, args=(messages, kernel), daemon=True).start()
            execute(task["step"], Path(task["output"]), task["parameters"], kernel)
    except KernelDied as error:
        status, message = "kernel died", str(error)
    except UserError as error:
        status, message = "failed", str(error)
    except OSError as error:
        status = "failed"
        message = f"{task['step']}: its notebook could not be written ({error.strerror})."
    result = redacted(json.dumps({"status": status, "message": message}))
    (_own_folder() / "result.json").write_text(result, encoding="utf-8")
    run_sync(kernel.shutdown_kernel)(now=True)
    os._exit(0)


if __name__ == "__main__":
    main()
