"""Where examples come from, which column holds their text, and a split that does not leak."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from helpers.errors import DataError, ParameterError, nearest
from helpers.run import source_of

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

READERS = {
    "json": "json",
    "jsonl": "json",
    "csv": "csv",
    "tsv": "csv",
    "parquet": "parquet",
    "txt": "text",
    "text": "text",
}
SHINGLE = 8  # words; two records are near-duplicates if half of the shorter one's 8-word runs are in the other


def load_examples(dataset: str, split: str) -> "Dataset":
    """The examples of a data set: `embedded`, a file (JSON, JSON Lines, CSV, TSV, Parquet, text; gzip too), or a name on the Hub.

    `split` is an expression such as `train[:5000]`; a file has the one split `train`. Where it asks for more examples
    than there are, all of them are taken, and that is said. Raises DataError where nothing can be read.
    """
    import datasets

    path = source_of("dataset", dataset)
    try:
        if path is None and _looks_like_a_file(dataset):
            raise DataError(
                f"dataset is {dataset!r}: there is no such file; relative paths start at the project's folder."
            )
        if path is not None:
            found = datasets.load_dataset(_reader(path), data_files=str(path), split=split, **_options(path))
        else:
            found = datasets.load_dataset(dataset, split=split)
    except (datasets.exceptions.DatasetGenerationError, UnicodeDecodeError) as error:
        cause = str(error.__cause__ or error).split("\n")[0].rstrip(".")
        raise DataError(f"dataset is {dataset!r}: the file is not readable as {_reader(path)} ({cause}).") from None
    except (ConnectionError, FileNotFoundError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise DataError(f"dataset is {dataset!r}: it is no file here, and the Hub gave none ({reason}).") from None
    except (ValueError, AssertionError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise ParameterError(
            "split", split, f"data set {dataset!r} has no such split ({reason}), try 'train[:1000]'"
        ) from None
    asked = re.fullmatch(r".*\[(\d*):(\d+)\]", split)
    if asked and len(found) < int(asked[2]) - int(asked[1] or 0):
        wanted = int(asked[2]) - int(asked[1] or 0)
        print(f"{wanted:,} examples were asked for, the data set has {len(found):,}: all of them are used.")
    return found


def _looks_like_a_file(name: str) -> bool:
    return bool({s.lstrip(".") for s in Path(name).suffixes} & set(READERS)) or name.startswith((".", "/", "~"))


def _reader(path: Path) -> str:
    suffix = path.name.removesuffix(".gz").rsplit(".", 1)[-1]
    if path.is_dir() or suffix not in READERS:
        raise DataError(
            f"dataset is {path.name!r}: a file must end in .{', .'.join(READERS)}, or one of these and .gz."
        )
    return READERS[suffix]


def _options(path: Path) -> dict[str, str]:
    return {"delimiter": "\t"} if ".tsv" in path.suffixes else {}


def texts(examples: "Dataset", text_column: str) -> list[str]:
    """The text of each example: a string as it is, a list of strings joined by spaces, '' where there is none.

    A nested column is named with dots, as `Dataset.flatten` names it (`answers.text`). Raises ParameterError for a column that
    is not there, or that holds something other than text.
    """
    flat = examples.select_columns([c for c in examples.column_names if c == text_column.split(".")[0]]).flatten()
    if text_column not in flat.column_names:
        known = examples.flatten().column_names
        there = ", ".join(known)
        raise ParameterError(
            "text_column", text_column, f"{nearest(text_column, known)} The columns are {there}".replace("? T", "? t")
        )
    column = flat[text_column][:]
    for value in column:
        if not (
            value is None
            or isinstance(value, str)
            or (isinstance(value, list) and all(isinstance(v, str) for v in value))
        ):
            found = type(value[0] if isinstance(value, list) and value else value).__name__
            raise ParameterError(
                "text_column", text_column, f"it holds {found}, choose a column of texts or of lists of texts"
            )
    return [value if isinstance(value, str) else " ".join(value or []) for value in column]


def drop_empty(examples: "Dataset", text_column: str) -> "Dataset":
    """The examples that have text. What is left out is counted and said; DataError if nothing remains."""
    keep = [i for i, text in enumerate(texts(examples, text_column)) if text.strip()]
    if not keep:
        raise DataError(
            f"None of the {len(examples):,} examples has any text in {text_column!r}: choose another text_column."
        )
    if len(keep) < len(examples):
        print(
            f"{len(examples) - len(keep):,} of {len(examples):,} examples have no text in {text_column!r} and are left out."
        )
    return examples.select(keep)


def near_duplicates(documents: list[str]) -> np.ndarray:
    """A group number for each document: near-duplicates share one.

    Two documents are near-duplicates if at least half of the shorter one's runs of 8 words (or of all its words, if it has fewer) are in the
    other; groups are closed under this. Case and punctuation do not count. Runs of words are compared by a 64-bit hash,
    as in w-shingling (Broder 1997).
    """
    vocabulary: dict[str, int] = {}
    hashes, owners = [], []
    for number, document in enumerate(documents):
        words = np.array(
            [vocabulary.setdefault(w, len(vocabulary) + 1) for w in re.findall(r"\w+", document.lower())], np.uint64
        )
        width = max(1, min(SHINGLE, len(words)))
        runs = np.lib.stride_tricks.sliding_window_view(words, width) if len(words) else np.zeros((0, 1), np.uint64)
        value = np.zeros(len(runs), np.uint64)
        for column in range(width if len(words) else 0):
            value = (value ^ runs[:, column]) * np.uint64(0x9E3779B97F4A7C15)
            value ^= value >> np.uint64(29)
        value = np.unique(value)
        hashes.append(value)
        owners.append(np.full(len(value), number, np.int64))
    sizes = np.array([len(h) for h in hashes])
    every, owner = np.concatenate(hashes), np.concatenate(owners)
    order = np.lexsort((owner, every))
    every, owner = every[order], owner[order]
    # documents that hold the same run stand next to each other now: count the runs that each pair of neighbours shares
    same = every[1:] == every[:-1]
    pairs, shared = np.unique(np.stack([owner[:-1][same], owner[1:][same]], axis=1), axis=0, return_counts=True)
    group = np.arange(len(documents))

    def root(i: int) -> int:
        while group[i] != i:
            i = group[i]
        return int(i)

    for (a, b), count in zip(pairs.tolist(), shared.tolist(), strict=True):
        if 2 * count >= min(sizes[a], sizes[b]):
            group[max(root(a), root(b))] = min(root(a), root(b))
    return np.array([root(i) for i in range(len(documents))])


def split_fairly(examples: "Dataset", text_column: str, test_size: float, seed: int) -> "DatasetDict":
    """A train and a test set such that no document has a near-duplicate on the other side.

    `Dataset.train_test_split` deals out single examples, so that copies and quotes end up on both sides and the test is of memory.
    Here whole groups of near-duplicates are dealt out, in a seeded order, until the test share is reached.
    Raises ParameterError if either side would be empty.
    """
    from datasets import DatasetDict

    groups = near_duplicates(texts(examples, text_column))
    names, sizes = np.unique(groups, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    target = max(1, round(test_size * len(examples)))
    test_names: list[int] = []
    taken = 0
    for i in order:
        if taken < target and taken + sizes[i] <= max(target, 1.1 * target):
            test_names.append(names[i])
            taken += sizes[i]
    in_test = np.isin(groups, test_names)
    if in_test.all() or not in_test.any():
        raise ParameterError(
            "test_size",
            test_size,
            f"{len(examples):,} examples in {len(names):,} groups of near-duplicates leave one side empty, use more examples",
        )
    return DatasetDict(train=examples.select(np.flatnonzero(~in_test)), test=examples.select(np.flatnonzero(in_test)))


def save(dataset: "DatasetDict", folder: Path) -> None:
    """Write a data set to `folder` without the paths and time stamps that `save_to_disk` would keep of its source."""
    from datasets import Dataset, DatasetDict

    clean = {name: Dataset(part.flatten_indices().data) for name, part in dataset.items()}
    DatasetDict(clean).save_to_disk(folder)


def load(folder: Path) -> "DatasetDict":
    """A data set as `save` wrote it, memory-mapped. It does not know its folder, so that `map` puts no cache files there."""
    from datasets import Dataset, DatasetDict, load_from_disk

    return DatasetDict({name: Dataset(part.data.table) for name, part in load_from_disk(str(folder)).items()})
