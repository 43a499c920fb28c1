"""Write `docs/gallery.md` from a complete run: `python -m tools.gallery runs/smollm2`."""

import datetime
import json
import sys
import textwrap

from helpers.errors import UserError
from helpers.hub.sources import PROJECT
from helpers.runs.folder import Run
from helpers.runs.rendering import render, write_text
from helpers.runs.report import fresh_records, metrics_of

PAGE = PROJECT / "docs" / "gallery.md"
TEXTS = 5


def gallery(run: Run, date: datetime.date) -> str:
    """The perplexities and the first texts of a run as a page; RunError if it is not complete."""
    records = fresh_records(run)
    metrics, parameters = metrics_of(records), {s: r["parameters"] for s, r in records.items()}
    table = json.loads((run.path("evaluate") / "perplexity.json").read_text(encoding="utf-8"))
    found = {(row["definition"], row["model"]): row["perplexity"] for row in table}
    pairs = json.loads((run.path("infer") / "pairs.json").read_text(encoding="utf-8"))[:TEXTS]
    page = render(
        "gallery.md.j2",
        model=parameters["train"]["model"],
        data=parameters["load"]["dataset"],
        examples=metrics["examples_train"],
        tokens=metrics["tokens_rolling"],
        date=date.isoformat(),
        train_seed=parameters["train"]["seed"],
        seed=parameters["infer"]["seed"],
        rows=[
            (name, base, found[name, "fine-tuned"])
            for (name, m), base in found.items()
            if m == "base"
        ],
        ratio=metrics["perplexity_ratio"],
        low=metrics["perplexity_ratio_low"],
        high=metrics["perplexity_ratio_high"],
        pairs=[(pair.pop("prompt"), pair) for pair in pairs],
    )
    return "".join(map(_wrapped, page.splitlines()))


def _wrapped(line: str) -> str:
    """A line of Markdown in lines of at most 100 characters; those of a quotation stay in it."""
    if len(line) <= 100:
        return f"{line}\n"
    mark = "> " if line.startswith("> ") else ""
    return textwrap.fill(line, 100, subsequent_indent=mark, break_long_words=False) + "\n"


def main() -> None:
    """Write the page; exit with a sentence if the run is not complete."""
    if len(sys.argv) != 2:
        sys.exit("Name one run folder: python -m tools.gallery runs/smollm2")
    try:
        write_text(PAGE, gallery(Run(sys.argv[1]), datetime.date.today()))
    except UserError as error:
        sys.exit(str(error))
    print(f"{PAGE.relative_to(PROJECT)}: written")


if __name__ == "__main__":
    main()
