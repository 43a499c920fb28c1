"""A table of runs: what differs, how good each is, and which differences are within the noise."""

import json
import math
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

from helpers.engine.files import relative
from helpers.errors import UserError
from helpers.hub.sources import resolve
from helpers.runs.folder import Run
from helpers.runs.parameters import STEPS
from helpers.runs.record import read_record
from helpers.runs.rendering import write_text
from helpers.runs.report import fresh_records, metrics_of, write_comparison

if TYPE_CHECKING:
    import pandas as pd

BEST, NOISE, WORSE = "best", "within the noise", "worse"
OTHER_TEXT, UNTESTED = "other test text", "not tested"
SCORED_IN = "scored in"


def comparison(folders: Sequence[Path]) -> "pd.DataFrame":
    """A row for each run, best first by bits per byte.

    The columns are the parameters that differ, perplexity with its 95 % interval, speed, minutes,
    and `beside best`: whether a run is worse than the best by more than chance, see `is_worse`.
    Runs with another test text than the best cannot be compared by document. The column
    `scored in` is there where the runs were not all scored in the same precision.

    Raises:
        UserError: a step of a run is missing or stale.
    """
    import pandas as pd

    runs = [_read(Path(folder)) for folder in folders]
    try:
        common = os.path.commonpath([str(run["folder"].parent) for run in runs])
    except ValueError:  # they are on several drives
        common = os.curdir
    differing = [
        (step, name)
        for step in STEPS
        for name in runs[0]["parameters"][step]
        if len({repr(run["parameters"][step].get(name)) for run in runs}) > 1
    ]
    precisions = [run["metrics"].get("scored_in") for run in runs]
    best = min(runs, key=lambda run: run["metrics"]["bits_per_byte_finetuned"])
    comparable = sum(run["test"] == best["test"] for run in runs)
    rows = []
    for run in runs:
        metrics, parameters = run["metrics"], run["parameters"]
        row = {"run": relative(run["folder"], common)}
        row |= {f"{step}.{name}": parameters[step].get(name) for step, name in differing}
        row |= {"perplexity": metrics["perplexity_finetuned"], "low": metrics["low_finetuned"]}
        row["high"] = metrics["high_finetuned"]
        row["bits per byte"] = metrics["bits_per_byte_finetuned"]
        row["tokens/s"] = metrics["train_tokens_per_second"]
        if len(set(precisions)) > 1:
            row[SCORED_IN] = metrics.get("scored_in", "")
        row["minutes"] = sum(metrics[f"seconds_{step}"] for step in STEPS) / 60
        row["beside best"] = BEST if run is best else _beside(best, run, comparable)
        rows.append(row)
    return pd.DataFrame(sorted(rows, key=lambda row: row["bits per byte"]))


def _read(folder: Path) -> dict[str, object]:
    run = Run(folder)
    records = fresh_records(run)
    scores = json.loads((run.path("evaluate") / "documents.json").read_text(encoding="utf-8"))[
        "fine-tuned"
    ]
    return {
        "folder": run.folder.resolve(),
        "parameters": {step: record["parameters"] for step, record in records.items()},
        "metrics": metrics_of(records),
        "nats": np.array(scores["nats"]),
        "tokens": np.array(scores["tokens"]),
        "test": records["load"]["fingerprint"],
    }


def _beside(best: dict, run: dict, runs: int) -> str:
    if best["test"] != run["test"]:
        return OTHER_TEXT
    scored = (best["tokens"] > 0) & (run["tokens"] > 0)
    if scored.sum() < 2:
        return UNTESTED
    difference = (run["nats"] - best["nats"])[scored]  # of the same bytes, in any tokenization
    return WORSE if is_worse(difference, runs) else NOISE


def is_worse(difference: np.ndarray, runs: int) -> bool:
    """Whether a run is worse than the best of `runs` by more than chance.

    The best was picked after its number was seen, and any pair of runs could have been this one.
    So the paired t intervals of all pairs must hold together: two-sided, 95 %, with Bonferroni's
    correction for their number.

    Args:
        difference: nats of the run minus those of the best, for each document.
        runs: how many runs are compared.
    """
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    return bool(
        difference.mean() > t_quantile(0.05 / math.comb(runs, 2), len(difference) - 1) * error
    )


@cache
def t_quantile(share: float, freedom: int) -> float:
    """What Student's t with `freedom` degrees exceeds in absolute value with probability `share`.

    With t = sqrt(freedom) · tan(angle), the density of the angle is proportional to
    cos(angle)^(freedom − 1).
    """
    angles = np.linspace(0, np.pi / 2, 100_001)
    middle = (angles[1:] + angles[:-1]) / 2
    beyond = np.cumsum((np.cos(middle) ** (freedom - 1))[::-1])[::-1]  # from each angle on
    return float(np.sqrt(freedom) * np.tan(np.interp(-share, -beyond / beyond[0], angles[:-1])))


def explanation(table: "pd.DataFrame") -> str:
    """How to read the table of `comparison`, in a few sentences."""
    pairs = math.comb(int((table["beside best"] != OTHER_TEXT).sum()), 2)
    text = (
        "A run is called worse if the choice of the test documents does not explain its difference "
        "from the best. The best was picked after its number was seen, so the test is two-sided "
        "and corrected for the number of pairs of runs with this test text, "
        f"{pairs} (paired t intervals over documents, 95 % together, Bonferroni)."
    )
    if SCORED_IN in table:
        text += " These runs were not scored in the same precision, "
        text += "which alone may explain small differences."
    return text


def show_comparison(
    folders: Sequence[Path], csv: Path | None, html: Path | None, console: Console
) -> None:
    """Print the comparison of complete runs, and write it as CSV and HTML where a path is given."""
    for folder in folders:
        read_record(resolve(folder), complete=True)
    csv, html = (path and resolve(path) for path in (csv, html))
    for name, path in (("csv", csv), ("html", html)):
        if path and not path.parent.is_dir():
            raise UserError(
                f"{name} is {str(path)!r}: there is no folder {str(path.parent)!r}, "
                "make it or name another."
            )
    table = comparison(folders)
    printed = Table(*table.columns)
    for row in table.itertuples(index=False):
        printed.add_row(*(f"{v:,.4g}" if isinstance(v, float) else str(v) for v in row))
    console.print(printed)
    console.print(explanation(table))
    if csv:
        write_text(csv, table.to_csv(index=False))
    if html:
        write_comparison(table, explanation(table), [resolve(folder) for folder in folders], html)
        console.print(f"report: {relative(html)}")
