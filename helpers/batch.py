"""A whole run: the six notebooks one after the other through papermill, what is done already left out."""

import json
import os
import shlex
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from helpers.errors import ParameterError, RunError, UserError, nearest
from helpers.notebooks import defaults, execute, path_of
from helpers.parameters import RULES, STEPS, check_parameters, folder_of, parse_value
from helpers.progress import FILE
from helpers.run import Run
from helpers.sources import EMBEDDED, PROJECT, needs_fetching, obtain

PROFILES = PROJECT / "notebooks" / "profiles"


def plan(profile: str, settings: Sequence[str] = ()) -> dict[str, dict[str, object]]:
    """Every parameter of every step: the notebooks' defaults, the profile's values over them, then `STEP.NAME=VALUE` settings.

    A setting without a step goes to each notebook that has the parameter. Raises UserError for whatever does not exist or fit.
    """
    parameters = {step: defaults(path_of(step)) | values for step, values in read_profile(profile).items()}
    for values in parameters.values():
        values.pop("run_dir", None)
    for setting in settings:
        key, equals, text = setting.partition("=")
        step, dot, name = key.rpartition(".")
        if not equals or not name:
            raise UserError(
                f"-p is {setting!r}: it must be STEP.NAME=VALUE or NAME=VALUE, such as train.learning_rate=1e-4."
            )
        if dot:
            folder_of(step)
        if name == "run_dir":
            raise UserError(f"-p is {setting!r}: the run folder is set with --run-dir.")
        homes = [s for s in ([step] if dot else STEPS) if name in RULES[s]]
        if not homes:
            known = RULES[step] if dot else {n for rules in RULES.values() for n in rules}
            raise ParameterError(key, text, f"there is no such parameter, {nearest(name, known)}")
        for home in homes:
            parameters[home][name] = text if RULES[home][name].kind is str else parse_value(text)
    return {step: _checked(step, values) for step, values in parameters.items()}


def read_profile(name: str) -> dict[str, dict[str, object]]:
    """What a profile sets, for every step; UserError where there is no such profile, or where it is no table of steps."""
    names = [path.stem for path in PROFILES.glob("*.yaml")]
    if name not in names:
        raise UserError(f"There is no profile {name!r}: {nearest(name, names)}.")
    try:
        chosen = yaml.safe_load((PROFILES / f"{name}.yaml").read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UserError(f"Profile {name!r} is no YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(chosen, dict):
        raise UserError(f"Profile {name!r} must be a table of steps, such as train: {{seed: 1}}.")
    for step in chosen:
        folder_of(str(step))
        if not isinstance(chosen[step] or {}, dict):
            raise UserError(
                f"Profile {name!r} has {step}: {chosen[step]!r}: it must be a table of parameters and values."
            )
    return {step: chosen.get(step) or {} for step in STEPS}


def _checked(step: str, values: dict[str, object]) -> dict[str, object]:
    try:
        return check_parameters(step, values)
    except ParameterError as error:
        message = str(error)
        raise UserError(message if message.startswith(f"{step}.") else f"{step}.{message}") from None


def run(
    profile: str, run_dir: str | None, settings: Sequence[str], start: str | None, force: bool, console: Console
) -> Path:
    """Do every step of a run that is not done yet, and return its folder. Raises UserError where a step cannot be done."""
    parameters = plan(profile, settings)
    if start is not None:
        folder_of(start)
    folder = Run(run_dir or f"runs/{profile}")
    fetched = False
    first = STEPS.index(start) if start else 0
    for number, step in enumerate(STEPS):
        if number < first:
            if why := folder.problem(step):
                raise RunError(f"--from is {start!r}: {why}; start from {step!r} or earlier.")
        elif not force and start is None and folder.is_done(step, parameters[step]):
            console.print(f"[green]✓[/] {folder_of(step)}  done already, in {folder.record(step)['seconds']:.1f} s")
        else:
            fetched = fetched or _fetch(parameters, prefetch_command(profile, settings))
            _do(folder, step, parameters[step], console)
    summary(folder, console)
    return folder.folder


def prefetch_command(profile: str, settings: Sequence[str] = ()) -> str:
    """The command that fetches what a run needs."""
    return shlex.join(["python", "-m", "helpers", "prefetch", "--profile", profile, *(f"-p={s}" for s in settings)])


def prefetch(profile: str, settings: Sequence[str], console: Console) -> None:
    """Fetch the data set and models of a run, and see that they can be read; after it, the run needs no network."""
    from helpers.data import load_examples
    from helpers.models import load_config, load_tokenizer

    parameters = plan(profile, settings)
    _fetch(parameters, prefetch_command(profile, settings))
    load = parameters["load"]
    examples = load_examples(load["dataset"], load["split"], load["configuration"])
    for name in sorted({parameters[step]["model"] for step in ("preprocess", "train")}):
        load_config(name)
        load_tokenizer(name)
    console.print(f"All that profile {profile} needs is here ({len(examples):,} examples): it runs without a network.")


def _fetch(parameters: dict[str, dict[str, object]], command: str) -> bool:
    """Fetch what is not on this machine; what follows asks no server any more, but for publishing."""
    wanted = {(kind, str(step[kind])) for step in parameters.values() for kind in EMBEDDED if kind in step}
    for kind, name in sorted(wanted):
        if needs_fetching(kind, name):
            obtain(kind, name, command)
    if not parameters["evaluate"].get("push_to_hub"):
        os.environ["HF_HUB_OFFLINE"] = "1"
    return True


def _do(folder: Run, step: str, parameters: dict[str, object], console: Console) -> None:
    """Execute a step's notebook; it lies beside the artifact afterwards, or in the run folder if it failed."""
    began = time.monotonic()
    executed = folder.folder / f"{folder_of(step)}.failed.ipynb"
    executed.unlink(missing_ok=True)
    with _shown(step, console):
        execute(step, executed, {"run_dir": folder.shown, **parameters})
    why = folder.problem(step)
    if why or folder.record(step)["parameters"] != parameters:
        raise RunError(
            f"{step}: its notebook ran, but left no artifact with these parameters ({why or 'it has others'})."
        )
    os.replace(executed, folder.path(step) / f"{folder_of(step)}.ipynb")
    console.print(f"[green]✓[/] {folder_of(step)}  {time.monotonic() - began:.1f} s")


def _bars(console: Console) -> Progress:
    columns = (TextColumn("  {task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def _shown(step: str, console: Console) -> Iterator[None]:
    """While a notebook runs, show what its helpers write to the progress file."""
    with tempfile.TemporaryDirectory() as temporary, _bars(console) as bars:
        path = Path(temporary) / "progress.json"
        os.environ[FILE] = str(path)
        task = bars.add_task(folder_of(step), total=None, note="")
        finished = threading.Event()

        def follow() -> None:
            while not finished.wait(0.3):
                if path.exists():
                    now = json.loads(path.read_text())
                    note = (
                        f"{now['done']:,} of {now['total']:,} {now['what']}, {now['rate']:,.1f} a second  {now['note']}"
                    )
                    bars.update(task, total=now["total"], completed=now["done"], note=note)

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            finished.set()
            thread.join()
            del os.environ[FILE]


def summary(folder: Run, console: Console) -> None:
    """Print the table at the end of a run, and write its report."""
    from helpers.report import write_report

    metrics = folder.write_metrics()
    table = Table("", "base", "fine-tuned")
    table.add_row("perplexity", f"{metrics['perplexity_base']:.2f}", f"{metrics['perplexity_finetuned']:.2f}")
    table.add_row("bits per byte", f"{metrics['bits_per_byte_base']:.3f}", f"{metrics['bits_per_byte_finetuned']:.3f}")
    console.print(table)
    console.print(
        f"perplexity × {metrics['perplexity_ratio']:.3f} "
        f"(95 % interval {metrics['perplexity_ratio_low']:.3f} to {metrics['perplexity_ratio_high']:.3f})"
    )
    console.print(
        f"tokens: {metrics['tokens_in']:,} in, {metrics['tokens_kept']:,} kept, {metrics['tokens_dropped']:,} dropped; "
        f"{metrics['train_tokens_per_second']:,.0f} a second in training, {metrics['dtype']} on {metrics['device']}"
    )
    console.print("seconds: " + ", ".join(f"{step} {metrics[f'seconds_{step}']:.1f}" for step in STEPS))
    console.print(f"report: {os.path.relpath(write_report(folder, folder.folder.name))}")
