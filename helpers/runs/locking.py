"""The lock of a run folder."""

import fcntl
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from helpers.errors import RunError

PATIENCE = 3.0  # seconds for the children of a killed runner to end and release its lock


@contextmanager
def folder_lock(
    folder: Path, name: str = ".lock", wait: bool = False, stop: threading.Event | None = None
) -> Iterator[int]:
    """Lock a folder for this process and its children, until the last of them ends.

    Raises RunError if another process holds the lock. With `wait`, waits for it instead, and
    raises KeyboardInterrupt once `stop` is set. Yields the descriptor that holds the lock.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / name, "a+")  # noqa: SIM115
    except OSError as error:
        raise RunError(
            f"run_dir is {str(folder)!r}: it cannot be written ({error.strerror}), name another."
        ) from None
    with file as lock:
        deadline = time.monotonic() + PATIENCE
        while not _locked(lock):
            if stop and stop.is_set():
                raise KeyboardInterrupt
            if not wait and time.monotonic() > deadline:
                lock.seek(0)
                raise RunError(
                    f"run_dir is {folder.name!r}: another run holds it ({lock.read().strip()}); "
                    "wait for it, end it, or name another."
                )
            time.sleep(0.1)
        lock.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        lock.write(f"process {os.getpid()} on {platform.node()}, since {since}\n")
        lock.flush()
        yield lock.fileno()


def _locked(file) -> bool:
    """Try to lock an open file."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
