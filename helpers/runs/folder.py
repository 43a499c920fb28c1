"""A run's folder: where steps lie, which are missing, edited or stale.

A step is written into a temporary sibling and renamed once it is complete, so that the folder
always holds either the old artifact or the new one. Reading a run never writes to it.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath

from filelock import FileLock

from helpers.engine.files import copy_folder, fingerprint, flush, move, relative, replace
from helpers.errors import RunError
from helpers.hub.secrets import holds_token, redacted
from helpers.hub.sources import resolve
from helpers.runs.code import code_fingerprint
from helpers.runs.locking import acquire
from helpers.runs.origins import sources
from helpers.runs.parameters import STEPS, folder_of

FORMAT = 2  # of a step's record; a higher one comes from newer code, 1 had no validation part
NEEDS = {
    "load": (),
    "preprocess": ("load",),
    "chunk": ("preprocess",),
    "train": ("preprocess", "chunk"),
    "evaluate": ("load", "preprocess", "chunk", "train"),
    "infer": ("load", "train"),
}
# What Windows keeps for devices, and what it cuts off the end of a name:
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*[. ]", re.IGNORECASE)
LOCK_TIMEOUT = 1.0  # seconds for a process that is ending to release its lock
ATTEMPTS = 3  # to read a step while another process publishes it


class Run:
    """A run folder: where its steps are, what their records say, what is missing or stale."""

    def __init__(self, folder: str | Path):
        check_name("run_dir", str(folder))
        self.folder = resolve(folder)

    @property
    def shown(self) -> str:
        """The folder as a person would type it; `resolve` returns it to the absolute path."""
        return relative(self.folder, resolve("."))

    def path(self, step: str) -> Path:
        """The folder of a step's artifact: the old one until the new one is in its place."""
        return self._old(step) if self._half_published(step) else self._final(step)

    def partial(self, step: str) -> Path:
        """Where a step is written until it is complete."""
        return self.folder / f".{folder_of(step)}.partial"

    def scratch(self, step: str) -> Path:
        """What an interrupted step keeps for the next attempt, until the step is complete."""
        return self.folder / f".{folder_of(step)}.scratch"

    def _final(self, step: str) -> Path:
        return self.folder / folder_of(step)

    def _old(self, step: str) -> Path:
        return self.folder / f".{folder_of(step)}.old"

    def _half_published(self, step: str) -> bool:
        return not self._final(step).exists() and self._old(step).exists()

    def lock(self, step: str) -> FileLock:
        """Lock a step for writing, and repair what a killed process has left of it.

        The lock is held until its `release`, or until this process ends. Raises RunError where
        another process has it, or where the folder cannot be written.
        """
        doing = f"is writing its step {step!r}"
        lock = acquire(self.folder, folder_of(step), doing, LOCK_TIMEOUT)
        try:
            if self._half_published(step):  # by a process that was killed inside `publish`
                move(self._old(step), self._final(step))
        except BaseException:
            lock.release()
            raise
        shutil.rmtree(self._old(step), ignore_errors=True)
        return lock

    def make_partial(self, step: str) -> Path:
        """A new folder to write a step into, in place of what earlier attempts have left.

        On Windows, what is still mapped into memory cannot be removed; then it gets another name.
        """
        for left in self.folder.glob(f".{folder_of(step)}.[p0-9]*"):  # also of `copy_folder`
            shutil.rmtree(left, ignore_errors=True)
        path, number = self.partial(step), 1
        while path.exists():
            number += 1
            path = self.partial(step).with_suffix(f".partial{number}")
        path.mkdir()
        return path

    def record(self, step: str) -> dict | None:
        """The content of a step's `step.json`, or None where the step has not been done."""
        for _ in range(ATTEMPTS):
            path = self.path(step) / "step.json"
            if (text := _read(path)) is not None:
                break
        else:
            return None
        try:
            record = json.loads(text)
        except ValueError:
            raise RunError(
                f"{path} is damaged: delete the folder it lies in, and do step {step!r} again."
            ) from None
        if (found := record.get("format", 0)) != FORMAT:
            needed = (
                "update the code, or use another run_dir"
                if found > FORMAT
                else f"delete {self.shown}, or use another run_dir"
            )
            raise RunError(f"{path} has format {found}, this code reads {FORMAT}: {needed}.")
        return record

    def problem(self, step: str) -> str | None:
        """Why a step cannot be used: it, or a step before it, is missing, edited or stale."""
        return self.problems(with_ancestors(step))[step]

    def problems(self, steps: Sequence[str] = STEPS) -> dict[str, str | None]:
        """`problem` of several steps, given in order and with all that they are made from."""
        for _ in range(ATTEMPTS):
            records = {step: self.record(step) for step in steps}
            own = {step: self._own_problem(step, records) for step in steps}
            if records == {step: self.record(step) for step in steps}:
                break  # no step was published meanwhile
        return {s: next((own[n] for n in with_ancestors(s) if own[n]), None) for s in steps}

    def _own_problem(self, step: str, records: dict[str, dict | None]) -> str | None:
        if (record := records[step]) is None:
            return f"step {step!r} has not been done in {self.shown}"
        name = f"step {step!r} in {self.shown}"
        for need in NEEDS[step]:
            if records[need] and records[need]["fingerprint"] != record["inputs"][need]:
                return f"{name} was made from another {need!r} than the one that is there now"
        try:
            unchanged = fingerprint(self.path(step)) == record["fingerprint"]
        except FileNotFoundError:
            unchanged = False
        return (
            None if unchanged else f"the artifact of {name} has been changed since it was written"
        )

    def is_done(self, step: str, parameters: dict) -> bool:
        """Whether a step's artifact has these parameters and the current inputs and code."""
        record = self.record(step)
        return (
            record is not None
            and record["parameters"] == parameters
            and sources(parameters).items() <= record["sources"].items()
            and record["code"] == code_fingerprint(step)
            and self.problem(step) is None
            and self.record(step) == record
        )

    def publish(self, step: str, partial: Path) -> None:
        """Replace the old artifact of a step by the complete one in `partial`.

        Raises RunError, and changes nothing, where that holds a token, or where Windows does not
        let go of the old one, which another process has open or mapped into memory.
        """
        final, old = self._final(step), self._old(step)
        for path in [*partial.rglob("*"), partial]:
            if path.is_file() and holds_token(path):
                raise RunError(
                    f"{path.relative_to(partial)} of step {step!r} holds what looks like a token "
                    "of the Hub: nothing was kept of it; take it out of the data."
                )
            flush(path)
        try:
            if final.exists():
                move(final, old)
        except PermissionError:
            raise RunError(
                f"{step} cannot replace {final.name} in {self.shown}, which another notebook has "
                "open: shut the kernels of the later notebooks down, and run this cell again."
            ) from None
        try:
            move(partial, final)
        except PermissionError:  # this process has a file in it mapped into memory
            copy_folder(partial, final)
        flush(self.folder)
        shutil.rmtree(old, ignore_errors=True)

    def write_metrics(self) -> dict[str, float | str]:
        """Write the metrics of every usable step into `metrics.json`, and return them."""
        metrics: dict[str, float | str] = {}
        for step, problem in self.problems().items():
            if problem is None and (record := self.record(step)):
                metrics |= record["metrics"] | {f"seconds_{step}": record["seconds"]}
        write_json(self.folder / "metrics.json", metrics)
        return metrics


def check_name(parameter: str, name: str) -> None:
    """RunError for the name of a folder that cannot be, on this system or on Windows."""
    if not name.strip() or "\0" in name:
        raise RunError(f"{parameter} is {name!r}: it must be the name of a folder.")
    path = PureWindowsPath(name)
    for part in [path.name] if path.anchor else path.parts:
        if RESERVED.fullmatch(part) and part not in (".", ".."):
            raise RunError(
                f"{parameter} is {name!r}: Windows has no folders named {part!r}, choose another."
            )
    if "\\" in name and os.sep == "/":
        raise RunError(f"{parameter} is {name!r}: separate folders with / on this system.")


def with_ancestors(step: str) -> list[str]:
    """A step and all that it is made from, in the order in which they are done."""
    wanted = {step}
    for name in reversed(STEPS):
        wanted |= set(NEEDS[name]) if name in wanted else set()
    return [name for name in STEPS if name in wanted]


def identity(parameters: Mapping[str, Mapping[str, object]], step: str) -> str:
    """A hash of all that determines a step: parameters, sources and code, its ancestors' too."""
    made_of = [
        [s, parameters[s], sources(parameters[s]), code_fingerprint(s)]
        for s in with_ancestors(step)
    ]
    return hash_of(made_of)


def hash_of(content: object) -> str:
    """A short hash of what JSON can hold."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _read(path: Path) -> str | None:
    """The text of a file, or None where there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_json(path: Path, content: object) -> None:
    """Write JSON without tokens, durably, keeping the old file until the new one is complete."""
    replace(path, redacted(json.dumps(content, indent=1)) + "\n")
