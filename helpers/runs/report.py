"""A run on one page: `report.html`, which needs no network and can be printed."""

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.errors import RunError
from helpers.figures import draw_bars, draw_losses, draw_points, html_picture
from helpers.runs.folder import Run
from helpers.runs.parameters import STEPS, folder_of
from helpers.runs.rendering import render, write_text

if TYPE_CHECKING:
    import pandas as pd


def fresh_records(run: Run) -> dict[str, dict]:
    """The record of every step; RunError with the command that helps where one is missing, or older than what it was made from."""
    for step in STEPS:
        if why := run.problem(step):
            command = f"python -m helpers run --run-dir {shlex.quote(run.shown)} --from {step}"
            raise RunError(
                f"The numbers of {run.shown!r} are not of one run: {why}; `{command}` makes them anew."
            )
    return {step: run.record(step) for step in STEPS}


def metrics_of(records: dict[str, dict]) -> dict[str, object]:
    """The metrics of all steps, with the seconds that each took."""
    found = {}
    for step, record in records.items():
        found |= record["metrics"] | {f"seconds_{step}": record["seconds"]}
    return found


def write_report(run: Run) -> Path:
    """Write `report.html` into the folder of a complete run, from what its steps have left there.

    Raises RunError where a step is missing or stale.
    """
    records = fresh_records(run)
    metrics = metrics_of(records)
    losses = json.loads((run.path("train") / "losses.json").read_text())
    both = {"base": metrics["perplexity_base"], "fine-tuned": metrics["perplexity_finetuned"]}
    page = render(
        "report.html.j2",
        title=f"Run {run.folder.resolve().name}",
        metrics=metrics,
        bars=html_picture(
            draw_bars(both, "perplexity a token"),
            f"Perplexity: base {both['base']:.1f}, fine-tuned {both['fine-tuned']:.1f}.",
        ),
        curves=html_picture(
            draw_losses(losses["history"], losses["base_loss"]),
            "Training and test loss against the steps of training.",
        ),
        scores=json.loads((run.path("evaluate") / "perplexity.json").read_text()),
        tokens=[
            {"": name, "tokens": metrics[f"tokens_{name}"]} for name in ("in", "kept", "dropped")
        ],
        heat_maps=(run.path("evaluate") / "heat_maps.html").read_text(encoding="utf-8"),
        generated=json.loads((run.path("infer") / "texts.json").read_text()),
        numbers=[{"name": key, "value": value} for key, value in metrics.items()],
        steps=[_step(name, record) for name, record in records.items()],
        notebooks=[Path(folder_of(step), f"{folder_of(step)}.ipynb") for step in STEPS],
        versions=", ".join(
            f"{name} {version}" for name, version in records["infer"]["versions"].items()
        ),
    )
    return write_text(run.folder / "report.html", page)


def _step(name: str, record: dict) -> dict[str, object]:
    parameters = ", ".join(f"{key} = {value}" for key, value in record["parameters"].items())
    numbers = {"seconds": record["seconds"], "peak memory (MB)": record["peak_memory_mb"]}
    return {"step": name, **numbers, "parameters": parameters}


def write_comparison(table: "pd.DataFrame", note: str, folders: list[Path], path: Path) -> Path:
    """Write the table of `comparison.comparison` as a page, with perplexity over each number that was varied, and links to the runs.

    `note` stands beside the table. Raises RunError where `path` cannot be written.
    """
    figures = []
    for name in table.columns[1 : table.columns.get_loc("perplexity")]:
        if (
            all(isinstance(value, (int, float)) for value in table[name])
            and table[name].nunique() > 1
        ):
            each = table.sort_values(name)
            figure = draw_points(
                each[name].tolist(), each["perplexity"].tolist(), name, "perplexity"
            )
            best = table.iloc[0][name]
            figures.append(
                html_picture(
                    figure, f"Perplexity against {name}; the best run has {name} = {best}."
                )
            )
    pages = [folder / "report.html" for folder in folders]
    links = [
        (page.parent.name, Path(os.path.relpath(page, path.parent)))
        for page in pages
        if page.exists()
    ]
    rows = table.to_dict("records")
    return write_text(
        path,
        render(
            "comparison.html.j2",
            title="Comparison",
            note=note,
            rows=rows,
            figures=figures,
            reports=links,
        ),
    )
