"""A run on one page, `report.html`, which needs no network."""

import json
import shlex
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from helpers.engine.svg import svg
from helpers.errors import RunError, UserError, first_line
from helpers.figures import draw_bars, draw_losses
from helpers.hub.sources import PROJECT
from helpers.runs.folder import Run
from helpers.runs.parameters import STEPS, folder_of
from helpers.runs.profiles import DEFAULT, plan, resume
from helpers.runs.rendering import render, write_text

MOST = 300  # documents in the table; of more, those that gained most


def fresh_records(run: Run, steps: Sequence[str] = STEPS) -> dict[str, dict]:
    """The records of steps; RunError with a command where one is missing or stale."""
    for step in steps:
        if why := run.problem(step):
            command = f"python -m helpers run --run-dir {shlex.quote(run.shown)} --from {step}"
            raise RunError(
                f"The numbers of {run.shown!r} are not of one run: {why}; "
                f"`{command}` makes them again."
            )
    return {step: run.record(step) for step in steps}


def metrics_of(records: dict[str, dict]) -> dict[str, object]:
    """The metrics of all steps, with the seconds that each took."""
    metrics = {}
    for step, record in records.items():
        metrics |= record["metrics"] | {f"seconds_{step}": record["seconds"]}
    return metrics


def write_report(run: Run) -> Path:
    """Write `report.html` into the folder of a complete run, from what its steps have left there.

    Raises RunError where a step is missing or stale.
    """
    records = fresh_records(run)
    metrics = metrics_of(records)
    losses = json.loads((run.path("train") / "losses.json").read_text(encoding="utf-8"))
    profile, changed = _changed(run, records)
    curves_alt = f"Training and {losses['part']} loss against the steps of training."
    versions = records["infer"]["versions"].items()
    documents = _documents(run)
    page = render(
        "report.html.j2",
        title=f"Run {run.folder.resolve().name}",
        card=_card(run, records, metrics, profile, changed),
        metrics=metrics,
        verdict=_verdict(metrics),
        chosen_on=losses["part"],
        bars=_bars(metrics),
        curves=svg(draw_losses(losses["history"], losses["base_loss"]), curves_alt),
        profile=profile,
        changed=changed,
        scores=json.loads((run.path("evaluate") / "perplexity.json").read_text(encoding="utf-8")),
        tokens=[{"": n, "tokens": metrics[f"tokens_{n}"]} for n in ("in", "kept", "dropped")],
        documents=sorted(documents, key=lambda row: -row["gain"])[:MOST],
        count=len(documents),
        heat_maps=(run.path("evaluate") / "heat_maps.html").read_text(encoding="utf-8"),
        generated=_first_texts(run.path("infer") / "texts.jsonl"),
        numbers=[{"name": key, "value": value} for key, value in metrics.items()],
        steps=[_step_row(name, record) for name, record in records.items()],
        notebooks=_notebooks(run),
        versions=", ".join(f"{name} {version}" for name, version in versions),
    )
    return write_text(run.folder / "report.html", page)


def write_if_complete(run: Run) -> Path | None:
    """Write the report of a run that lacks no step; None for one that does.

    A step that is done stays done, whatever keeps the report from being written: that is printed.
    """
    # most runs lack a step until the last one, and to look for problems is to read all artifacts
    if not all(map(run.record, STEPS)) or any(run.problems().values()):
        return None
    try:
        return write_report(run)
    except (UserError, OSError, LookupError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {first_line(error)}"
        print(f"The report was not written ({why}); `python -m helpers report` tries again.")
        return None


def _card(
    run: Run, records: dict[str, dict], metrics: dict, profile: str, changed: list[dict]
) -> dict[str, object]:
    """What a reader has to know of a run, by name."""
    load, train = (records[step]["parameters"] for step in ("load", "train"))
    command = ["python", "-m", "helpers", "run", "--run-dir", run.shown, "--profile", profile]
    for row in changed:
        command += ["-p", f"{row['parameter']}={row['this run']}"]
    written = (run.path("infer") / "step.json").stat().st_mtime
    card = {
        "Model": train["model"],
        "Data": f"{load['dataset']}, {metrics['examples_train']:,} examples to learn from",
        "Scored on": f"{metrics['examples_test']:,} examples that were set aside",
        "Date": f"{datetime.fromtimestamp(written, UTC):%Y-%m-%d}",
        "Commit": _commit(),
        "Command": shlex.join(command),
    }
    return {name: value for name, value in card.items() if value}


def _first_texts(path: Path) -> list[dict]:
    """The first texts of a file that may have many; RunError where an older notebook left none."""
    if not path.is_file():
        raise RunError(f"06_infer has no {path.name}: run notebook 06 again")
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in islice(lines, 10)]


def _commit() -> str:
    """The commit of this code, as git has it; empty where the project is no repository."""
    git = ["git", "-C", str(PROJECT)]
    options = {"capture_output": True, "encoding": "utf-8", "check": True}
    try:
        commit = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], **options).stdout
        state = subprocess.run([*git, "status", "--porcelain", "-uno"], **options).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit.strip() + (", and changes that are not committed" if state else "")


def _changed(run: Run, records: dict[str, dict]) -> tuple[str, list[dict[str, object]]]:
    """A run's profile, and the parameters that are not those of the profile."""
    profile, _ = resume(str(run.folder), None, {})
    try:
        usual = plan(profile)
    except UserError:  # the file of that profile is gone, or has changed
        profile = DEFAULT
        usual = plan(profile)
    return profile, [
        {"parameter": f"{step}.{name}", "this run": value, f"profile {profile}": usual[step][name]}
        for step in STEPS
        for name, value in records[step]["parameters"].items()
        if value != usual[step][name]
    ]


def _verdict(metrics: dict) -> str:
    """The result in a few words, as far as the interval allows."""
    low, high = metrics["perplexity_ratio_low"], metrics["perplexity_ratio_high"]
    if high < 1:
        return "Fine-tuning made the test documents more likely."
    if low > 1:
        return "Fine-tuning made the test documents less likely."
    return "No difference beyond chance between the base model and the fine-tuned one."


def _bars(metrics: dict) -> str:
    """The perplexities of both models with their intervals, as SVG."""
    values, intervals = {}, {}
    for name in ("base", "fine-tuned"):
        key = name.replace("-", "")
        values[name] = metrics[f"perplexity_{key}"]
        if f"low_{key}" in metrics and f"high_{key}" in metrics:
            intervals[name] = (metrics[f"low_{key}"], metrics[f"high_{key}"])
    alt = "; ".join(f"{name} {value:.1f}" for name, value in values.items())
    figure = draw_bars(values, "perplexity per token, with 95 % interval", intervals)
    return svg(figure, f"Perplexity: {alt}.")


def _documents(run: Run) -> list[dict[str, object]]:
    """Each test document with its beginning, length in tokens, and mean nats under both models."""
    path = run.path("evaluate") / "documents.json"
    scores = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if "start" not in scores:  # written by an earlier version of the notebook
        return []
    base, tuned = scores["base"], scores["fine-tuned"]
    columns = (scores["start"], base["tokens"], base["nats"], tuned["nats"])
    return [
        {
            "number": number,
            "text": text,
            "tokens": tokens,
            "base": before / tokens,
            "tuned": after / tokens,
            "gain": (before - after) / tokens,
        }
        for number, (text, tokens, before, after) in enumerate(zip(*columns, strict=True), 1)
        if tokens
    ]


def _notebooks(run: Run) -> list[Path]:
    """The executed notebooks, which a run in JupyterLab does not leave in its folder."""
    paths = [Path(folder_of(step), f"{folder_of(step)}.ipynb") for step in STEPS]
    return [path for path in paths if (run.folder / path).exists()]


def _step_row(name: str, record: dict) -> dict[str, object]:
    parameters = ", ".join(f"{key} = {value}" for key, value in record["parameters"].items())
    numbers = {"seconds": record["seconds"], "peak memory (MB)": record["peak_memory_mb"]}
    return {"step": name, **numbers, "parameters": parameters}
