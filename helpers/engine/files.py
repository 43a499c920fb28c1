"""Hashes of files, and writes that a crash cannot leave half done."""

import errno
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")
_RESULTS: dict[tuple, object] = {}
PATIENCE = 1.0  # seconds for other processes to close a file
REFUSALS = {errno.EACCES, errno.EPERM, errno.EBADF, errno.EINVAL, errno.ENOTSUP}
SETTLED = 2_000_000_000  # nanoseconds: two changes within them may leave a file the same time


def fingerprint(path: Path, record: str | None = "step.json") -> str:
    """A hash of a file, or of the names and contents of a folder's files.

    Of a folder, notebooks, Markdown and Python files are left out, and so is the file `record`.
    """
    if path.is_file():
        files = [path]
    else:
        inside = (p for p in path.rglob("*") if p.suffix not in {".ipynb", ".md", ".py", ".pyc"})
        found = (p for p in inside if p.is_file() and str(p.relative_to(path)) != record)
        files = sorted(found, key=lambda p: p.relative_to(path).parts)
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        name = file.relative_to(path).as_posix()
        digest.update(name.encode() + b"\0" + once(_hash_of, file))
    return digest.hexdigest()


def _hash_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()


def once(read: Callable[[Path], Result], path: Path) -> Result:
    """What `read` returns for a file; it is called again only after the file has changed."""
    now = path.stat()
    key = (read, now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns)
    if key in _RESULTS:
        return _RESULTS[key]
    result = read(path)
    if time.time_ns() - now.st_mtime_ns > SETTLED:
        _RESULTS[key] = result
    return result


def relative(path: Path, start: Path | str = os.curdir) -> str:
    """A path as seen from a folder, with `/`; the whole one where that is on another drive."""
    try:
        return Path(os.path.relpath(path, start)).as_posix()
    except ValueError:
        return path.as_posix()


def flush(path: Path) -> None:
    """Write a file's contents, or a folder's entries, through to the disk.

    It is left out where it is refused: of folders on Windows and on some network disks, of files
    that must not be written.
    """
    writable = path.is_file() and os.access(path, os.W_OK)
    try:
        descriptor = os.open(
            path, os.O_RDWR if writable else os.O_RDONLY
        )  # Windows flushes no other
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in REFUSALS:
            raise


def move(source: Path, target: Path) -> None:
    """Give a file or folder another name; a file that has it is replaced.

    Windows refuses it while another process has the file open, or one in the folder. Most have it
    open for a moment only, so it is tried again for PATIENCE seconds.

    Raises:
        PermissionError: it is still open somewhere.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return os.replace(source, target)
        except PermissionError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def copy_folder(source: Path, target: Path) -> None:
    """Make a folder's copy, as a whole or not at all, with hard links where the disk has them."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}")
    shutil.copytree(source, temporary, copy_function=link)
    move(temporary, target)


def link(source: Path | str, target: Path | str) -> None:
    """Give a file a second name, or where the disk has no hard links a copy."""
    try:
        os.link(source, target)
    except (OSError, AttributeError):
        shutil.copyfile(source, target)


def replace(path: Path, text: str) -> None:
    """Write a text file as a whole: until it is on the disk, the old file stays in its place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    flush(temporary)
    move(temporary, path)
