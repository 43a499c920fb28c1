"""Runs beside each other: what differs, how good each is, and which differences are within the noise."""

import json
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

from helpers.errors import UserError
from helpers.hub.sources import resolve
from helpers.runs.folder import Run
from helpers.runs.parameters import STEPS
from helpers.runs.rendering import write_text
from helpers.runs.report import fresh_records, metrics_of, write_comparison
from helpers.runs.run import read_record

if TYPE_CHECKING:
    import pandas as pd

BEST, NOISE, WORSE, OTHER, UNTESTED = (
    "best",
    "within the noise",
    "worse",
    "other test text",
    "not tested",
)
SCORED_IN = "scored in"


def comparison(folders: Sequence[Path]) -> "pd.DataFrame":
    """A row for each run, best first by bits per byte: what differs among their parameters, perplexity with its 95 % interval, speed, minutes.

    `beside best` says whether a run is worse than the best by more than chance, see `is_worse`. Runs whose test text is not that of the best
    are not comparable document by document, and say so. `scored in` is there where the runs were not all scored in the same precision.
    Raises UserError for a run in which a step is missing or stale.
    """
    import pandas as pd

    runs = [_read(Path(folder)) for folder in folders]
    names = _names([run["folder"] for run in runs])
    differing = [
        f"{step}.{name}"
        for step in STEPS
        for name in runs[0]["parameters"][step]
        if len({repr(run["parameters"][step].get(name)) for run in runs}) > 1
    ]
    precisions = {run["metrics"].get("scored_in") for run in runs}
    rows = []
    for run, run_name in zip(runs, names, strict=True):
        metrics = run["metrics"]
        values = {
            key: run["parameters"][key.partition(".")[0]].get(key.partition(".")[2])
            for key in differing
        }
        numbers = {"perplexity": metrics["perplexity_finetuned"], "low": metrics["low_finetuned"]}
        numbers |= {
            "high": metrics["high_finetuned"],
            "bits per byte": metrics["bits_per_byte_finetuned"],
        }
        numbers["tokens/s"] = metrics["train_tokens_per_second"]
        numbers |= {SCORED_IN: metrics.get("scored_in", "")} if len(precisions) > 1 else {}
        numbers["minutes"] = sum(metrics[f"seconds_{step}"] for step in STEPS) / 60
        rows.append({"run": run_name, **values, **numbers, "of": run})
    rows.sort(key=lambda row: row["bits per byte"])
    best = rows[0]["of"]
    alike = sum(run["test"] == best["test"] for run in runs)
    for row in rows:
        run = row.pop("of")
        row["beside best"] = BEST if run is best else _beside(best, run, alike)
    return pd.DataFrame(rows)


def _read(folder: Path) -> dict[str, object]:
    run = Run(folder)
    records = fresh_records(run)
    scores = json.loads((run.path("evaluate") / "documents.json").read_text())["fine-tuned"]
    return {
        "folder": run.folder.resolve(),
        "parameters": {step: record["parameters"] for step, record in records.items()},
        "metrics": metrics_of(records),
        "nats": np.array(scores["nats"]),
        "tokens": np.array(scores["tokens"]),
        "test": records["load"]["fingerprint"],
    }


def _names(folders: list[Path]) -> list[str]:
    """Short names that differ: what comes after the folder that all have in common."""
    common = os.path.commonpath([str(folder.parent) for folder in folders])
    return [os.path.relpath(folder, common) for folder in folders]


def _beside(best: dict, run: dict, runs: int) -> str:
    if best["test"] != run["test"]:
        return OTHER
    scored = (best["tokens"] > 0) & (run["tokens"] > 0)
    if scored.sum() < 2:
        return UNTESTED
    difference = (run["nats"] - best["nats"])[scored]  # of the same bytes, whatever the tokens are
    return WORSE if is_worse(difference, runs) else NOISE


def is_worse(difference: np.ndarray, runs: int) -> bool:
    """Whether a run is worse than the best of `runs` by more than chance, from the `difference` of their nats for each document.

    Which run is best was seen before it was tested, and any two could have been the best and this one. So the paired t intervals of all
    pairs of runs must hold together: two-sided, 95 %, corrected by Bonferroni for their number.
    """
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    return bool(difference.mean() > t_quantile(0.05 / _pairs(runs), len(difference) - 1) * error)


@cache
def t_quantile(share: float, freedom: int) -> float:
    """What Student's t exceeds in absolute value with probability `share`, at some degrees of freedom.

    With t = sqrt(freedom) · tan(angle), the density of the angle is proportional to cos(angle)^(freedom − 1).
    """
    angles = np.linspace(0, np.pi / 2, 100_001)
    middle = (angles[1:] + angles[:-1]) / 2
    beyond = np.cumsum((np.cos(middle) ** (freedom - 1))[::-1])[::-1]  # from each angle on
    return float(np.sqrt(freedom) * np.tan(np.interp(-share, -beyond / beyond[0], angles[:-1])))


def _pairs(runs: int) -> int:
    return runs * (runs - 1) // 2


def about(table: "pd.DataFrame") -> str:
    """What has to be known to read the table of `comparison`, in some sentences."""
    pairs = _pairs(int((table["beside best"] != OTHER).sum()))
    said = (
        "A run is called worse if the choice of the test documents does not explain its difference from the best. "
        "The best was picked after its number was seen, so the test is two-sided and corrected for the number "
        f"of pairs of runs with this test text, {pairs} (paired t intervals over documents, 95 % together, Bonferroni)."
    )
    if SCORED_IN in table:
        said += " These runs were not scored in the same precision: small differences may come from that alone."
    return said


def main(folders: Sequence[Path], csv: Path | None, html: Path | None, console: Console) -> None:
    """`show`, where every run has ended well; UserError for one that has not."""
    for folder in folders:
        read_record(resolve(folder), complete=True)
    show(folders, csv, html, console)


def show(folders: Sequence[Path], csv: Path | None, html: Path | None, console: Console) -> None:
    """Print the comparison, and write it as CSV and as one HTML page where these are asked for."""
    csv, html = (path and resolve(path) for path in (csv, html))
    for name, path in (("csv", csv), ("html", html)):
        if path and not path.parent.is_dir():
            raise UserError(
                f"{name} is {str(path)!r}: there is no folder {str(path.parent)!r}, make it or name another."
            )
    table = comparison(folders)
    shown = Table(*table.columns)
    for row in table.itertuples(index=False):
        shown.add_row(
            *(f"{value:,.4g}" if isinstance(value, float) else str(value) for value in row)
        )
    console.print(shown)
    console.print(about(table))
    if csv:
        write_text(csv, table.to_csv(index=False))
    if html:
        write_comparison(table, about(table), [resolve(folder) for folder in folders], html)
        console.print(f"report: {os.path.relpath(html)}")
