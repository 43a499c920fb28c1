"""One run, from its specification to its record: the six notebooks one after the other, what is done already left out."""

import fcntl
import json
import os
import platform
import shlex
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from helpers.errors import RunError, UserError
from helpers.hub.sources import EMBEDDED, locate, needs_fetching, resolve
from helpers.runs.folder import Run, identity, write_json
from helpers.runs.parameters import STEPS, folder_of
from helpers.runs.process import GRACE, Child, Outcome, interruption, run_notebook
from helpers.runs.profiles import Settings, outlook, plan, spelled_out
from helpers.runs.report import write_report

FORMAT = 1  # of run.json
REPORTING = threading.Lock()  # figures are not drawn by several threads at once
PATIENCE = 3.0  # seconds for what a killed runner has started to end, before a run is refused
Tell = Callable[
    [str, str, dict], None
]  # what happened (`planned`, `begins`, `progress`, `done`, `left out`), to which step, and more


@dataclass(frozen=True)
class Specification:
    """All that a run needs: it can be pickled, and sent to another process or machine that sees the same folders.

    `parameters` are those of `plan`, from `profile` and `settings`, which the run folder remembers. A notebook may take `time_limit`
    seconds (0: no limit), and has `grace` seconds to save what it is doing when it is interrupted. Steps whose parameters are the same
    are done once by all runs that have the same folder `shared`.
    """

    run_dir: str
    parameters: Mapping[str, Mapping[str, object]]
    prefetch: str = "python -m helpers prefetch"
    start: str | None = None
    force: bool = False
    time_limit: float = 0.0
    threads: int = 0
    shared: str = ""
    profile: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)
    grace: float = GRACE


def quiet(event: str, step: str, more: dict) -> None:
    """Tell nobody."""


def do(
    what: Specification, tell: Tell = quiet, stop: threading.Event | None = None
) -> dict[str, object]:
    """Do every step of a run that is not done yet, and return its record, which is `run.json` too.

    Its `status` is `ok`, `failed`, `timed out`, `kernel died` or `interrupted`, with a `message` that says why. One that is `ok` leaves `report.html`. Raises RunError only where the folder
    cannot be used, or another run holds it; one of a sweep waits for that, as the sweep may be done twice at once.
    """
    folder, stop = Run(what.run_dir), stop or threading.Event()
    if what.start is not None:
        folder_of(what.start)
    with held(folder.folder, wait=bool(what.shared), stop=stop) as lock:
        began = time.monotonic()
        record = remember(folder, what.profile, what.settings, what.parameters, "it was killed")
        try:
            outcome = _steps(folder, what, record["steps"], tell, stop, lock)
        except UserError as error:
            outcome = Outcome("failed", str(error), 0, 0)
        except KeyboardInterrupt:
            outcome = Outcome("interrupted", interruption(), 0, 0)
        record |= {"status": outcome.status, "message": outcome.message}
        record["seconds"] = round(time.monotonic() - began, 2)
        record["peak_memory_mb"] = max(
            [outcome.peak_memory_mb, *(s["peak_memory_mb"] for s in record["steps"].values())]
        )
        try:
            record["metrics"] = folder.write_metrics()
            made = {step: folder.record(step) for step in STEPS}
            record["parameters"] = {
                step: found["parameters"] for step, found in made.items() if found
            }
            write_json(folder.folder / "run.json", record)
            if outcome.status == "ok":
                with REPORTING:
                    write_report(folder)
        except (
            OSError
        ):  # of a full disk, most likely; why the run did not end well is more to the point
            if outcome.status == "ok":
                raise
    return record


def remember(
    folder: Run, profile: str, settings: Settings, parameters: Mapping, message: str
) -> dict[str, object]:
    """Start the record of a run anew, with its profile and settings; it stands, with this message, until the run has ended."""
    record = {"format": FORMAT, "status": "interrupted", "message": message}
    if profile:
        keys = [key.partition(".") for key in spelled_out(settings)]
        record |= {
            "profile": profile,
            "settings": {f"{s}.{name}": parameters[s][name] for s, _, name in keys},
        }
    record |= {"parameters": {}, "steps": {}}
    write_json(folder.folder / "run.json", record)
    return record


def _steps(
    folder: Run, what: Specification, done: dict, tell: Tell, stop: threading.Event, lock: int
) -> Outcome:
    """Do the steps, and note each in `done`; how the last one ended."""
    if not what.shared:
        ahead = outlook(folder, what.parameters, what.start, what.force)
        for step in (
            STEPS
            if any(map(folder.record, STEPS)) and set(ahead.values()) != {"is left out"}
            else ()
        ):
            tell("planned", step, {"line": ahead[step]})
    children = _Children(what, lock)
    try:
        for step in STEPS[STEPS.index(what.start) if what.start else 0 :]:
            with _shared(folder, what, step, stop):
                if stop.is_set():
                    raise KeyboardInterrupt
                if (
                    not what.force
                    and what.start is None
                    and folder.is_done(step, dict(what.parameters[step]))
                ):
                    record = folder.record(step)
                    done[step] = {key: record[key] for key in ("seconds", "peak_memory_mb")} | {
                        "done": "before"
                    }
                    tell("left out", step, {"seconds": record["seconds"]})
                    continue
                tell("begins", step, {})
                outcome = _notebook(folder, step, what, children, tell, stop)
            done[step] = {
                "seconds": outcome.seconds,
                "peak_memory_mb": outcome.peak_memory_mb,
                "done": outcome.status,
            }
            if outcome.status != "ok":
                return outcome
            tell("done", step, {"seconds": outcome.seconds})
    finally:
        children.close()
    return Outcome("ok", "", 0, 0)


class _Children:
    """The processes of a run's notebooks: while one works, the next one starts."""

    def __init__(self, what: Specification, lock: int):
        self._what, self._lock, self._ahead, self._ready = what, lock, None, False

    def take(self, last: bool) -> Child:
        """A process for the next notebook; before the first one, what the run needs is fetched."""
        self._ready = self._ready or fetch(self._what.parameters, self._what.prefetch)
        child = self._ahead or self._start()
        self._ahead = None if last else self._start()
        return child

    def _start(self) -> Child:
        return Child(_environment(self._what), (self._lock,))

    def close(self) -> None:
        """End the one that is not used any more."""
        if self._ahead:
            self._ahead.discard()


def _notebook(
    folder: Run, step: str, what: Specification, children: _Children, tell: Tell, stop
) -> Outcome:
    """Execute a step's notebook; it lies beside the artifact afterwards, or in the run folder if it failed."""
    parameters, name = dict(what.parameters[step]), folder_of(step)
    running, failed = (folder.folder / f"{name}.{state}.ipynb" for state in ("running", "failed"))
    for left in (running, failed):
        left.unlink(missing_ok=True)
    child, given = children.take(step == STEPS[-1]), {"run_dir": folder.shown, **parameters}
    show = lambda state: tell("progress", step, state)  # noqa: E731
    outcome = run_notebook(step, running, given, child, what.time_limit, show, stop, what.grace)
    if outcome.status != "ok":
        if running.exists():
            os.replace(running, failed)
        return replace(outcome, message=outcome.message.replace(running.name, failed.name))
    why = folder.problem(step)
    if why or folder.record(step)["parameters"] != parameters:
        os.replace(running, failed)
        raise RunError(
            f"{step}: its notebook ran, but left no artifact with these parameters ({why or 'it has others'})."
        )
    os.replace(running, folder.path(step) / f"{name}.ipynb")
    return outcome


def _environment(what: Specification) -> dict[str, str]:
    """Variables of a notebook's process: the Hub is asked by a notebook only to publish, and runs beside each other share the cores."""
    offline = {} if what.parameters["evaluate"].get("push_to_hub") else {"HF_HUB_OFFLINE": "1"}
    return offline | (
        {"OMP_NUM_THREADS": str(what.threads), "RAYON_NUM_THREADS": str(what.threads)}
        if what.threads
        else {}
    )


@contextmanager
def _shared(
    folder: Run, what: Specification, step: str, stop: threading.Event | None
) -> Iterator[None]:
    """In a sweep: take a step from the run that has done the same, or hand on what is done inside; one run at a time does it."""
    if not what.shared:
        yield
        return
    there = Path(what.shared) / f"{folder_of(step)}-{identity(what.parameters, step)}"
    parameters = dict(what.parameters[step])
    with held(there.parent, f".{there.name}.lock", True, stop):
        if there.exists() and not folder.is_done(step, parameters):
            lock = folder.lock(step)
            shutil.rmtree(folder.path(step), ignore_errors=True)
            _link(there, folder.path(step))
            lock.release()
        yield
        if not there.exists() and folder.is_done(step, parameters):
            _link(folder.path(step), there)


def _link(source: Path, target: Path) -> None:
    """The same files under another folder, without copying what they hold where the disk can do that; whole or not there."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        shutil.copytree(source, temporary, copy_function=os.link)
    except (OSError, shutil.Error):
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(source, temporary)
    os.rename(temporary, target)


@contextmanager
def held(
    folder: Path, name: str = ".lock", wait: bool = False, stop: threading.Event | None = None
) -> Iterator[int]:
    """Hold a folder for this process and those it starts, until the last one ends.

    RunError says who holds it already; with `wait` it is waited for, until `stop` is set (KeyboardInterrupt).
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / name, "a+")  # noqa: SIM115
    except OSError as error:
        raise RunError(
            f"run_dir is {str(folder)!r}: it cannot be written ({error.strerror}), name another."
        ) from None
    with file as lock:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if stop and stop.is_set():
                    raise KeyboardInterrupt from None
                if not wait and time.monotonic() > until:
                    lock.seek(0)
                    raise RunError(
                        f"run_dir is {folder.name!r}: another run holds it ({lock.read().strip()}); wait for it, end it, or name another."
                    ) from None
                time.sleep(0.1)
        lock.truncate(0)
        lock.write(
            f"process {os.getpid()} on {platform.node()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}\n"
        )
        lock.flush()
        yield lock.fileno()


def prefetch_command(profile: str, settings: Settings = ()) -> str:
    """The command that fetches what a run needs."""
    chosen = [f"-p={key}={value}" for key, value in spelled_out(settings).items()]
    return shlex.join(["python", "-m", "helpers", "prefetch", "--profile", profile, *chosen])


def prefetch(profile: str, settings: Settings) -> str:
    """Fetch the data set and models of a run, and see that they can be read; after it, the run needs no network. Says so."""
    from helpers.data import load_examples
    from helpers.models import load_config, load_tokenizer

    parameters = plan(profile, settings)
    fetch(parameters, prefetch_command(profile, settings))
    load = parameters["load"]
    examples = load_examples(load["dataset"], load["split"], load["configuration"])
    for name in sorted({parameters[step]["model"] for step in ("preprocess", "train")}):
        load_config(name)
        load_tokenizer(name)
    return f"All that profile {profile} needs is here ({len(examples):,} examples): it runs without a network."


def fetch(parameters: Mapping[str, Mapping[str, object]], command: str) -> bool:
    """Fetch the data sets and models that are not on this machine, and check the models."""
    from helpers.models import check_model

    wanted = {
        (kind, str(step[kind])) for step in parameters.values() for kind in EMBEDDED if kind in step
    }
    for kind, name in sorted(wanted):
        if needs_fetching(kind, name):
            locate(kind, name, command)
        if kind == "model":
            check_model(name, command)
    return True


def read_record(folder: Path, complete: bool = False) -> dict[str, object]:
    """The record of a run; RunError where there is none, or one that newer code has written, or (`complete`) the run did not end well."""
    path = resolve(folder) / "run.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        version = record["format"]
    except FileNotFoundError:
        raise RunError(
            f"{str(folder)!r} is no run: it has no run.json; make it with `python -m helpers run --run-dir {folder}`."
        ) from None
    except (ValueError, KeyError, TypeError, OSError):
        raise RunError(f"{path} is damaged: do the run again, with the same command.") from None
    if version > FORMAT:
        raise RunError(
            f"{path} has format {version}, this code reads up to {FORMAT}: update the code."
        )
    if complete and record["status"] != "ok":
        raise RunError(
            f"{str(folder)!r} did not end well ({record['status']}: {record['message'].rstrip('.')}); do the run again, or leave it out."
        )
    return record
