"""Chunking against the guide's function, itertools and TRL: `python -m tests.benchmarks.chunking
[MILLION_TOKENS]`.

Every contender gets the same documents as token ids in memory and runs in a process of its own.
Measured are the best of three times (of one, where a run takes more than 20 seconds) and the peak
of the memory above what it was before.
"""

import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, disable_progress_bars

from helpers.chunking import chunk
from helpers.data import load_examples
from helpers.models import load_tokenizer
from helpers.tokenization import tokenize
from tests import REAL_TEXT
from tests.benchmarks.results import record, status, table

EOS = 0


def group_texts(examples: dict[str, list], block_size: int) -> dict[str, list]:
    """The guide's function."""
    concatenated = {k: sum(examples[k], []) for k in examples}
    return _blocks(concatenated, block_size)


def chained(examples: dict[str, list], block_size: int) -> dict[str, list]:
    """The guide's function with the usual repair of its quadratic time."""
    return _blocks({k: list(itertools.chain(*examples[k])) for k in examples}, block_size)


def _blocks(concatenated: dict[str, list], block_size: int) -> dict[str, list]:
    total = len(concatenated["input_ids"]) // block_size * block_size
    result = {
        k: [t[i : i + block_size] for i in range(0, total, block_size)]
        for k, t in concatenated.items()
    }
    result["labels"] = result["input_ids"].copy()
    return result


def mapped(function: Callable) -> Callable:
    """A function of a batch as a function of a data set."""
    return lambda data, size: data.map(function, batched=True, fn_kwargs={"block_size": size})


def packed(strategy: str) -> Callable:
    """TRL's packing."""

    def run(data: Dataset, size: int) -> Dataset:
        from trl.data_utils import pack_dataset

        return pack_dataset(data, size, strategy)

    return run


def ours(eos: int | None, strategy: str, **options: object) -> Callable:
    """This project's."""
    return lambda data, size: chunk(data, size, eos, strategy, **options)[0]


CONTENDERS: dict[str, Callable] = {
    "guide's `group_texts` in `map`": mapped(group_texts),
    "`itertools.chain` in `map`": mapped(chained),
    "TRL `wrapped`": packed("wrapped"),
    "TRL `bfd`": packed("bfd"),
    "TRL `bfd_split`": packed("bfd_split"),
    "`concat`, ids only": ours(None, "concat", position_ids=False),
    "`pack`, ids only": ours(None, "pack", position_ids=False),
    "`concat`": ours(EOS, "concat"),
    "`pack`": ours(EOS, "pack"),
    "`document`": ours(EOS, "document"),
}


def measure(name: str, path: str, size: int) -> dict[str, float]:
    """One contender on the documents in a file."""
    disable_progress_bars()
    with pa.OSFile(path) as file:
        table = pa.ipc.open_stream(file).read_all()
    data, run = (
        Dataset(table, fingerprint="given"),
        CONTENDERS[name],
    )  # to find one would leave its memory behind
    count = sum(len(part.flatten()) for part in table["input_ids"].chunks)
    run(data.select(range(50)).flatten_indices(), size)  # imports, and what else is only done once
    seconds: list[float] = []
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = status("VmRSS")
    while len(seconds) < 3 and sum(seconds) < 20:
        blocks = None
        start = time.perf_counter()
        blocks = run(data, size)
        seconds.append(time.perf_counter() - start)
        if len(seconds) == 1:
            peak = status("VmHWM") - before
    kept = sum(len(c.flatten()) for c in blocks.with_format("arrow")[:]["input_ids"].chunks)
    # an end of text that was added fills a place, but is none of the tokens that came in
    added = (
        len(data) if name.startswith("`") and "ids only" not in name and "map" not in name else 0
    )
    return {
        "seconds": min(seconds),
        "tokens": count,
        "memory": peak / (4 * count),
        "kept": (kept - added) / count,
        "filled": kept / (len(blocks) * size),
    }


def repeated(examples: Dataset, column: str, tokens: int, folder: Path) -> tuple[Path, int]:
    """The documents as token ids, again and again until there are so many, in an Arrow file."""
    column = tokenize(examples, column, load_tokenizer("embedded")).with_format("arrow")[:][
        "input_ids"
    ]
    count = len(column.combine_chunks().flatten())
    times = max(1, round(tokens / count))
    path = folder / f"{times}.arrow"
    with pa.ipc.new_stream(str(path), pa.schema([("input_ids", column.type)])) as stream:
        for _ in range(times):
            stream.write_table(pa.table({"input_ids": column}))
    return path, count * times


def main(tokens: int) -> None:
    """Run every contender and write the tables."""
    sources = [("The embedded data set", "embedded", 0)]
    if REAL_TEXT.exists():
        sources.insert(0, ("ELI5-Category, validation 2, repeated", str(REAL_TEXT), tokens))
    text = [
        "`make bench-chunking`. Tokens are those that come in; kept and filled are shares of "
        "tokens and of places; memory is the peak above what it was before, in bytes for a byte "
        "of int32 ids."
    ]
    with tempfile.TemporaryDirectory() as folder:
        for title, dataset, wanted in sources:
            path, count = repeated(
                load_examples(dataset, "train"), "answers.text", wanted, Path(folder)
            )
            for size in (128, 1024):
                rows = []
                for name in CONTENDERS:
                    command = [
                        sys.executable,
                        "-m",
                        "tests.benchmarks.chunking",
                        "--one",
                        name,
                        str(path),
                        str(size),
                    ]
                    done = subprocess.run(command, check=True, capture_output=True, text=True)
                    found = json.loads(done.stdout.splitlines()[-1])
                    rows.append((name, found, found["tokens"] / found["seconds"]))
                    print(f"{name:32} {rows[-1][2] / 1e6:8.1f} million tokens/s", flush=True)
                slowest = rows[0][2]
                text += [f"**{title}: {count / 1e6:,.1f} million tokens, blocks of {size:,}**"]
                text += [
                    table(
                        [
                            {
                                "": name,
                                "million tokens/s": f"{speed / 1e6:,.1f}",
                                "times the guide": f"{speed / slowest:,.1f}",
                                "kept": f"{found['kept']:.2%}",
                                "filled": f"{found['filled']:.2%}",
                                "memory": f"{found['memory']:.2f}",
                            }
                            for name, found, speed in rows
                        ]
                    )
                ]
    record("Chunking", "\n\n".join(text))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2], sys.argv[3], int(sys.argv[4]))))
    else:
        main(round(float(sys.argv[1]) * 1e6) if sys.argv[1:] else 50_000_000)
