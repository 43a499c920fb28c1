"""Files: hashes of their contents, and writes that a crash cannot leave half done."""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")
_RESULTS: dict[tuple, object] = {}
SETTLED = 2_000_000_000  # nanoseconds: two changes within them may leave a file the same time


def fingerprint(path: Path, record: str | None = "step.json") -> str:
    """A hash of a file, or of the names and contents of a folder's files.

    Of a folder, notebooks, Markdown and Python files are left out, and so is the file `record`.
    """
    if path.is_file():
        files = [path]
    else:
        inside = (p for p in path.rglob("*") if p.suffix not in {".ipynb", ".md", ".py", ".pyc"})
        files = sorted(p for p in inside if p.is_file() and str(p.relative_to(path)) != record)
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        digest.update(str(file.relative_to(path)).encode() + b"\0" + once(_hash_of, file))
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


def flush(path: Path) -> None:
    """Write a file's contents, or a folder's entries, through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(path: Path, text: str) -> None:
    """Write a text file as a whole: until it is on the disk, the old file stays in its place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    flush(temporary)
    os.replace(temporary, path)
