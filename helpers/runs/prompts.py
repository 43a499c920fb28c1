"""Prompts from a file, and what was written after them as JSON Lines and CSV."""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

from helpers.engine.continuing import Written
from helpers.engine.progress import Progress
from helpers.errors import ParameterError, first_line
from helpers.hub.sources import resolve


def read_prompts(file: str) -> list[str]:
    """The prompts of a file, in its order; none for an empty name.

    Args:
        file: JSON Lines or CSV with a field `prompt` (`.jsonl`, `.csv`), or one prompt in each
            line (`.txt`, where empty lines do not count); in UTF-8.

    Raises:
        ParameterError: where it cannot be read, or a row has no prompt.
    """
    if not file:
        return []
    path = resolve(file)
    rows, number = [], 0
    try:
        text = path.read_text(encoding="utf-8-sig")
        lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        if path.suffix == ".jsonl":
            for number, line in lines:
                rows.append((f"line {number}", json.loads(line)))
        elif path.suffix == ".csv":
            table = csv.DictReader(io.StringIO(text), strict=True)
            rows = [(f"the row that ends in line {table.line_num}", row) for row in table]
        elif path.suffix == ".txt":
            rows = [(f"line {number}", {"prompt": line}) for number, line in lines]
        else:
            raise ParameterError("prompts_file", file, "it must end in .jsonl, .csv or .txt")
    except (OSError, ValueError, csv.Error) as error:
        where = f"line {number} of it" if number else "it"
        reason = getattr(error, "strerror", "") or getattr(error, "msg", "") or first_line(error)
        needed = f"{where} could not be read ({reason})"
        raise ParameterError("prompts_file", file, needed) from None
    for place, row in rows:
        prompt = row.get("prompt") if isinstance(row, dict) else None
        if not isinstance(prompt, str) or not prompt:
            raise ParameterError("prompts_file", file, f"{place} has no text in a field 'prompt'")
    if not rows:
        raise ParameterError("prompts_file", file, "it has no prompts")
    return [row["prompt"] for _, row in rows]


def write_texts(
    folder: Path,
    texts: Mapping[str, Iterable[Written]],
    settings: Mapping[str, object],
    total: int,
) -> None:
    """Write `texts.jsonl` and `texts.csv` into a folder, row by row as the texts come.

    Args:
        texts: By the name of the model that wrote them.
        settings: What they have in common, such as the temperature.
        total: How many texts there are, for the bar.
    """
    fields = ["model", *Written._fields, *settings]
    with (
        open(folder / "texts.jsonl", "w", encoding="utf-8", newline="\n") as lines,
        open(folder / "texts.csv", "w", encoding="utf-8", newline="") as table,
        closing(Progress(total, "texts")) as bar,
    ):
        writer = csv.DictWriter(table, fields)
        writer.writeheader()
        for model, ones in texts.items():
            for one in ones:
                row = {"model": model, **one._asdict(), **settings}
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
                writer.writerow(row)
                bar.advance(1)
