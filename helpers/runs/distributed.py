"""Training on several devices or machines: several processes execute the code of notebook 04.

`python -m helpers train --nproc N` starts them: parameters are checked before, the cores are
shared, an interruption saves a checkpoint, and an error is one sentence. `torchrun … -m helpers
train` and `accelerate launch … -m helpers train` do without it. One process writes and prints.
"""

import _thread
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from helpers.errors import RunError
from helpers.runs.folder import Run
from helpers.runs.notebook import path_of
from helpers.runs.process import APART, GRACE, POLL
from helpers.runs.profiles import plan
from helpers.runs.record import start_record

MARK = "helpers: "  # before the message of an error, in the output of a process
LAUNCHED = "HELPERS_LAUNCHED"  # a process whose standard input ends with the one that started it


def train(run_dir: str, profile: str, settings: Mapping[str, object], nproc: int) -> None:
    """Do step `train` of a run in `nproc` processes; UserError where it cannot be done."""
    parameters, run = plan(profile, settings), Run(run_dir)
    is_first = os.environ.get("RANK", "0") == "0"
    if is_first and run.folder.is_dir():
        start_record(run, profile, settings, parameters, "only its step train was requested.")
    if "RANK" in os.environ or nproc == 1:
        if LAUNCHED in os.environ:
            threading.Thread(target=_follow, daemon=True).start()
        if not is_first:
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        _execute({"run_dir": run.shown, **parameters["train"]})
        return
    # The run folder remembers the profile and the settings.
    command = [sys.executable, "-m", "helpers", "train", "--run-dir", run.shown]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        why = _launch(command, nproc, Path(folder))
    if why:
        raise RunError(f"train failed in {nproc} processes: {why}")


def _launch(command: list[str], nproc: int, folder: Path) -> str:
    """Run a command in processes that find each other; why one of them failed, or ''.

    Each has a file for its errors in `folder`. Ctrl-C interrupts them all, which then save a
    checkpoint; after GRACE seconds, or at a second Ctrl-C, they are killed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    threads = max(1, (os.cpu_count() or nproc) // nproc)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ, **address, LAUNCHED: "1"}
    environment |= {"WORLD_SIZE": str(nproc), "LOCAL_WORLD_SIZE": str(nproc)}
    workers: list[subprocess.Popen] = []
    try:
        for rank in map(str, range(nproc)):
            environment |= {"RANK": rank, "LOCAL_RANK": rank}
            with (folder / rank).open("wb") as errors:
                pipes = {"stdin": subprocess.PIPE, "stderr": errors}
                workers.append(subprocess.Popen(command, env=environment, **pipes, **APART))
        _wait(workers)
        failed = [folder / str(number) for number, worker in enumerate(workers) if worker.poll()]
    except OSError as error:
        raise RunError(
            f"nproc is {nproc}: the processes could not be started ({error.strerror})."
        ) from None
    except KeyboardInterrupt:
        for worker in workers:
            with suppress(OSError):  # it has ended
                worker.stdin.write(b"interrupt\n")
                worker.stdin.flush()
        _wait(workers, time.monotonic() + GRACE)
        raise
    finally:
        _kill(workers)
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in failed]
    marked = [line for text in texts for line in text.splitlines() if line.startswith(MARK)]
    return marked[0].removeprefix(MARK) if marked else "".join(f"\n{t[-2000:]}" for t in texts[:1])


def _wait(workers: list[subprocess.Popen], deadline: float = math.inf) -> None:
    """Wait until all have ended, or one has failed and there is no deadline for the others."""
    while any(worker.poll() is None for worker in workers) and time.monotonic() < deadline:
        if deadline == math.inf and any(worker.poll() for worker in workers):
            break
        time.sleep(POLL)


def _kill(workers: list[subprocess.Popen]) -> None:
    """Kill those that have not ended, with all that they have started."""
    for worker in workers:
        family = []
        with suppress(psutil.Error):
            family = psutil.Process(worker.pid).children(recursive=True)
        worker.kill()
        for process in family:
            with suppress(psutil.Error):
                process.kill()
        worker.wait()
        with suppress(OSError):
            worker.stdin.close()


def _follow() -> None:
    """Interrupt this process when the one that started it says so, and end with that."""
    while os.read(sys.stdin.fileno(), 100):  # a thread that waits in sys.stdin spoils the exit
        _thread.interrupt_main()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            process.kill()
    os._exit(1)


def _execute(parameters: dict[str, object]) -> None:
    """Run the code cells of the notebook, with these parameters in place of its own."""
    path = path_of("train")
    names: dict[str, object] = {"__name__": "__main__"}
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), names)
            if "parameters" in cell["metadata"].get("tags", []):
                names |= parameters
