"""The lock of a run folder: each process that writes holds one of its own, until it ends."""

import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from helpers.errors import RunError

PATIENCE = 3.0  # seconds for the notebook of a killed runner to end, and release its lock
RUN, NOTEBOOK = "run", "notebook"  # the runner's lock, and that of the process of its notebook


def acquire(
    folder: Path,
    name: str,
    doing: str = "holds it",
    timeout: float = PATIENCE,
    stop: threading.Event | None = None,
) -> FileLock:
    """Lock something of a folder, until the lock's `release` or the end of this process.

    Args:
        folder: of a run, or the shared one of a sweep; made if it is not there.
        name: what is locked.
        doing: what the holder is doing, for the message.
        timeout: how long to wait for the holder, in seconds; -1: for ever.
        stop: once it is set, KeyboardInterrupt is raised.

    Raises:
        RunError: another process has the lock, or the folder cannot be written.
    """
    path = folder / ".locks" / f"{name}.lock"
    holder = path.with_suffix(".holder")  # Windows does not let others read a locked file
    lock = FileLock(path, timeout=timeout, thread_local=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(cancel_check=stop and stop.is_set)
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        with suppress(OSError):  # the disk is full
            who = f"process {os.getpid()} on {platform.node()}, since {now},"
            holder.write_text(who, encoding="utf-8")
    except Timeout:
        if stop and stop.is_set():
            raise KeyboardInterrupt from None
        who = holder.read_text(encoding="utf-8") if holder.exists() else "another process"
        raise RunError(
            f"run_dir is {folder.name!r}: {who} {doing}; wait for it, end it (a notebook: shut "
            "its kernel down), or name another."
        ) from None
    except OSError as error:
        lock.release()
        raise RunError(
            f"run_dir is {str(folder)!r}: it cannot be written ({error.strerror}), name another."
        ) from None
    return lock


@contextmanager
def folder_lock(
    folder: Path, name: str = RUN, wait: bool = False, stop: threading.Event | None = None
) -> Iterator[None]:
    """`acquire` for the `with` block; with `wait`, however long the holder takes."""
    lock = acquire(folder, name, timeout=-1 if wait else PATIENCE, stop=stop)
    try:
        yield
    finally:
        lock.release()
