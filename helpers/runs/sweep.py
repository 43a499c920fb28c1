"""Many runs at once, on this machine or on a cluster; a sweep resumes where it stopped."""

import json
import os
import shlex
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from helpers.engine.files import relative
from helpers.errors import ParameterError, UserError
from helpers.hub.sources import resolve
from helpers.runs.comparison import show_comparison
from helpers.runs.fetching import fetch, prefetch_command
from helpers.runs.folder import Run, check_name, with_ancestors
from helpers.runs.parameters import STEPS
from helpers.runs.process import GRACE
from helpers.runs.profiles import expand_settings, plan
from helpers.runs.run import RunSpec, execute_run
from helpers.runs.sweep_file import Sweep, read_sweep
from helpers.runs.terminal import View

RETRIES = 2  # after a lost Dask worker


def execute_sweep(
    file: Path,
    sweep_dir: str | None,
    console: Console,
    *,
    jobs: int = 1,
    dry_run: bool = False,
    scheduler: str | None = None,
    index: int | None = None,
    time_limit: float = 0,
    grace: float = GRACE,
) -> int:
    """Do the runs of a sweep, and compare them.

    Args:
        file: the sweep, see `read_sweep`.
        sweep_dir: where the runs are kept; by default `runs/FILE`.
        console: where the plan, the progress and the comparison are shown.
        jobs: how many runs at once.
        dry_run: show the plan only.
        scheduler: the address of a Dask scheduler that does the runs.
        index: do only the run with this number.
        time_limit: seconds for each notebook; 0: no limit.
        grace: seconds for an interrupted notebook to save its work.

    Returns:
        How many runs failed.
    """
    sweep = read_sweep(file)
    if sweep_dir is not None:
        check_name("sweep_dir", sweep_dir)
    folder = resolve(sweep_dir or f"runs/{Path(file).stem}")
    names = list(sweep.variants)
    if index is not None:
        if index >= len(names):
            choice = f"the sweep has {len(names)} runs, choose 0 to {len(names) - 1}"
            raise ParameterError("index", index, choice)
        names = [names[index]]
    specs = run_specs(sweep, names, folder, jobs, time_limit, grace)
    console.print(_plan_table(sweep, names))
    steps, seconds = remaining_steps(specs, resolve(f"runs/{sweep.profile}"))
    estimate = f"unknown time, as there is no run of profile {sweep.profile} to estimate it from"
    if seconds is not None:
        estimate = f"about {max(1, round(seconds / jobs / 60))} minutes"
    place = relative(folder)
    console.print(f"{len(specs)} runs in {place}, {steps} steps to do, {jobs} at once: {estimate}.")
    if dry_run:
        return 0
    for spec in specs:
        fetch(spec.parameters, spec.prefetch)
    complete = sorted(_execute_runs(dict(zip(names, specs, strict=True)), jobs, scheduler, console))
    if specs[0].until != STEPS[-1]:
        command = f"python -m helpers join {shlex.quote(place)} --run-dir runs/NAME"
        console.print(f"Once all shards are done, `{command}` makes one run of them.")
    elif len(complete) > 1:
        runs = [folder / name for name in complete]
        show_comparison(runs, folder / "comparison.csv", folder / "report.html", console)
    return len(names) - len(complete)


def run_specs(
    sweep: Sweep,
    names: list[str],
    folder: Path,
    jobs: int = 1,
    time_limit: float = 0,
    grace: float = GRACE,
) -> list[RunSpec]:
    """What each of the named runs needs; UserError for the first that cannot be done."""
    threads = max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else 0
    specs, known = [], {}
    for name in names:
        settings = expand_settings(sweep.common) | expand_settings(sweep.variants[name])
        parameters = plan(sweep.profile, settings)
        other = known.setdefault(json.dumps(parameters), name)
        if other != name:
            raise UserError(
                f"Runs {other} and {name} of the sweep are the same ({settings}): "
                "leave one of them out."
            )
        spec = RunSpec(
            str(folder / name),
            parameters,
            prefetch_command(sweep.profile),
            sweep.profile,
            settings,
            until="chunk" if parameters["preprocess"]["shard"] else STEPS[-1],
            time_limit=time_limit,
            grace=grace,
            threads=threads,
            shared=str(folder / "shared"),
        )
        specs.append(spec)
    return specs


def remaining_steps(specs: list[RunSpec], earlier: Path | None = None) -> tuple[int, float | None]:
    """How many steps are left to do, shared ones counted once, and an estimate of their seconds.

    The estimate comes from the metrics of an `earlier` run; None where there are none.
    """
    sharing: dict[tuple[str, str], list[RunSpec]] = {}
    for spec in specs:
        for step in STEPS[: STEPS.index(spec.until) + 1]:
            made_of = [spec.parameters[name] for name in with_ancestors(step)]
            sharing.setdefault((step, json.dumps(made_of)), []).append(spec)
    remaining = [
        step
        for (step, _), sharers in sharing.items()
        if not any(_is_done(step, spec) for spec in sharers)
    ]
    try:
        metrics = json.loads((earlier / "metrics.json").read_text(encoding="utf-8"))
        seconds = sum(metrics[f"seconds_{step}"] for step in remaining)
    except (OSError, ValueError, KeyError, TypeError):
        seconds = None
    return len(remaining), seconds


def _is_done(step: str, spec: RunSpec) -> bool:
    exists = resolve(spec.run_dir).exists()
    return exists and Run(spec.run_dir).is_done(step, dict(spec.parameters[step]))


def _plan_table(sweep: Sweep, runs: list[str]) -> Table:
    columns = list(dict.fromkeys(key for run in runs for key in sweep.variants[run]))
    table = Table("run", *columns)
    for run in runs:
        table.add_row(run, *(f"{sweep.variants[run].get(key, '')}" for key in columns))
    return table


def _execute_runs(
    specs: dict[str, RunSpec], jobs: int, scheduler: str | None, console: Console
) -> list[str]:
    """Do runs in parallel, and return the names of those that succeeded."""
    complete, stop = [], threading.Event()
    with View(console, len(specs)) as view, _executor(jobs, scheduler) as executor:
        futures = {}
        for name, spec in specs.items():
            # Neither a progress bar nor an event can be sent to another machine.
            local = (view.listener(name), stop) if scheduler is None else ()
            futures[executor.submit(execute_run, spec, *local)] = name
        try:
            for future in as_completed(futures):
                name, record = futures[future], _result(future)
                line = f"✗ {name}  {record['message']}"
                if record["status"] in ("ok", "partial"):
                    complete.append(name)
                    reached = f"up to {specs[name].until}"
                    if specs[name].until == STEPS[-1]:
                        metrics = record["metrics"]
                        part = "validation" if "perplexity_validation" in metrics else "test"
                        reached = (
                            f"perplexity {metrics[f'perplexity_{part}']:.2f} ({part} documents)"
                        )
                    line = f"✓ {name}  {reached}, {record['seconds']:.0f} s"
                view.end_run(name, line)
        except KeyboardInterrupt:
            stop.set()
            for future in futures:
                future.cancel()
            raise
    return complete


@contextmanager
def _executor(jobs: int, scheduler: str | None) -> Iterator[Executor]:
    """Threads that wait for the processes of their runs, or the workers of a Dask cluster."""
    if scheduler is None:
        with ThreadPoolExecutor(jobs) as pool:
            yield pool
        return
    try:
        from distributed import Client
    except ImportError:
        raise UserError(
            f"scheduler is {scheduler!r}: the package distributed is not installed here, "
            "`pip install distributed` does it."
        ) from None
    try:
        client = Client(scheduler, timeout=10)
    except (OSError, ValueError) as error:
        raise UserError(
            f"scheduler is {scheduler!r}: it does not answer ({type(error).__name__}); "
            "give its address, such as tcp://host:8786."
        ) from None
    with client:
        yield client.get_executor(pure=False, retries=RETRIES)


def _result(future: Future) -> dict[str, object]:
    """The record of a run; a failure of one run must not stop the others."""
    try:
        return future.result()
    except UserError as error:
        return {"status": "failed", "message": str(error)}
    except Exception as error:
        return {"status": "failed", "message": f"{type(error).__name__}: {error}"}
