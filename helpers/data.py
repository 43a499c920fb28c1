"""Examples: read from files or the Hub, and the text of each.

A text is a column, a nested one, a list of texts, chat messages, or several columns in a format
string.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from helpers.engine.arrow import tables, validate
from helpers.engine.columns import TextColumn
from helpers.engine.readers import reader_for, reading_error
from helpers.engine.streaming import stream
from helpers.errors import DataError, ParameterError, first_line
from helpers.hub.sources import locate

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


def load_examples(
    dataset: str,
    split: str,
    configuration: str = "",
    documents: str = "line",
    stream_to: Path | None = None,
) -> "Dataset":
    """Load the examples of a data set; how many the split leaves out is printed.

    Args:
        dataset: `embedded`; a file (JSON, JSON Lines, CSV, TSV, Parquet, Arrow, text; gzip too), a
            folder of files or a pattern such as `data/*.jsonl`; on the Hub `user/name`,
            `user/name@revision`, or `hf://datasets/user/name@revision/file` for single files.
        split: an expression such as `train[:5000]`; files have the one split `train`.
        configuration: which one of a data set on the Hub that has several.
        documents: what is an example of a text file: a `line`, a `paragraph` (between empty lines)
            or the whole `file`.
        stream_to: where the rows of a data set on the Hub are written as they come, with no copy in
            a cache; None fetches it first.

    Raises:
        DataError: where nothing can be read.
        ParameterError: where the data set has no such split or configuration.
    """
    import datasets

    location = locate("dataset", dataset, streaming=stream_to is not None)
    if location.commit:
        print(f"{location.name} at commit {location.commit}")
    reader = reader_for(dataset, location.folder, location.files, configuration, documents)
    if location.streamed:
        return stream(dataset, reader | {"revision": location.commit}, split, stream_to)
    from_files = "data_files" in reader
    try:
        whole = datasets.load_dataset(**reader, split="train" if from_files else None)
        if from_files:
            validate(whole)  # the reader of JSON takes any bytes for UTF-8
    except Exception as error:  # the readers of five formats have no error in common
        raise reading_error(dataset, reader, location.folder, error) from None
    try:
        examples = datasets.load_dataset(**reader, split=split)
    except (ValueError, AssertionError, KeyError, TypeError, RuntimeError) as error:
        needed = f"{dataset!r} has no such split ({first_line(error)}), try 'train[:1000]'"
        raise ParameterError("split", split, needed) from None
    bounds = re.fullmatch(r".*\[(\d*):(\d+)\]", split)
    wanted = int(bounds[2]) - int(bounds[1] or 0) if bounds else 0
    if len(examples) < wanted:
        print(
            f"{wanted:,} examples were asked for, the data set has {len(examples):,}: "
            "all of them are used."
        )
    elif omitted := left_out(examples, split):
        print(f"{split!r} leaves out {omitted:,} of {len(examples) + omitted:,} examples.")
    if reader["path"] == "text" and documents == "line":
        _advise_on_lines(examples)
    return examples


def _advise_on_lines(examples: "Dataset") -> None:
    """Print a word of advice where most lines of a text file are too short to be documents."""
    lines = texts(examples.select(sample_rows(len(examples), 1000)), "text")
    words = [len(line.split()) for line in lines if line.strip()]
    if words and np.median(words) < 10:
        print(
            "Most lines have fewer than 10 words, and each is a document of its own: "
            "documents='paragraph' or 'file' keeps together what belongs together."
        )


def left_out(examples: "Dataset", split: str) -> int | str:
    """How many examples of the splits that `split` names are not in `examples`, loaded with it."""
    if not (sizes := examples.info.splits):  # of a stream, which was read to the last of them
        return "unknown" if "[" in split else 0
    names = {part.partition("[")[0].strip() for part in split.split("+")} & set(sizes) or set(sizes)
    return sum(sizes[name].num_examples for name in names) - len(examples)


def sample_rows(total: int, count: int, seed: int = 0) -> np.ndarray:
    """Row numbers of a sample without replacement, in order; all rows if `count` is 0 or too many.

    >>> sample_rows(1_000_000, 3).tolist()
    [511136, 636961, 850622]
    >>> sample_rows(4, 0).tolist()
    [0, 1, 2, 3]
    """
    if not 0 < count < total:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).choice(total, count, replace=False))


def drop_empty(examples: "Dataset", text_column: str) -> "Dataset":
    """The examples that have text; how many have none is printed.

    Raises DataError if none has any.
    """
    documents = Texts(examples, text_column)
    keep = np.fromiter((bool(text.strip()) for text in documents), bool, len(documents))
    total, empty = len(keep), np.count_nonzero(~keep)
    if empty == total:
        raise DataError(
            f"None of the {total:,} examples has any text in {text_column!r}: "
            "choose another text_column."
        )
    if empty:
        print(f"{empty:,} of {total:,} examples have no text in {text_column!r} and are left out.")
    return examples.select(np.flatnonzero(keep)) if empty else examples


class Texts:
    """The text of each example, read in batches: `for text in Texts(examples, "text")`.

    A string stays as it is, a list of strings is joined by spaces, and `''` stands for no text.

    Args:
        examples: the data set.
        text_column: a column; a nested one with dots, as `Dataset.flatten` names it
            (`answers.text`); or several in a format string (`{title} {answers.text}`).
        tokenizer: its chat template renders chat messages; without it they are `role: content`.

    Raises:
        ParameterError: for a column that is not there, or that holds something other than text.
    """

    def __init__(
        self,
        examples: "Dataset",
        text_column: str,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
    ):
        self._column, self._tokenizer = TextColumn(examples, text_column), tokenizer

    def __len__(self) -> int:
        return len(self._column.rows)

    def __iter__(self) -> Iterator[str]:
        for table in tables(self._column.rows, self._column.batch_size(1 << 20)):
            yield from self._column.texts(table, self._tokenizer)


def texts(
    examples: "Dataset", text_column: str, tokenizer: "PreTrainedTokenizerBase | None" = None
) -> list[str]:
    """The text of each example as a list, for a data set that fits into memory; see `Texts`."""
    return list(Texts(examples, text_column, tokenizer))
