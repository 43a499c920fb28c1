"""Runs beside each other: what differs, how good each is, and which differences are within the noise."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

from helpers.batch import read_record
from helpers.errors import UserError
from helpers.parameters import STEPS
from helpers.run import Run

if TYPE_CHECKING:
    import pandas as pd

BEST, NOISE, WORSE, OTHER, UNTESTED = "best", "within the noise", "worse", "other test text", "not tested"


def comparison(folders: Sequence[Path]) -> "pd.DataFrame":
    """A row for each run, best first by bits per byte: what differs among their parameters, perplexity with its 95 % interval, speed, minutes.

    `beside best` says whether a run differs from the best by more than chance: a paired bootstrap over the test documents, 95 %. Runs whose
    test text is not that of the best are not comparable document by document, and say so. Raises UserError for a run that did not end well.
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
    rows = []
    for run, run_name in zip(runs, names, strict=True):
        metrics = run["metrics"]
        values = {key: run["parameters"][key.partition(".")[0]].get(key.partition(".")[2]) for key in differing}
        numbers = {"perplexity": metrics["perplexity_finetuned"], "low": metrics["low_finetuned"]}
        numbers |= {"high": metrics["high_finetuned"], "bits per byte": metrics["bits_per_byte_finetuned"]}
        numbers["tokens/s"] = metrics["train_tokens_per_second"]
        numbers["minutes"] = sum(metrics[f"seconds_{step}"] for step in STEPS) / 60
        rows.append({"run": run_name, **values, **numbers, "of": run})
    rows.sort(key=lambda row: row["bits per byte"])
    best = rows[0]["of"]
    for row in rows:
        row["beside best"] = BEST if row["of"] is best else _beside(best, row.pop("of"))
        row.pop("of", None)
    return pd.DataFrame(rows)


def _read(folder: Path) -> dict[str, object]:
    record = read_record(folder, complete=True)
    scores = json.loads((Run(folder).path("evaluate") / "documents.json").read_text())["fine-tuned"]
    test = Run(folder).record("load")["fingerprint"]
    found = {"nats": np.array(scores["nats"]), "tokens": np.array(scores["tokens"]), "test": test}
    return {**record, **found, "folder": folder.resolve()}


def _names(folders: list[Path]) -> list[str]:
    """Short names that differ: what comes after the folder that all have in common."""
    common = os.path.commonpath([str(folder.parent) for folder in folders])
    return [os.path.relpath(folder, common) for folder in folders]


def _beside(best: dict, run: dict) -> str:
    from helpers.perplexity import bootstrap

    if best["test"] != run["test"]:
        return OTHER
    scored = (best["tokens"] > 0) & (run["tokens"] > 0)
    if scored.sum() < 2:
        return UNTESTED
    nats = np.stack([best["nats"], run["nats"]])[:, scored]  # of the same bytes, whatever the tokens are
    one, other = bootstrap(nats, np.ones(scored.sum()))
    return NOISE if np.quantile(other - one, 0.025) <= 0 else WORSE


def main(folders: Sequence[Path], csv: Path | None, html: Path | None, console: Console) -> None:
    """Print the comparison, and write it as CSV and as one HTML page where these are asked for."""
    for name, path in (("csv", csv), ("html", html)):
        if path and not path.parent.is_dir():
            raise UserError(
                f"{name} is {str(path)!r}: there is no folder {str(path.parent)!r}, make it or name another."
            )
    table = comparison(folders)
    shown = Table(*table.columns)
    for row in table.itertuples(index=False):
        shown.add_row(*(f"{value:,.4g}" if isinstance(value, float) else str(value) for value in row))
    console.print(shown)
    if csv:
        table.to_csv(csv, index=False)
    if html:
        from helpers.report import write_comparison

        write_comparison(table, [Path(folder) for folder in folders], html)
        console.print(f"report: {os.path.relpath(html)}")
