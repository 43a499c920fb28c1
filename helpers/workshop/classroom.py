"""The class as an experiment: each laptop trains one learning rate, and all results make one page.

`assign(name)` gives the rate, `save_result(name)` writes a small file once the run is done, and
`python -m helpers classroom FOLDER` draws what was collected.
"""

import hashlib
import json
import math
import re
import time
import unicodedata
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from helpers.engine.svg import logarithmic, svg
from helpers.errors import RunError, UserError
from helpers.figures import COLOURS, GREY, axes
from helpers.hub.sources import PROJECT
from helpers.runs.folder import Run, hash_of, with_ancestors, write_json
from helpers.runs.rendering import render, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RATES = (1e-5, 3e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 1e-2)
FORMAT = 1
RUN_DIR = "runs/class"


@dataclass(frozen=True)
class Result:
    """What one laptop has found: perplexity on the test documents, and its 95 % interval.

    `loss` is that of the validation documents (nats per token), by which the best is chosen.
    `experiment` is a hash of all other parameters and of the test documents: results that differ
    in it cannot be compared. `written` is in seconds since 1970.
    """

    format: int
    name: str
    learning_rate: float
    perplexity: float
    low: float
    high: float
    perplexity_base: float
    loss: float
    experiment: str
    written: float


def assign(name: str) -> float:
    """The learning rate that somebody trains; the same each time, whatever the case of letters."""
    if not (folded := _folded(name)):
        raise UserError(f"name is {name!r}: it must have letters or digits.")
    digest = hashlib.blake2b(folded.encode(), digest_size=8).digest()
    rate = RATES[int.from_bytes(digest, "big") % len(RATES)]
    command = f"python -m helpers run --run-dir {RUN_DIR} -p train.learning_rate={rate:g}"
    print(f"{name} trains with the learning rate {rate:g}: `{command}`")
    return rate


def _folded(name: str) -> str:
    """A name as it stands in a file's name."""
    return re.sub(r"\W+", "-", unicodedata.normalize("NFC", name).casefold()).strip("-_")


def save_result(name: str, run_dir: str = RUN_DIR, folder: str | Path = PROJECT / "work") -> Path:
    """Write `result-NAME.json` of a run whose step `evaluate` is done, and return its path.

    Raises:
        RunError: the run lacks it, or it is stale.
    """
    if not (folded := _folded(name)):
        raise UserError(f"name is {name!r}: it must have letters or digits.")
    run = Run(run_dir)
    if why := run.problem("evaluate"):
        command = f"python -m helpers run --run-dir {run.shown}"
        raise RunError(f"There is no result yet: {why}; `{command}` goes on.")
    metrics = run.record("evaluate")["metrics"]
    parameters = {step: run.record(step)["parameters"] for step in with_ancestors("evaluate")}
    rate = parameters["train"].pop("learning_rate")
    scores = json.loads((run.path("evaluate") / "documents.json").read_text(encoding="utf-8"))
    result = Result(
        FORMAT,
        name.strip(),
        rate,
        metrics["perplexity_finetuned"],
        metrics["low_finetuned"],
        metrics["high_finetuned"],
        metrics["perplexity_base"],
        run.record("train")["metrics"]["loss_finetuned"],
        hash_of([parameters, scores["base"]["tokens"]]),
        time.time(),
    )
    path = Path(folder) / f"result-{folded}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(result))
    print(f"{name} has perplexity {result.perplexity:.2f}: hand in {path.name}, in {path.parent}.")
    return path


def read_results(folder: Path) -> tuple[list[Result], list[str]]:
    """The results in a folder, one for each name, and a sentence on each file that is left out."""
    read, notes = [], []
    for path in sorted(Path(folder).glob("result-*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version = content["format"]
            if version == FORMAT:
                read.append((_checked(content), path.name))
            else:
                kind = "an older" if version < FORMAT else "a newer"
                notes.append(f"{path.name} was written by {kind} version: it is left out.")
        except (OSError, ValueError, KeyError, TypeError):
            notes.append(f"{path.name} is damaged: it is left out.")
    latest: dict[str, Result] = {}
    for result, file in sorted(read, key=lambda one: one[0].written, reverse=True):
        if (folded := _folded(result.name)) in latest:
            notes.append(f"{file} is an earlier result or a copy of {result.name}'s: left out.")
        latest.setdefault(folded, result)
    kinds = [result.experiment for result in latest.values()]
    usual = max(kinds, key=kinds.count, default="")
    for folded, result in list(latest.items()):
        if result.experiment != usual:
            notes.append(
                f"{result.name} has other test documents or parameters than most: left out."
            )
            del latest[folded]
    return sorted(latest.values(), key=lambda one: (one.learning_rate, one.name)), notes


def _checked(content: dict) -> Result:
    """A result whose fields are all there and of their types, or an exception."""
    result = Result(**content)
    for field in fields(Result):
        value = getattr(result, field.name)
        if field.type is float:
            if isinstance(value, bool) or not math.isfinite(value) or value <= 0:
                raise ValueError(field.name)
        elif not isinstance(value, field.type):
            raise TypeError(field.name)
    return result


def write_page(folder: Path) -> list[str]:
    """Write `classroom.html` into a folder of results; what was found, in sentences.

    Raises:
        UserError: there is no result in the folder.
    """
    results, notes = read_results(folder)
    if not results:
        why = " ".join(notes) or "collect the files result-NAME.json there first."
        raise UserError(f"{str(folder)!r} has no result: {why}")
    best = best_of(results)
    line = (
        f"{len(results)} results. The learning rate {best.learning_rate:g} is the best on the "
        f"validation documents; its perplexity on the test documents is {best.perplexity:.2f} "
        f"({best.low:.2f} to {best.high:.2f})."
    )
    page = render(
        "classroom.html.j2",
        title="What our class has found",
        line=line,
        figure=svg(draw(results), f"Perplexity against learning rate. {line}"),
        rows=_rows(results),
        notes=notes,
    )
    path = write_text(Path(folder) / "classroom.html", page)
    return [*notes, line, f"page: {path}"]


def best_of(results: list[Result]) -> Result:
    """The result that is best on the validation documents."""
    return min(results, key=lambda one: (one.loss, one.name))


def _rows(results: list[Result]) -> list[dict[str, object]]:
    """A row for each learning rate, in order."""
    rows = []
    for rate in sorted({one.learning_rate for one in results}):
        found = [one for one in results if one.learning_rate == rate]
        rows.append(
            {
                "learning rate": f"{rate:g}",
                "laptops": len(found),
                "perplexity": median(one.perplexity for one in found),
                "low": min(one.low for one in found),
                "high": max(one.high for one in found),
            }
        )
    return rows


def draw(results: list[Result]) -> "Figure":
    """Perplexity against learning rate: each result with its interval, and the best one marked."""
    figure, ax = axes(10, 5)
    best, seen = best_of(results), Counter()
    for one in results:
        x = one.learning_rate * 1.05 ** seen[one.learning_rate]  # beside those of the same rate
        seen[one.learning_rate] += 1
        spans = [[one.perplexity - one.low], [one.high - one.perplexity]]
        colour = COLOURS[5] if one is best else COLOURS[0]
        ax.errorbar(x, one.perplexity, spans, fmt="o", color=colour, capsize=3)
    ax.axhline(median(one.perplexity_base for one in results), color=GREY, linestyle="--")
    place = {"xytext": (0, -18), "textcoords": "offset points", "ha": "center"}
    name = f"best: {best.perplexity:.2f} at {best.learning_rate:g}"
    ax.annotate(name, (best.learning_rate, best.low), color=COLOURS[5], **place)
    logarithmic(ax, sorted(seen))
    ax.set(xlabel="learning rate", ylabel="perplexity per token (dashed: before training)")
    ax.margins(x=0.08, y=0.15)
    return figure
