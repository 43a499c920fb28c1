"""A run: one folder, in which every step leaves its artifact and a record of how it was made.

A step is written into a temporary sibling and renamed when it is complete, so that a folder holds either the old
artifact or the new one, whatever happens. A step that needs an artifact which is missing, or made from something that
has changed since, says which, why, and the command that makes it.
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
from collections.abc import Mapping
from pathlib import Path

from helpers.errors import ParameterError, RunError
from helpers.parameters import STEPS, check_parameters, folder_of
from helpers.redaction import holds_token, redacted
from helpers.sources import PROJECT, fingerprint, resolve, sources

FORMAT = 1  # of a step's record; a run folder with a greater one comes from newer code
NEEDS = {
    "load": (),
    "preprocess": ("load",),
    "chunk": ("preprocess",),
    "train": ("preprocess", "chunk"),
    "evaluate": ("load", "preprocess", "chunk", "train"),
    "infer": ("train",),
}
LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "tokenizers", "numpy")


def code_fingerprint(step: str) -> str:
    """A hash of what a step executes: the code cells of its notebook and the modules of this package."""
    digest = hashlib.blake2b(digest_size=16)
    for module in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(module.read_bytes())
    notebook = PROJECT / "notebooks" / f"{folder_of(step)}.ipynb"
    if notebook.exists():
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        digest.update(json.dumps([c["source"] for c in cells if c["cell_type"] == "code"]).encode())
    return digest.hexdigest()


class Run:
    """A run folder: where its steps lie, what their records say, what is missing or stale."""

    def __init__(self, folder: str | Path):
        self.folder = resolve(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for step in STEPS if os.environ.get("RANK", "0") == "0" else ():
                self._recover(step)
            probe = self.folder / f".write-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise RunError(
                f"run_dir is {str(folder)!r}: it cannot be written ({error.strerror}), name another."
            ) from None

    @property
    def shown(self) -> str:
        """The folder as a person would type it: `resolve` leads back to it."""
        return os.path.relpath(self.folder, resolve("."))

    def path(self, step: str) -> Path:
        """The folder of a step's artifact."""
        return self.folder / folder_of(step)

    def partial(self, step: str) -> Path:
        """Where a step is written until it is complete."""
        return self.folder / f".{folder_of(step)}.partial"

    def scratch(self, step: str) -> Path:
        """What a step keeps for another attempt, if it is interrupted, until it is complete."""
        return self.folder / f".{folder_of(step)}.scratch"

    def _old(self, step: str) -> Path:
        return self.folder / f".{folder_of(step)}.old"

    def _recover(self, step: str) -> None:
        """After a kill in the middle of `publish`: the old artifact again, or only the new one."""
        if self._old(step).exists():
            if self.path(step).exists():
                shutil.rmtree(self._old(step))
            else:
                os.rename(self._old(step), self.path(step))

    def record(self, step: str) -> dict | None:
        """What a step's `step.json` says, or None where the step has not been done."""
        path = self.path(step) / "step.json"
        if not path.exists():
            return None
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise RunError(f"{path} is damaged: delete the folder it lies in, and do step {step!r} again.") from None
        if record.get("format", 0) > FORMAT:
            raise RunError(
                f"{path} has format {record['format']}, this code reads up to {FORMAT}: update the code, or use another run_dir."
            )
        return record

    def problem(self, step: str) -> str | None:
        """Why a step's artifact cannot be used, or None: it, or one that it was made from, is missing, edited or stale."""
        records: dict[str, dict] = {}
        for name in _with_ancestors(step):
            record = records[name] = self.record(name)
            if record is None:
                return f"step {name!r} has not been done in {self.shown}"
            for need in NEEDS[name]:
                if records[need]["fingerprint"] != record["inputs"][need]:
                    return (
                        f"step {name!r} in {self.shown} was made from another {need!r} than the one that is there now"
                    )
            if fingerprint(self.path(name)) != record["fingerprint"]:
                return f"the artifact of step {name!r} in {self.shown} has been changed since it was written"
        return None

    def is_done(self, step: str, parameters: dict) -> bool:
        """Whether a step is there as it would be made now: same parameters, same inputs, same code."""
        record = self.record(step)
        return (
            record is not None
            and record["parameters"] == parameters
            and all(record["sources"].get(kind) == made_of for kind, made_of in sources(parameters).items())
            and record["code"] == code_fingerprint(step)
            and self.problem(step) is None
        )

    def publish(self, step: str) -> None:
        """Put a step's complete partial folder in the place of the old one."""
        for path in [*self.partial(step).rglob("*"), self.partial(step)]:
            if path.is_file() and holds_token(path):
                raise RunError(
                    f"{path.relative_to(self.partial(step))} of step {step!r} holds what looks like a token of the Hub: nothing was kept of it; take it out of the data."
                )
            flush(path)
        if self.path(step).exists():
            os.rename(self.path(step), self._old(step))
        os.rename(self.partial(step), self.path(step))
        flush(self.folder)
        if self._old(step).exists():
            shutil.rmtree(self._old(step))

    def write_metrics(self) -> dict[str, float | str]:
        """Gather the metrics of every step that is there and fresh into `metrics.json`."""
        metrics: dict[str, float | str] = {}
        for step in STEPS:
            if self.problem(step) is None:
                record = self.record(step)
                metrics |= record["metrics"] | {f"seconds_{step}": record["seconds"]}
        write_json(self.folder / "metrics.json", metrics)
        return metrics


class Step:
    """A step that is being done: where its inputs lie, and where its artifact is to be written."""

    def __init__(self, run: Run, name: str, parameters: dict):
        self.run, self.name = run, name
        self.parameters = check_parameters(name, parameters)
        for need in NEEDS[name]:
            if why := run.problem(need):
                command = f"python -m helpers run --run-dir {shlex.quote(run.shown)} --from {_first_to_do(run, name)}"
                raise RunError(f"{name} cannot start: {why}; make it with `{command}`.")
        self.inputs = {need: run.path(need) for need in NEEDS[name]}
        self.records = {need: run.record(need) for need in NEEDS[name]}
        self.first = os.environ.get("RANK", "0") == "0"  # of several processes that train together, one writes
        self.path = run.partial(name) if self.first else Path(tempfile.mkdtemp())
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir()
        self.scratch = run.scratch(name)
        self._began = time.perf_counter()

    @property
    def unfinished(self) -> Path:
        """Where an attempt with these parameters, inputs and code leaves what another can go on from; that of others is removed."""
        made_of = {
            "parameters": self.parameters,
            "sources": sources(self.parameters),
            "code": code_fingerprint(self.name),
        }
        made_of["inputs"] = {need: record["fingerprint"] for need, record in self.records.items()}
        made_of["processes"] = os.environ.get("WORLD_SIZE", "1")
        digest = hashlib.blake2b(json.dumps(made_of, sort_keys=True).encode(), digest_size=8).hexdigest()
        for other in self.scratch.glob("*") if self.first else ():
            if other.name != digest:
                shutil.rmtree(other)
        folder = self.scratch / digest
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def finish(self, **metrics: float | str) -> None:
        """Write the record, and put the artifact in its place. `metrics` are what is worth comparing between runs."""
        if not self.first:
            shutil.rmtree(self.path)
            return
        cuda = "torch" in sys.modules and sys.modules["torch"].cuda.is_available()
        record = {
            "format": FORMAT,
            "step": self.name,
            "parameters": self.parameters,
            "sources": sources(self.parameters),
            "inputs": {need: record["fingerprint"] for need, record in self.records.items()},
            "fingerprint": fingerprint(self.path),
            "code": code_fingerprint(self.name),
            "metrics": metrics,
            "seconds": round(time.perf_counter() - self._began, 2),
            "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            "device": "cuda" if cuda else "cpu",
            "versions": {"python": platform.python_version()}
            | {name: importlib.metadata.version(name) for name in LIBRARIES},
        }
        (self.path / "step.json").write_text(json.dumps(record, indent=1) + "\n")
        self.run.publish(self.name)
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.run.write_metrics()


def begin(step: str, run_dir: str, **parameters: object) -> Step:
    """Start a step of the run in `run_dir`.

    Checks every parameter and the artifacts that the step needs before any work; raises ParameterError or RunError with
    one sentence that says what would do.
    """
    if not isinstance(run_dir, str) or not run_dir.strip():
        raise ParameterError("run_dir", run_dir, "it must be a text that is not empty")
    _refuse_unknown(step)
    return Step(Run(run_dir), step, parameters)


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
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    for cell in shell.user_ns.get("In", []) if shell else []:
        if cell.startswith("# Parameters\n"):
            names = [t.id for node in ast.parse(cell).body if isinstance(node, ast.Assign) for t in node.targets]
            check_parameters(step, {n: shell.user_ns[n] for n in names if n != "run_dir"})


def identity(parameters: Mapping[str, Mapping[str, object]], step: str) -> str:
    """What a step is made of, as a hash: its parameters and those of the steps before it, their sources, and the code."""
    made_of = [[s, parameters[s], sources(parameters[s]), code_fingerprint(s)] for s in _with_ancestors(step)]
    return hashlib.blake2b(json.dumps(made_of, sort_keys=True).encode(), digest_size=8).hexdigest()


def write_json(path: Path, content: object) -> None:
    """Write JSON without tokens, durable, and with the old file in its place until then."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(redacted(json.dumps(content, indent=1)) + "\n", encoding="utf-8")
    flush(temporary)
    os.replace(temporary, path)


def flush(path: Path) -> None:
    """Make a file, or the entries of a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
