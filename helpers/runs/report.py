"""A run on one page, `report.html`, which needs no network."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.engine.files import relative
from helpers.engine.svg import logarithmic, svg
from helpers.errors import RunError
from helpers.figures import COLOURS, axes, draw_bars, draw_losses
from helpers.runs.folder import Run
from helpers.runs.parameters import STEPS, folder_of
from helpers.runs.rendering import render, write_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def fresh_records(run: Run) -> dict[str, dict]:
    """The record of every step; RunError with a command where one is missing or stale."""
    for step in STEPS:
        if why := run.problem(step):
            command = f"python -m helpers run --run-dir {shlex.quote(run.shown)} --from {step}"
            raise RunError(
                f"The numbers of {run.shown!r} are not of one run: {why}; "
                f"`{command}` makes them again."
            )
    return {step: run.record(step) for step in STEPS}


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
    both = {"base": metrics["perplexity_base"], "fine-tuned": metrics["perplexity_finetuned"]}
    versions = records["infer"]["versions"].items()
    bars_alt = f"Perplexity: base {both['base']:.1f}, fine-tuned {both['fine-tuned']:.1f}."
    curves_alt = f"Training and {losses['part']} loss against the steps of training."
    page = render(
        "report.html.j2",
        title=f"Run {run.folder.resolve().name}",
        metrics=metrics,
        chosen_on=losses["part"],
        bars=svg(draw_bars(both, "perplexity per token"), bars_alt),
        curves=svg(draw_losses(losses["history"], losses["base_loss"]), curves_alt),
        scores=json.loads((run.path("evaluate") / "perplexity.json").read_text(encoding="utf-8")),
        tokens=[{"": n, "tokens": metrics[f"tokens_{n}"]} for n in ("in", "kept", "dropped")],
        heat_maps=(run.path("evaluate") / "heat_maps.html").read_text(encoding="utf-8"),
        generated=json.loads((run.path("infer") / "texts.json").read_text(encoding="utf-8")),
        numbers=[{"name": key, "value": value} for key, value in metrics.items()],
        steps=[_step_row(name, record) for name, record in records.items()],
        notebooks=[Path(folder_of(step), f"{folder_of(step)}.ipynb") for step in STEPS],
        versions=", ".join(f"{name} {version}" for name, version in versions),
    )
    return write_text(run.folder / "report.html", page)


def _step_row(name: str, record: dict) -> dict[str, object]:
    parameters = ", ".join(f"{key} = {value}" for key, value in record["parameters"].items())
    numbers = {"seconds": record["seconds"], "peak memory (MB)": record["peak_memory_mb"]}
    return {"step": name, **numbers, "parameters": parameters}


def write_comparison(table: "pd.DataFrame", note: str, folders: list[Path], path: Path) -> Path:
    """Write the table of `comparison` as a page, with a figure for each number that varies.

    Args:
        table: what `comparison` returns.
        note: a text beside the table.
        folders: of the runs, for links to their reports.
        path: of the page; RunError where it cannot be written.
    """
    from pandas.api.types import is_numeric_dtype

    varied = table.columns[1 : table.columns.get_loc("perplexity")]
    pages = [folder / "report.html" for folder in folders]
    page = render(
        "comparison.html.j2",
        title="Comparison",
        note=note,
        rows=table.to_dict("records"),
        figures=[_figure(table, name) for name in varied if is_numeric_dtype(table[name])],
        reports=[
            (page.parent.name, Path(relative(page, path.parent))) for page in pages if page.exists()
        ],
    )
    return write_text(path, page)


def _figure(table: "pd.DataFrame", name: str) -> str:
    """Perplexity over a parameter, as HTML."""
    ordered, best = table.sort_values(name), table.iloc[0][name]
    values, perplexities = ordered[name].tolist(), ordered["perplexity"].tolist()
    figure = draw_points(values, perplexities, name, "perplexity")
    return svg(figure, f"Perplexity against {name}; the best run has {name} = {best}.")


def draw_points(x: list[float], y: list[float], xlabel: str, ylabel: str) -> "Figure":
    """Points, over a logarithmic x axis if x is positive and spans a factor of 2 or more."""
    figure, ax = axes()
    ax.plot(x, y, "o", color=COLOURS[0])
    if min(x) > 0 and max(x) >= 2 * min(x):
        logarithmic(ax, x)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    return figure
