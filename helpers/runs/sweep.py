"""Many runs: a grid, a list or a random search over parameters, here or on a cluster, gone on with where it stopped."""

import itertools
import json
import os
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from helpers.errors import ParameterError, UserError, nearest
from helpers.hub.sources import resolve
from helpers.runs.comparison import show
from helpers.runs.folder import NEEDS, Run
from helpers.runs.parameters import STEPS
from helpers.runs.process import GRACE
from helpers.runs.profiles import plan, spelled_out
from helpers.runs.run import Specification, do, fetch, prefetch_command
from helpers.runs.terminal import View

KEYS = ("profile", "set", "grid", "list", "random", "seeds")
RETRIES = 2  # how often a run is sent again, whose Dask worker was lost


@dataclass(frozen=True)
class Sweep:
    """The runs of a sweep: for each the name of its folder and the settings in which it differs from the profile."""

    profile: str
    fixed: Mapping[str, object]
    runs: tuple[tuple[str, Mapping[str, object]], ...]

    def specifications(
        self, folder: Path, jobs: int, time_limit: float, grace: float = GRACE
    ) -> list[Specification]:
        """What each run needs; UserError for the first that cannot be."""
        threads = max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else 0
        found, names = [], {}
        for name, settings in self.runs:
            settings = spelled_out(self.fixed) | spelled_out(settings)
            parameters = plan(self.profile, settings)
            other = names.setdefault(json.dumps(parameters), name)
            if other != name:
                raise UserError(
                    f"Runs {other} and {name} of the sweep are the same ({settings}): leave one of them out."
                )
            command, shared = prefetch_command(self.profile), str(folder / "shared")
            how = (command, None, False, time_limit, threads, shared, self.profile, settings, grace)
            found.append(Specification(str(folder / name), parameters, *how))
        return found


class _Loader(yaml.SafeLoader):
    """YAML in which no key stands twice in one table: the last one would count, and nobody would know."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for number, key in enumerate(keys):
            if key.value in {earlier.value for earlier in keys[:number]}:
                line = key.start_mark.line + 1
                raise UserError(
                    f"Line {line} of the sweep has {key.value!r} a second time: leave one of them out."
                )
        return super().construct_mapping(node, deep)


def read_sweep(file: Path) -> Sweep:
    """A sweep from a YAML file; UserError where it is none.

    `grid: {NAME: [values]}` runs every combination, `list: [{NAME: value}]` each as it stands, `random: {runs: N, seed: S, parameters: {NAME: …}}` draws
    each from a list of values, or from `{low: A, high: B, log: true}`. `seeds: [1, 2]` does each with these seeds of training; `set` holds for all.
    """
    try:
        asked = yaml.load(resolve(file).read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise UserError(
            f"The sweep {str(file)!r} cannot be read ({error.strerror}): name a YAML file."
        ) from None
    except (
        yaml.YAMLError,
        ValueError,
    ) as error:  # a date that does not exist, or bytes that are no text, is a ValueError
        raise UserError(
            f"The sweep {str(file)!r} is no YAML: {' '.join(str(error).split())}."
        ) from None
    if not isinstance(asked, dict):
        raise UserError(f"The sweep {str(file)!r} must be a table with {', '.join(KEYS)}.")
    for key in asked:
        if key not in KEYS:
            raise UserError(
                f"The sweep {str(file)!r} has {key!r}, which means nothing: {nearest(str(key), KEYS)}."
            )
    variants = list(_variants(asked))
    seeds, fixed = asked.get("seeds") or [], _table("set", asked.get("set") or {})
    for settings in [fixed, *variants] if seeds else ():
        if "train.seed" in settings:
            seed = settings["train.seed"]
            raise UserError(
                f"seeds is {seeds!r}, and train.seed is set to {seed!r} too: leave one of them out."
            )
    if seeds:
        variants = [
            {**variant, "train.seed": seed}
            for variant in variants
            for seed in _list("seeds", seeds)
        ]
    if not variants:
        raise UserError(
            f"The sweep {str(file)!r} holds no run: it needs one of grid, list or random."
        )
    width = len(str(len(variants) - 1))
    runs = tuple((f"{number:0{width}d}", variant) for number, variant in enumerate(variants))
    return Sweep(str(asked.get("profile", "tiny")), fixed, runs)


def _variants(asked: Mapping[str, object]) -> Iterator[dict[str, object]]:
    kinds = [kind for kind in ("grid", "list", "random") if kind in asked]
    if len(kinds) > 1:
        raise UserError(
            f"A sweep has one of grid, list or random, this one has {' and '.join(kinds)}."
        )
    if kinds == ["grid"]:
        grid = {
            name: _list(f"grid.{name}", values)
            for name, values in _table("grid", asked["grid"]).items()
        }
        yield from (
            dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
        )
    elif kinds == ["list"]:
        yield from (dict(_table("list", variant)) for variant in _list("list", asked["list"]))
    elif kinds == ["random"]:
        how = _table("random", asked["random"])
        if not isinstance(how.get("runs"), int) or how["runs"] < 1:
            raise UserError(
                f"random.runs is {how.get('runs')!r}: it must be a whole number of at least 1."
            )
        if not isinstance(how.get("seed", 0), int):
            raise UserError(f"random.seed is {how['seed']!r}: it must be a whole number.")
        draw, names = (
            random.Random(how.get("seed", 0)),
            _table("random.parameters", how.get("parameters")),
        )
        yield from _different(
            how["runs"], lambda: {name: _drawn(name, names[name], draw) for name in names}
        )
    elif asked.get("seeds"):
        yield {}


def _different(runs: int, draw: Callable[[], dict[str, object]]) -> list[dict[str, object]]:
    """As many runs as are asked for, none of them twice."""
    found: list[dict[str, object]] = []
    for _ in range(100 * runs):
        if (settings := draw()) not in found:
            found.append(settings)
        if len(found) == runs:
            return found
    raise UserError(
        f"random.runs is {runs}: only {len(found)} different runs were drawn, ask for fewer or give more values."
    )


def _drawn(name: str, spread: object, draw: random.Random) -> object:
    if isinstance(spread, list) and spread:
        return draw.choice(spread)
    try:
        low, high = (float(spread[end]) for end in ("low", "high"))
        if spread.get("log"):
            return low * (high / low) ** draw.random()
        whole = isinstance(spread["low"], int) and isinstance(spread["high"], int)
        return draw.randint(int(low), int(high)) if whole else draw.uniform(low, high)
    except (TypeError, KeyError, ValueError, ArithmeticError, AttributeError):
        raise UserError(
            f"random.parameters.{name} is {spread!r}: it must be a list of values, or {{low: A, high: B}}, with log: true for a logarithmic scale above 0."
        ) from None


def _table(what: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{what} is {value!r}: it must be a table of STEP.NAME and values.")
    return value


def _list(what: str, value: object) -> list[object]:
    if not isinstance(value, list) or not value:
        raise UserError(f"{what} is {value!r}: it must be a list that is not empty.")
    return value


def work(
    specifications: list[Specification], earlier: Path | None = None
) -> tuple[int, float | None]:
    """How many steps there are to do, those that runs share counted once, and their seconds as far as an `earlier` run tells."""
    runs_of: dict[tuple[str, str], list[Specification]] = {}
    for what in specifications:
        for step in STEPS:
            made_of = [what.parameters[name] for name in STEPS if name in _chain(step)]
            runs_of.setdefault((step, json.dumps(made_of)), []).append(what)
    ahead = [
        step
        for (step, _), runs in runs_of.items()
        if not any(_is_done(step, what) for what in runs)
    ]
    try:
        metrics = json.loads((earlier / "metrics.json").read_text())
        seconds = sum(metrics[f"seconds_{step}"] for step in ahead)
    except (OSError, ValueError, KeyError, TypeError):
        seconds = None
    return len(ahead), seconds


def _chain(step: str) -> set[str]:
    """A step and all that it is made from."""
    return {step}.union(*map(_chain, NEEDS[step]))


def _is_done(step: str, what: Specification) -> bool:
    return resolve(what.run_dir).exists() and Run(what.run_dir).is_done(
        step, dict(what.parameters[step])
    )


def main(
    file: Path,
    sweep_dir: str | None,
    jobs: int,
    dry_run: bool,
    scheduler: str | None,
    index: int | None,
    time_limit: float,
    console: Console,
    grace: float = GRACE,
) -> int:
    """Do a sweep, or the one run with number `index`, and compare what came out; how many runs did not end well."""
    asked = read_sweep(file)
    if sweep_dir is not None and (not sweep_dir.strip() or "\0" in sweep_dir):
        raise ParameterError("sweep_dir", sweep_dir, "it must be the name of a folder")
    folder = resolve(sweep_dir or f"runs/{Path(file).stem}")
    if index is not None:
        if index >= len(asked.runs):
            raise ParameterError(
                "index",
                index,
                f"the sweep has {len(asked.runs)} runs, choose 0 to {len(asked.runs) - 1}",
            )
        asked = replace(asked, runs=asked.runs[index : index + 1])
    specifications = asked.specifications(folder, jobs, time_limit, grace)
    console.print(_plan_table(asked))
    steps, seconds = work(specifications, resolve(f"runs/{asked.profile}"))
    guess = (
        f"about {max(1, round(seconds / jobs / 60))} minutes"
        if seconds is not None
        else f"how long, a run of profile {asked.profile} would tell"
    )
    console.print(
        f"{len(specifications)} runs in {os.path.relpath(folder)}, {steps} steps to do, {jobs} at once: {guess}."
    )
    if dry_run:
        return 0
    for what in specifications:
        fetch(what.parameters, what.prefetch)
    names = [name for name, _ in asked.runs]
    well = sorted(_all(specifications, names, jobs, scheduler, console))
    if len(well) > 1:
        show(
            [folder / name for name in well],
            folder / "comparison.csv",
            folder / "report.html",
            console,
        )
    return len(names) - len(well)


def _plan_table(asked: Sweep) -> Table:
    names = list(dict.fromkeys(name for _, settings in asked.runs for name in settings))
    table = Table("run", *names)
    for name, settings in asked.runs:
        table.add_row(name, *(f"{settings.get(n, '')}" for n in names))
    return table


def _all(
    specifications: list[Specification],
    names: list[str],
    jobs: int,
    scheduler: str | None,
    console: Console,
) -> list[str]:
    """Do runs beside each other; the names of those that ended well."""
    well, stop = [], threading.Event()
    with View(console, len(names)) as view, _executor(jobs, scheduler) as executor:
        here = [
            (view.of(name), stop) if scheduler is None else () for name in names
        ]  # a bar does not travel
        waiting = {
            executor.submit(do, what, *more): name
            for name, what, more in zip(names, specifications, here, strict=True)
        }
        try:
            for future in as_completed(waiting):
                name, record = waiting[future], _record(future)
                if record["status"] == "ok":
                    well.append(name)
                    perplexity = record["metrics"]["perplexity_finetuned"]
                    view.finished(
                        name, f"✓ {name}  perplexity {perplexity:.2f}, {record['seconds']:.0f} s"
                    )
                else:
                    view.finished(name, f"✗ {name}  {record['message']}")
        except KeyboardInterrupt:
            stop.set()
            for future in waiting:
                future.cancel()
            raise
    return well


@contextmanager
def _executor(jobs: int, scheduler: str | None) -> Iterator[Executor]:
    """Threads, each of which waits for the processes of its run; or the workers of a Dask cluster, which see the same folders."""
    if scheduler is None:
        with ThreadPoolExecutor(jobs) as pool:
            yield pool
        return
    try:
        from distributed import Client
    except ImportError:
        raise UserError(
            f"scheduler is {scheduler!r}: the package distributed is not installed here, `pip install distributed` does it."
        ) from None
    try:
        client = Client(scheduler, timeout=10)
    except (OSError, ValueError) as error:
        raise UserError(
            f"scheduler is {scheduler!r}: it does not answer ({type(error).__name__}); give its address, such as tcp://host:8786."
        ) from None
    with client:
        yield client.get_executor(pure=False, retries=RETRIES)


def _record(future: Future) -> dict[str, object]:
    try:
        return future.result()
    except UserError as error:
        return {"status": "failed", "message": str(error)}
    except Exception as error:  # of a cluster, too: one run's trouble must not end the others
        return {"status": "failed", "message": f"{type(error).__name__}: {error}"}
