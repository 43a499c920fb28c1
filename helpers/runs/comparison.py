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
from helpers.errors import ParameterError, RunError, UserError
from helpers.hub.sources import PROJECT, resolve
from helpers.runs.board import (
    BITS,
    SCORED_IN,
    TEST,
    VALIDATION,
    board_html,
    shown,
    write_comparison,
)
from helpers.runs.folder import Run, with_ancestors
from helpers.runs.parameters import STEPS, folder_of
from helpers.runs.record import read_record
from helpers.runs.rendering import write_text
from helpers.runs.report import fresh_records, metrics_of

if TYPE_CHECKING:
    import pandas as pd
    from IPython.display import HTML

BEST, NOISE, WORSE, BETTER = "best", "within the noise", "worse", "better"
OTHER_TEXT, UNTESTED = "other test text", "not tested"


def comparison(folders: Sequence[Path]) -> "pd.DataFrame":
    """A row for each run, best first; the index holds their folders.

    The best is chosen by perplexity on the validation documents, or by bits per byte of the test
    documents where that cannot be: `attrs["by"]` is the column, `attrs["why"]` the reason.

    The columns are the parameters that differ, both perplexities, that of the test documents with
    its 95 % interval, speed, minutes, and `beside best`: whether chance explains the difference
    from the best on the test documents, see `verdict`. The column `scored in` is there where the
    runs were not all scored in the same precision.

    Raises:
        RunError: a run has trained no model, or a step of it is stale.
    """
    return _table([_read(Run(folder)) for folder in folders])


def _table(runs: list[dict]) -> "pd.DataFrame":
    import pandas as pd

    try:
        common = os.path.commonpath([str(run["folder"].parent) for run in runs])
    except ValueError:  # they are on several drives
        common = os.curdir
    why = _why_not_by_validation(runs)
    by = BITS if why else VALIDATION
    for run in runs:
        run["row"] = {"run": relative(run["folder"], common), **_differing(run, runs)}
        run["row"] |= _numbers(run, {other["metrics"].get("scored_in") for other in runs})
    runs.sort(key=lambda run: (math.isnan(run["row"][by]), run["row"][by]))
    comparable = sum(_is_comparable(runs[0], run) for run in runs)
    pairs = comparable - 1 if by == VALIDATION else math.comb(comparable, 2)
    for run in runs:
        run["row"]["beside best"] = BEST if run is runs[0] else _beside(runs[0], run, pairs)
    table = pd.DataFrame([run["row"] for run in runs], index=[run["folder"] for run in runs])
    table.attrs |= {"by": by, "why": why, "pairs": pairs}
    return table


def _read(run: Run) -> dict[str, object]:
    """What is compared of a run, which has to be trained, and need not be tested yet."""
    needed = with_ancestors("train")
    done = [step for step in STEPS if step in needed or run.record(step)]
    records = fresh_records(run, done)
    found = {
        "folder": run.folder.resolve(),
        "parameters": {step: record["parameters"] for step, record in records.items()},
        "metrics": metrics_of(records),
        "documents": records["load"]["fingerprint"],
    }
    if "evaluate" in records:
        path = run.path("evaluate") / "documents.json"
        scores = json.loads(path.read_text(encoding="utf-8"))["fine-tuned"]
        found |= {name: np.array(scores[name]) for name in ("nats", "tokens")}
    return found


def _why_not_by_validation(runs: list[dict]) -> str:
    """Why the runs cannot be ranked by perplexity on the validation documents, if they cannot."""
    if not all("perplexity_validation" in run["metrics"] for run in runs):
        return "not all runs have a validation part"
    if len({run["documents"] for run in runs}) > 1:
        return "the runs have different validation documents"
    if len({run["metrics"].get("bytes_per_token") for run in runs}) > 1:
        return "their tokenizers differ, and perplexity per token compares equal tokens only"
    return ""


def _differing(run: dict, runs: list[dict]) -> dict[str, object]:
    """The parameters of a run in which it differs from another one, of steps that all have done."""
    found, every = {}, [other["parameters"] for other in runs]
    for step in (step for step in STEPS if all(step in one for one in every)):
        for name in dict.fromkeys(name for one in every for name in one[step]):
            if len({repr(one[step].get(name)) for one in every}) > 1:
                found[f"{step}.{name}"] = run["parameters"][step].get(name)
    return found


def _numbers(run: dict, precisions: set[str | None]) -> dict[str, object]:
    """The columns of a run that hold results; what it has not is NaN."""
    metrics = run["metrics"]
    names = {VALIDATION: "perplexity_validation", TEST: "perplexity_finetuned"}
    names |= {"low": "low_finetuned", "high": "high_finetuned", BITS: "bits_per_byte_finetuned"}
    names["tokens/s"] = "train_tokens_per_second"
    numbers = {column: metrics.get(name, math.nan) for column, name in names.items()}
    if len(precisions - {None}) > 1:
        numbers[SCORED_IN] = metrics.get("scored_in", "")
    seconds = sum(metrics.get(f"seconds_{step}", 0.0) for step in STEPS)
    return numbers | {"minutes": seconds / 60}


def _is_comparable(best: dict, run: dict) -> bool:
    """Whether two runs were scored on the same test documents."""
    same = best["documents"] == run["documents"] and "nats" in best and "nats" in run
    return same and len(best["nats"]) == len(run["nats"])


def _beside(best: dict, run: dict, pairs: int) -> str:
    if "nats" not in best or "nats" not in run:
        return UNTESTED
    if not _is_comparable(best, run):
        return OTHER_TEXT
    scored = (best["tokens"] > 0) & (run["tokens"] > 0)
    if scored.sum() < 2:
        return UNTESTED
    return verdict((run["nats"] - best["nats"])[scored], pairs)  # of the same bytes


def verdict(difference: np.ndarray, pairs: int) -> str:
    """Whether a run differs from the best by more than chance: worse, better or neither.

    If the best was picked by these very numbers, any pair of runs could have been this one; else
    it is one of those with the best. So the paired t intervals of `pairs` pairs must hold together:
    two-sided, 95 %, with Bonferroni's correction.

    Args:
        difference: Nats of the run minus those of the best, for each document.
        pairs: How many pairs of runs could be compared.
    """
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    beyond = t_quantile(0.05 / pairs, len(difference) - 1) * error
    return WORSE if difference.mean() > beyond else BETTER if difference.mean() < -beyond else NOISE


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
    pairs = table.attrs["pairs"]
    method = f"{pairs} (paired t intervals over documents, 95 % together, Bonferroni)."
    if table.attrs["by"] == VALIDATION:
        text = "Best first, by perplexity on the validation documents. "
        if pairs > 0:
            text += "A run is called worse or better if the choice of the test documents does not "
            text += "explain its difference from the best there. The test documents had no part "
            text += "in picking the best; the test is corrected for the number of other runs, "
            text += method
    else:
        text = f"Best first, by bits per byte of the test documents, since {table.attrs['why']}. "
        if pairs > 0:
            text += "A run is called worse if the choice of the test documents does not explain "
            text += "its difference from the best. The best was picked after its number was seen, "
            text += "which flatters it; so the test is two-sided and corrected for the number of "
            text += f"pairs of runs with this test text, {method}"
    if SCORED_IN in table:
        text += " These runs were not scored in the same precision, "
        text += "which alone may explain small differences."
    return text.strip()


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
        printed.add_row(*map(shown, table.columns, row))
    console.print(printed)
    console.print(explanation(table))
    if csv:
        write_text(csv, table.to_csv(index=False))
    if html:
        write_comparison(table, explanation(table), html)
        console.print(f"report: {relative(html)}")


def board(folder: str = "runs") -> "HTML":
    """All runs in a folder beside each other, as HTML that needs no kernel.

    Their losses over each other, what differs between them, and how good each is. A run is shown
    once its model is trained; a sweep's runs are those in the sweep's folder.

    Raises:
        ParameterError: if no run in the folder has a trained model.
    """
    from IPython.display import HTML

    trained = f"{folder_of('train')}/step.json"
    found = (path for depth in ("*", "*/*") for path in resolve(folder).glob(f"{depth}/{trained}"))
    runs, left_out = [], []
    for path in sorted(path.parents[1] for path in found):
        try:
            runs.append(_read(Run(path)))
        except RunError as error:
            left_out.append(str(error))
    if not runs:
        needed = " ".join(["no run in it has a trained model", *left_out])
        raise ParameterError("folder", folder, needed.rstrip("."))
    table = _table(runs)
    note = " ".join([explanation(table), *left_out])
    return HTML(board_html(table, note, PROJECT / "notebooks"))
