"""A run: one folder, in which every step leaves its artifact and a record of how it was made.

A step is written into a temporary sibling and renamed when it is complete, so that a folder holds either the old
artifact or the new one, whatever happens. A step that needs an artifact which is missing, or made from something that
has changed since, says which, why, and the command that makes it.

Reading a run never writes to it. What writes to a step holds its lock: from `begin` to `finish`, or until the process
ends; the system lets go of it then, whatever ended it.
"""

import ast
import hashlib
import importlib.metadata
import json
import os
import platform
import resource
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from helpers.engine.files import fingerprint, flush, replace
from helpers.errors import ParameterError, RunError
from helpers.hub.secrets import holds_token, redacted
from helpers.hub.sources import PROJECT, resolve
from helpers.runs.cells import Cells, shell
from helpers.runs.code import code_fingerprint
from helpers.runs.origins import sources
from helpers.runs.parameters import STEPS, check_parameters, folder_of

FORMAT = 1  # of a step's record; a run folder with a greater one comes from newer code
NEEDS = {
    "load": (),
    "preprocess": ("load",),
    "chunk": ("preprocess",),
    "train": ("preprocess", "chunk"),
    "evaluate": ("load", "preprocess", "chunk", "train"),
    "infer": ("train",),
}
PATIENCE = 1.0  # seconds for a process that is ending to let go of its lock
ATTEMPTS = 3  # to read a step that is put in its place at that moment
LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "tokenizers", "numpy")


class Run:
    """A run folder: where its steps lie, what their records say, what is missing or stale."""

    def __init__(self, folder: str | Path):
        if not str(folder).strip() or "\0" in str(folder):
            raise RunError(f"run_dir is {str(folder)!r}: it must be the name of a folder.")
        self.given, self.folder = str(folder), resolve(folder)

    @property
    def shown(self) -> str:
        """The folder as a person would type it: `resolve` leads back to it."""
        return os.path.relpath(self.folder, resolve("."))

    def path(self, step: str) -> Path:
        """The folder of a step's artifact: the old one, as long as the new one is not in its place."""
        return self._old(step) if self._half_published(step) else self._place(step)

    def partial(self, step: str) -> Path:
        """Where a step is written until it is complete."""
        return self.folder / f".{folder_of(step)}.partial"

    def scratch(self, step: str) -> Path:
        """What a step keeps for another attempt, if it is interrupted, until it is complete."""
        return self.folder / f".{folder_of(step)}.scratch"

    def _place(self, step: str) -> Path:
        return self.folder / folder_of(step)

    def _half_published(self, step: str) -> bool:
        return not self._place(step).exists() and self._old(step).exists()

    def lock(self, step: str) -> FileLock:
        """Take what writes to a step, and mend what a killed process has left of it.

        The lock is held until its `release`, or until this process ends. Raises RunError where
        another process has it, or where the folder cannot be written.
        """
        path = self.folder / ".locks" / f"{folder_of(step)}.lock"
        holder = path.with_suffix(".holder")  # not the lock itself: Windows lets nobody read that
        lock = FileLock(path, timeout=PATIENCE, thread_local=False, is_singleton=True)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            holder.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
            self._recover(step)
        except Timeout:
            raise RunError(
                f"run_dir is {self.given!r}: {_read(holder) or 'another process'} is at its step "
                f"{step!r}; wait for it, end it (a notebook: shut its kernel down), or name another."
            ) from None
        except OSError as error:
            lock.release()
            raise RunError(
                f"run_dir is {self.given!r}: it cannot be written ({error.strerror}), name another."
            ) from None
        return lock

    def _old(self, step: str) -> Path:
        return self.folder / f".{folder_of(step)}.old"

    def _recover(self, step: str) -> None:
        """After a kill in the middle of `publish`: the old artifact again, or only the new one."""
        if self._half_published(step):
            os.rename(self._old(step), self._place(step))
        elif self._old(step).exists():
            shutil.rmtree(self._old(step))

    def record(self, step: str) -> dict | None:
        """What a step's `step.json` says, or None where the step has not been done."""
        for _ in range(ATTEMPTS):  # it may be put in its place just now
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
        if record.get("format", 0) > FORMAT:
            raise RunError(
                f"{path} has format {record['format']}, this code reads up to {FORMAT}: update the code, or use another run_dir."
            )
        return record

    def problem(self, step: str) -> str | None:
        """Why a step's artifact cannot be used, or None: it, or one that it was made from, is missing, edited or stale."""
        return self.problems(_with_ancestors(step))[step]

    def problems(self, steps: Sequence[str] = STEPS) -> dict[str, str | None]:
        """`problem` for several steps, in the order in which they are done and with all that they are made from."""
        for _ in range(ATTEMPTS):
            records = {step: self.record(step) for step in steps}
            found = {step: self._own_problem(step, records) for step in steps}
            if records == {step: self.record(step) for step in steps}:
                break  # else a step was put in its place meanwhile
        return {s: next((found[n] for n in _with_ancestors(s) if found[n]), None) for s in steps}

    def _own_problem(self, step: str, records: dict[str, dict | None]) -> str | None:
        if (record := records[step]) is None:
            return f"step {step!r} has not been done in {self.shown}"
        for need in NEEDS[step]:
            if records[need] and records[need]["fingerprint"] != record["inputs"][need]:
                return f"step {step!r} in {self.shown} was made from another {need!r} than the one that is there now"
        try:
            same = fingerprint(self.path(step)) == record["fingerprint"]
        except FileNotFoundError:
            same = False
        return (
            None
            if same
            else f"the artifact of step {step!r} in {self.shown} has been changed since it was written"
        )

    def is_done(self, step: str, parameters: dict) -> bool:
        """Whether a step is there as it would be made now: same parameters, same inputs, same code."""
        record = self.record(step)
        return (
            record is not None
            and record["parameters"] == parameters
            and all(
                record["sources"].get(kind) == made_of
                for kind, made_of in sources(parameters).items()
            )
            and record["code"] == code_fingerprint(step)
            and self.problem(step) is None
            and self.record(step) == record
        )

    def publish(self, step: str) -> None:
        """Put a step's complete partial folder in the place of the old one."""
        for path in [*self.partial(step).rglob("*"), self.partial(step)]:
            if path.is_file() and holds_token(path):
                raise RunError(
                    f"{path.relative_to(self.partial(step))} of step {step!r} holds what looks like a token of the Hub: nothing was kept of it; take it out of the data."
                )
            flush(path)
        if self._place(step).exists():
            os.rename(self._place(step), self._old(step))
        os.rename(self.partial(step), self._place(step))
        flush(self.folder)
        if self._old(step).exists():
            shutil.rmtree(self._old(step))

    def write_metrics(self) -> dict[str, float | str]:
        """Gather the metrics of every step that is there and fresh into `metrics.json`."""
        metrics: dict[str, float | str] = {}
        for step, problem in self.problems().items():
            if problem is None and (record := self.record(step)):
                metrics |= record["metrics"] | {f"seconds_{step}": record["seconds"]}
        write_json(self.folder / "metrics.json", metrics)
        return metrics


class Step:
    """A step that is being done: where its inputs lie, and where its artifact is to be written.

    A process does one step at a time: what an earlier `begin` has given cannot be used any more.
    """

    current: "Step | None" = None
    cells = Cells()

    def __init__(self, run: Run, name: str, parameters: dict):
        self.run, self.name = run, name
        self.parameters = check_parameters(name, parameters)
        self.records = {need: run.record(need) for need in NEEDS[name]}
        for need in NEEDS[name]:
            if why := run.problem(need):
                command = f"python -m helpers run --run-dir {shlex.quote(run.shown)} --from {_first_to_do(run, name)}"
                raise RunError(f"{name} cannot start: {why}; make it with `{command}`.")
        self.first = (
            os.environ.get("RANK", "0") == "0"
        )  # of several processes that train together, one writes
        self.scratch, self._finished = run.scratch(name), False
        self._sources, self._code = sources(self.parameters), code_fingerprint(name)
        self._lock = run.lock(name) if self.first else None
        self._path = run.partial(name) if self.first else Path(tempfile.mkdtemp())
        shutil.rmtree(self._path, ignore_errors=True)
        self._path.mkdir(exist_ok=True)
        self._began = time.perf_counter()

    @property
    def path(self) -> Path:
        """The folder into which the artifact is written."""
        self._check_current()
        return self._path

    @property
    def inputs(self) -> dict[str, Path]:
        """The folders of the artifacts that this step is made from."""
        return {need: self.run.path(need) for need in NEEDS[self.name]}

    @property
    def unfinished(self) -> Path:
        """Where an attempt with these parameters, inputs and code leaves what another can go on from."""
        self._check_current()
        made_of = {**self._made_of(), "processes": os.environ.get("WORLD_SIZE", "1")}
        digest = hashlib.blake2b(
            json.dumps(made_of, sort_keys=True).encode(), digest_size=8
        ).hexdigest()
        folder = self.scratch / digest
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def finish(self, **metrics: float | str) -> None:
        """Write the record, and put the artifact in its place. `metrics` are what is worth comparing between runs.

        Raises RunError where what has been written may not be what the record would say: a cell has
        failed or was left out since `begin`, or a parameter, a source or an input has changed.
        """
        self._check_current()
        if why := self.cells.problem():
            raise RunError(
                f"{self.name} cannot be finished: {why}; run it again, and the cells after it, or all from `begin` on."
            )
        made_of = self._made_of()
        if self.first:
            record = self._record(made_of, metrics)
            (self._path / "step.json").write_text(json.dumps(record, indent=1) + "\n")
            self.run.publish(self.name)
            shutil.rmtree(self.scratch, ignore_errors=True)
        self._finished = True
        self.cells.end()
        self.leave()
        if self.first:
            self.run.write_metrics()

    def leave(self) -> None:
        """Let others write to this step; what has not been published of it is removed."""
        if not self._lock or self._lock.is_locked:
            shutil.rmtree(self._path, ignore_errors=True)
        if self._lock:
            self._lock.release(force=True)

    def _check_current(self) -> None:
        if self._finished:
            raise RunError(
                f"{self.name} is finished already: for another attempt, run the notebook from `begin` on (or all of it)."
            )
        if Step.current is not self:
            raise RunError(
                f"{self.name} was begun again since, or another step was: run the notebook from `begin` on."
            )

    def _made_of(self) -> dict[str, object]:
        """What decides what comes out, as it was at `begin`; RunError where it is not so any more."""
        made_from, user = sources(self.parameters), shell().user_ns if shell() else {}
        changed = [kind for kind, was in self._sources.items() if made_from.get(kind) != was]
        for need, was in self.records.items():
            if (self.run.record(need) or {}).get("fingerprint") != was["fingerprint"]:
                changed.append(f"step {need!r}")
        for name, was in self.parameters.items():
            if type(now := user.get(name, was)) in (int, float, bool, str) and now != was:
                changed.append(name)
        if changed:
            raise RunError(
                f"{self.name} cannot go on: {changed[0]} has changed since `begin`, run the notebook from `begin` on."
            )
        return {
            "parameters": self.parameters,
            "sources": made_from,
            "inputs": {need: record["fingerprint"] for need, record in self.records.items()},
            "code": self._code,
        }

    def _record(
        self, made_of: dict[str, object], metrics: dict[str, float | str]
    ) -> dict[str, object]:
        cuda = "torch" in sys.modules and sys.modules["torch"].cuda.is_available()
        return {
            "format": FORMAT,
            "step": self.name,
            **made_of,
            "code": self._code
            if code_fingerprint(self.name) == self._code
            else "changed meanwhile",
            "fingerprint": fingerprint(self._path),
            "metrics": metrics,
            "seconds": round(time.perf_counter() - self._began, 2),
            "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            "device": "cuda" if cuda else "cpu",
            "versions": {"python": platform.python_version()}
            | {name: importlib.metadata.version(name) for name in LIBRARIES},
        }


def begin(step: str, run_dir: str, **parameters: object) -> Step:
    """Start a step of the run in `run_dir`; an earlier attempt of this process is given up.

    Checks every parameter and the artifacts that the step needs before any work; raises ParameterError or RunError with
    one sentence that says what would do.
    """
    if Step.current:
        Step.current.leave()
        Step.current = None
    Step.cells.begin(PROJECT / "notebooks" / f"{folder_of(step)}.ipynb")
    if not isinstance(run_dir, str) or not run_dir.strip():
        raise ParameterError("run_dir", run_dir, "it must be a text that is not empty")
    _refuse_unknown(step)
    Step.current = Step(Run(run_dir), step, parameters)
    return Step.current


def _with_ancestors(step: str) -> list[str]:
    """A step and all that it is made from, in the order in which they are done."""
    wanted = {step}
    for name in reversed(STEPS):
        wanted |= set(NEEDS[name]) if name in wanted else set()
    return [name for name in STEPS if name in wanted]


def _first_to_do(run: Run, step: str) -> str:
    """The earliest step that has to be done before `step` can start."""
    return next(s for s in STEPS if s == step or run.problem(s) is not None)


def _refuse_unknown(step: str) -> None:
    """Papermill only logs a parameter that a notebook does not have; look at the cell it injected, and refuse."""
    user = shell().user_ns if shell() else {}
    for cell in user.get("In", []):
        if cell.startswith("# Parameters\n"):
            names = [
                t.id
                for node in ast.parse(cell).body
                if isinstance(node, ast.Assign)
                for t in node.targets
            ]
            check_parameters(step, {n: user[n] for n in names if n != "run_dir"})


def identity(parameters: Mapping[str, Mapping[str, object]], step: str) -> str:
    """What a step is made of, as a hash: its parameters and those of the steps before it, their sources, and the code."""
    made_of = [
        [s, parameters[s], sources(parameters[s]), code_fingerprint(s)]
        for s in _with_ancestors(step)
    ]
    return hashlib.blake2b(json.dumps(made_of, sort_keys=True).encode(), digest_size=8).hexdigest()


def _read(path: Path) -> str | None:
    """The text of a file, or None where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_json(path: Path, content: object) -> None:
    """Write JSON without tokens, durable, and with the old file in its place until then."""
    replace(path, redacted(json.dumps(content, indent=1)) + "\n")
