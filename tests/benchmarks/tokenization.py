"""Tokenization beside one call of the Rust tokenizer and the guide's `map`: `python -m
tests.benchmarks.tokenization`.
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import datasets

from helpers.data import load_examples, texts
from helpers.models import load_tokenizer
from helpers.tokenization import tokenize
from tests import REAL_TEXT
from tests.benchmarks.results import record, table

COLUMN = "answers.text"


def main() -> None:
    """Five times each, in turn; the best counts. Nothing is in the cache, but for the last row."""
    datasets.disable_progress_bars()
    tokenizer = load_tokenizer("embedded")
    examples = load_examples(str(REAL_TEXT) if REAL_TEXT.exists() else "embedded", "train")
    documents, flat = texts(examples, COLUMN), examples.flatten()

    def guide() -> None:
        joined = flat.map(
            lambda rows: tokenizer([" ".join(parts) for parts in rows[COLUMN]], verbose=False),
            batched=True,
            num_proc=4,
            remove_columns=flat.column_names,
            load_from_cache_file=False,
        )
        joined.cleanup_cache_files()

    def anew() -> None:
        shutil.rmtree(datasets.config.HF_DATASETS_CACHE / "tokenized", ignore_errors=True)
        tokenize(examples, COLUMN, tokenizer)

    ways: dict[str, Callable] = {
        "one `encode_batch` of the tokenizer": lambda: tokenizer.backend_tokenizer.encode_batch(
            documents
        ),
        "the guide's `map`, 4 processes": guide,
        "`tokenize`": anew,
        "`tokenize` again": lambda: tokenize(examples, COLUMN, tokenizer),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = Path(folder)
        for _ in range(5):
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - start)
    one = min(seconds["one `encode_batch` of the tokenizer"])
    rows = [
        {"": name, "seconds": f"{min(s):.3f}", "times `encode_batch`": f"{min(s) / one:.2f}"}
        for name, s in seconds.items()
    ]
    size = sum(len(document.encode()) for document in documents) / 1e6
    record(
        "Tokenization",
        f"`make bench-chunking`. {len(documents):,} documents, {size:.1f} MB.\n\n{table(rows)}",
    )


if __name__ == "__main__":
    main()
