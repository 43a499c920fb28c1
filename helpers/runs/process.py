"""One notebook in a process of its own: watched, limited in time, and ended with all that it has started.

`run_notebook` starts `python -m helpers.runs.process`, which runs papermill; the kernel is that process's child.
"""

import json
import os
import shutil
import signal
import stat
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

POLL = 0.2  # seconds
GRACE = 60.0  # seconds that a kernel has after an interruption, to save what it is doing
ENDED_BY: list[signal.Signals] = []  # SIGTERM or SIGHUP, where one has come


def end_like_ctrl_c() -> None:
    """From now on, SIGTERM and SIGHUP end this process as Ctrl-C does; a signal that is ignored (`nohup`) stays so."""
    for name in {"SIGTERM", "SIGHUP"} & {s.name for s in signal.Signals}:
        if signal.getsignal(getattr(signal, name)) is not signal.SIG_IGN:
            signal.signal(getattr(signal, name), _end_like_ctrl_c)


def _end_like_ctrl_c(number: int, frame: object) -> None:
    if ENDED_BY:  # a terminal that closes, for one, sends several; only a second Ctrl-C is somebody's impatience
        return
    ENDED_BY.append(signal.Signals(number))
    if ENDED_BY[0].name == "SIGHUP":  # nothing can be written to a terminal that is gone
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (1, 2):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                os.dup2(null, descriptor)
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):  # Ctrl-C is ignored, as in a script's background
        raise KeyboardInterrupt
    handler(number, frame)


def interruption() -> str:
    """How this process was interrupted, as a sentence."""
    return f"it was interrupted{f' by {ENDED_BY[0].name}' if ENDED_BY else ''}."


@dataclass(frozen=True)
class Outcome:
    """How a notebook ended: `ok`, `failed`, `timed out`, `kernel died` or `interrupted`; why; seconds and peak memory of its processes."""

    status: str
    message: str
    seconds: float
    peak_memory_mb: int


class Child:
    """A process that waits for one notebook to execute; started ahead, it has imported what it needs by the time it is used.

    The descriptors `keep_open` stay open in it. `discard` ends it, with all that it has started, and removes its files.
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

    def send(self, **order: object) -> None:
        """What it is to do."""
        with suppress(BrokenPipeError):  # it has ended already, and what it said is read later
            self.process.stdin.write(json.dumps({**order, "result": str(self.result)}).encode())
            self.process.stdin.close()

    def family(self) -> list[psutil.Process]:
        """All that it has started until now, directly or not."""
        with suppress(psutil.Error):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                self._seen.setdefault(process.pid, process)
        return list(self._seen.values())

    def discard(self) -> None:
        """End what is left of it and of what it started, and of nothing else."""
        left = [p for p in self.family() if p.is_running()]
        self.process.kill()
        self.process.wait()
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=5)
        self._reader.join(1)
        shutil.rmtree(self.folder, ignore_errors=True)


def run_notebook(
    step: str,
    output: Path,
    parameters: Mapping[str, object],
    child: Child | None = None,
    time_limit: float = 0,
    show: Callable[[dict], None] | None = None,
    stop: threading.Event | None = None,
    grace: float = GRACE,
) -> Outcome:
    """Execute a step's notebook and say how it ended; it raises nothing for what happens in there.

    After `time_limit` seconds (0: no limit), or once `stop` is set, which Ctrl-C does too, the kernel is interrupted, so that a training
    saves its checkpoint, and ended if it does not end by itself within `grace` seconds, or at a second Ctrl-C. `show` gets what the
    notebook says of its progress. `child` may have been started ahead.
    """
    began, child = time.monotonic(), child or Child()
    watch = _Watched(child, output, time_limit, stop or threading.Event(), grace)
    with watch.interruptions():
        try:
            child.send(step=step, output=str(output), parameters=dict(parameters))
            while not watch.over():
                if show and child.progress.exists():
                    show(json.loads(child.progress.read_text()))
            found = json.loads(child.result.read_text()) if child.result.exists() else {}
        finally:
            child.discard()
    if watch.ended:
        status, why = watch.ended, f"{step}: {watch.why}"
    elif found:
        status, why = found["status"], found["message"]
        if status == "kernel died":
            why = f"{why.removesuffix('.')}; the peak was {watch.peak:,} MB."
    else:
        tail = child.stderr.decode(errors="replace").strip().splitlines()[-1:] or [
            f"status {child.process.returncode}"
        ]
        status, why = "failed", redacted(f"{step}: the process of its notebook ended ({tail[0]}).")
    return Outcome(status, why, round(time.monotonic() - began, 2), watch.peak)


class _Watched:
    """A child process with its descendants: memory, time and interruption are looked at every now and then."""

    def __init__(
        self, child: Child, output: Path, time_limit: float, stop: threading.Event, grace: float
    ):
        self.child, self.output, self.limit, self.stop, self.grace = (
            child,
            output,
            time_limit,
            stop,
            grace,
        )
        self.peak, self.ended, self.why = 0, "", ""
        self._began = time.monotonic()
        self._deadline = None  # when an interrupted kernel is ended
        self._at_once = False  # a second Ctrl-C

    @contextmanager
    def interruptions(self) -> Iterator[None]:
        """Ctrl-C is noted, wherever in here it comes, and the kernel gets it at the next look."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)

        def note(number: int, _frame: object) -> None:
            if number != signal.SIGINT or before is not signal.SIG_IGN:
                self._at_once = self.stop.is_set()
                self.stop.set()

        signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def over(self) -> bool:
        """Wait a moment; whether the child has ended."""
        try:
            self.child.process.wait(POLL)
            return True
        except subprocess.TimeoutExpired:
            pass
        self._measure()
        if self.limit and time.monotonic() - self._began > self.limit:
            self._interrupt("timed out", f"its time limit of {self.limit / 60:g} minutes is over.")
        if self.stop.is_set():
            self._interrupt("interrupted", interruption())
        return self._deadline is not None and (self._at_once or time.monotonic() > self._deadline)

    def _measure(self) -> None:
        used = 0
        for process in self.child.family():
            with suppress(psutil.Error):
                used += process.memory_info().rss
        self.peak = max(self.peak, round(used / 1e6))

    def _interrupt(self, status: str, why: str) -> None:
        if self._deadline is not None:
            return
        self.ended, self.why, self._deadline = status, why, time.monotonic() + self.grace
        kernels = [
            p
            for p in self.child.family()
            if p.is_running() and "ipykernel_launcher" in " ".join(_command(p))
        ]
        for kernel in kernels:
            with suppress(psutil.Error):
                kernel.send_signal(signal.SIGINT)
        if (
            not kernels or not self._has_begun()
        ):  # a kernel with nothing to do does not notice an interruption
            self._deadline = 0.0

    def _has_begun(self) -> bool:
        """Whether a cell has been started, by what papermill has written."""
        written = self.output.read_text(encoding="utf-8") if self.output.exists() else ""
        return '"status": "running"' in written or '"status": "completed"' in written


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _end_with(parent: int) -> None:
    """End this process and its children, and remove its folder, when the parent is gone, however it went."""
    while os.getppid() == parent:
        time.sleep(POLL)
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # one that has just ended
            process.kill()
    shutil.rmtree(_own_folder(), ignore_errors=True)
    os._exit(1)


def _own_folder() -> Path:
    return Path(os.environ[FILE]).parent


def main() -> None:
    """What the process does: read the order, run the notebook, write how it went."""
    threading.Thread(target=_end_with, args=(parent := int(sys.argv[1]),), daemon=True).start()
    # jsonschema, which nbformat imports, would load a grammar of web addresses: a second, for a check that no notebook needs
    sys.modules["rfc3987_syntax"] = None
    import papermill  # noqa: F401  before there is anything to do
    from jupyter_client import AsyncKernelManager
    from jupyter_core.utils import run_sync

    from helpers.runs.notebook import KernelDied, execute

    kernel = AsyncKernelManager(
        kernel_name="python3", connection_file=str(_own_folder() / "kernel.json")
    )
    run_sync(kernel.start_kernel)(extra_arguments=["--HistoryManager.hist_file=:memory:"])
    if not (text := sys.stdin.read()):
        _end_with(parent)
    order = json.loads(text)
    result = {"status": "ok", "message": ""}
    try:
        execute(order["step"], Path(order["output"]), order["parameters"], kernel)
    except KernelDied as error:
        result = {"status": "kernel died", "message": str(error)}
    except UserError as error:
        result = {"status": "failed", "message": str(error)}
    except OSError as error:
        result = {
            "status": "failed",
            "message": f"{order['step']}: its notebook could not be written ({error.strerror}).",
        }
    Path(order["result"]).write_text(redacted(json.dumps(result)))
    run_sync(kernel.shutdown_kernel)(now=True)
    os._exit(0)


if __name__ == "__main__":
    main()
