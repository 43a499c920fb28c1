"""`begin` and `finish`: a step checks its inputs, writes its artifact.

A process does one step at a time, and holds its lock from `begin` to `finish` or to its own end.
"""

import ast
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from helpers.engine.files import fingerprint
from helpers.engine.memory import peak_memory
from helpers.engine.progress import FILE
from helpers.errors import ParameterError, RunError
from helpers.hub.sources import PROJECT
from helpers.runs.cells import Cells, shell
from helpers.runs.code import code_fingerprint
from helpers.runs.folder import FORMAT, NEEDS, Run, hash_of
from helpers.runs.origins import sources
from helpers.runs.parameters import RULES, STEPS, check_parameters, folder_of
from helpers.runs.report import write_if_complete
from helpers.runs.strip import chosen_run, show_next, show_strip

LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "tokenizers", "numpy")


class Step:
    """A step that has begun: where its inputs are, and where its artifact is to be written."""

    current: "Step | None" = None
    cells = Cells()

    def __init__(self, run: Run, name: str, parameters: dict):
        self.run, self.name = run, name
        self.parameters = check_parameters(name, parameters)
        self.records = {need: run.record(need) for need in NEEDS[name]}
        for need in NEEDS[name]:
            if why := run.problem(need):
                first = next(s for s in STEPS if s == name or run.problem(s))
                command = f"python -m helpers run --run-dir {shlex.quote(run.shown)} --from {first}"
                notebook = f"{folder_of(first)}.ipynb"
                raise RunError(f"{name} cannot start: {why}; run {notebook}, or `{command}`.")
        made = self.records.get("preprocess", {"parameters": {}})["parameters"]
        if made.get("shard") and name != "chunk":
            raise RunError(
                f"{name} cannot start: {run.shown} has shard {made['shard']} of the documents; "
                "`python -m helpers join` makes one run of all shards."
            )
        # Of several processes that train together, the first one writes.
        self.first = os.environ.get("RANK", "0") == "0"
        self.scratch, self._finished = run.scratch(name), False
        self._sources, self._code = sources(self.parameters), code_fingerprint(name)
        self._resumes = ""  # the executed code when `unfinished` was first used: the same when a
        # training that was interrupted is run again, whatever was tried in other cells meanwhile
        self._lock = run.lock(name) if self.first else None
        try:
            self._path = run.make_partial(name) if self.first else Path(tempfile.mkdtemp())
        except BaseException:
            if self._lock:
                self._lock.release()
            raise
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
        """The folder from which an attempt with the same parameters, inputs and code resumes."""
        self._check_current()
        self._resumes = self._resumes or self._executed_code()
        processes = os.environ.get("WORLD_SIZE", "1")
        made_of = {**self._made_of(), "code": self._resumes, "processes": processes}
        folder = self.scratch / hash_of(made_of)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def finish(self, **metrics: float | str) -> None:
        """Write the record, and publish the artifact.

        Args:
            metrics: what is worth comparing between runs.

        Raises:
            RunError: a cell has failed or was left out since `begin`, or a parameter, source or
                input has changed, so that the record would be wrong.
        """
        self._check_current()
        if why := self.cells.problem():
            raise RunError(
                f"{self.name} cannot be finished: {why}; run it again, and the cells after it, "
                "or all from `begin` on."
            )
        made_of = self._made_of()
        if self.first:
            record = json.dumps(self._record(made_of, metrics), indent=1)
            (self._path / "step.json").write_text(record + "\n", encoding="utf-8")
            self.run.publish(self.name, self._path)
            shutil.rmtree(self.scratch, ignore_errors=True)
        self._finished = True
        self.cells.end()
        self.abandon()
        if self.first:
            self.run.write_metrics()
            self._mention_edited()
            # a runner writes the report itself, once it has noted how the run ended
            report = None if FILE in os.environ else write_if_complete(self.run)
            show_next(self.run, self.name, report)

    def abandon(self) -> None:
        """Release the step's lock, and remove what has not been published."""
        if not self._lock or self._lock.is_locked:
            shutil.rmtree(self._path, ignore_errors=True)
        if self._lock:
            self._lock.release(force=True)

    def _check_current(self) -> None:
        if self._finished:
            raise RunError(
                f"{self.name} is finished already: for another attempt, run the notebook from "
                "`begin` on (or all of it)."
            )
        if Step.current is not self:
            raise RunError(
                f"{self.name} was begun again since, or another step was: run the notebook from "
                "`begin` on."
            )

    def _made_of(self) -> dict[str, object]:
        """All that determines the artifact; RunError where something has changed since `begin`."""
        now, names = sources(self.parameters), shell().user_ns if shell() else {}
        changed = [kind for kind, source in self._sources.items() if now.get(kind) != source]
        for need, record in self.records.items():
            if (self.run.record(need) or {}).get("fingerprint") != record["fingerprint"]:
                changed.append(f"step {need!r}")
        for name, value in self.parameters.items():
            current = names.get(name, value)
            if type(current) in (int, float, bool, str) and current != value:
                changed.append(name)
        if changed:
            raise RunError(
                f"{self.name} cannot go on: {changed[0]} has changed since `begin`, "
                "run the notebook from `begin` on."
            )
        inputs = {need: record["fingerprint"] for need, record in self.records.items()}
        made_of = {"parameters": self.parameters, "sources": now, "inputs": inputs}
        return made_of | {"code": self._executed_code()}

    def _executed_code(self) -> str:
        """The fingerprint of the step's code, another where a copy's cells differ from it."""
        edited = self.cells.edited()
        return hash_of([self._code, edited]) if edited else self._code

    def _mention_edited(self) -> None:
        """Print that a run does this step again, where cells are not those of its notebook."""
        if edited := self.cells.edited():
            line = edited[0].split("\n")[0]
            print(
                f"{self.name} is done. A later run does it again, as cells were executed that "
                f"notebooks/{folder_of(self.name)}.ipynb does not have: `{line}`"
                + (f" and {len(edited) - 1} more." if len(edited) > 1 else ".")
            )

    def _record(self, made_of: dict[str, object], metrics: dict[str, float | str]) -> dict:
        same = code_fingerprint(self.name) == self._code
        cuda = "torch" in sys.modules and sys.modules["torch"].cuda.is_available()
        versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
        return {
            "format": FORMAT,
            "step": self.name,
            **made_of,
            "code": made_of["code"] if same else "changed meanwhile",
            "fingerprint": fingerprint(self._path),
            "metrics": metrics,
            "seconds": round(time.perf_counter() - self._began, 2),
            "peak_memory_mb": round(peak_memory() / 1e6),
            "device": "cuda" if cuda else "cpu",
            "versions": {"python": platform.python_version()} | versions,
        }


def begin(step: str, names: Mapping[str, object]) -> Step:
    """Start a step with the parameters that its notebook has set: `begin("chunk", globals())`.

    Args:
        step: `load`, `preprocess`, `chunk`, `train`, `evaluate` or `infer`.
        names: the notebook's global names, with `run_dir` and every parameter of the step.

    Raises:
        ParameterError: a parameter is unknown or cannot be used.
        RunError: a parameter is not set, an artifact is missing or stale, or the step is locked.
    """
    folder_of(step)
    if missing := [name for name in ("run_dir", *RULES[step]) if name not in names]:
        raise RunError(
            f"{step} cannot start: {missing[0]} is not set, run the cell tagged `parameters` first."
        )
    run_dir = chosen_run(names["run_dir"])
    begun = start_step(step, run_dir, **{name: names[name] for name in RULES[step]})
    show_strip(begun.run, step, begun.parameters)
    return begun


def start_step(step: str, run_dir: str, **parameters: object) -> Step:
    """Start a step with these parameters, and abandon an earlier attempt of this process.

    Every parameter and the artifacts that the step needs are checked before any work.
    """
    if Step.current:
        Step.current.abandon()
        Step.current = None
    Step.cells.begin(PROJECT / "notebooks" / f"{folder_of(step)}.ipynb")
    if not isinstance(run_dir, str) or not run_dir.strip():
        raise ParameterError("run_dir", run_dir, "it must be a non-empty string")
    if "num_proc" in parameters:
        _check_temporary_folder()
    _refuse_unknown(step)
    Step.current = Step(Run(run_dir), step, parameters)
    return Step.current


def _check_temporary_folder() -> None:
    """Processes exchange data through sockets there, whose names systems limit."""
    folder, limit = tempfile.gettempdir(), 103 if sys.platform == "darwin" else 107
    size, most = len(os.fsencode(folder)), limit - len("/pymp-12345678/listener-12345678")
    if sys.platform != "win32" and size > most:
        raise ParameterError("TMPDIR", folder, f"its name has {size} bytes, use one of {most}")


def _refuse_unknown(step: str) -> None:
    """Refuse injected parameters that the notebook does not have; papermill only logs them."""
    names = shell().user_ns if shell() else {}
    for cell in names.get("In", []):
        if cell.startswith("# Parameters\n"):
            assignments = [node for node in ast.parse(cell).body if isinstance(node, ast.Assign)]
            injected = [target.id for node in assignments for target in node.targets]
            check_parameters(step, {name: names[name] for name in injected if name != "run_dir"})
