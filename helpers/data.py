"""Where examples come from, which column holds their text, and a split that does not leak."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from helpers.errors import DataError, ParameterError, nearest
from helpers.run import fingerprint, source_of

if TYPE_CHECKING:
    import pyarrow as pa
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
    if path is None and _looks_like_a_file(dataset):
        raise DataError(f"dataset is {dataset!r}: there is no such file; relative paths start at the project's folder.")
    if path is not None:
        reader = {"path": _reader(path), "data_files": str(path)} | (
            {"delimiter": "\t"} if ".tsv" in path.suffixes else {}
        )
        try:
            datasets.load_dataset(**reader, split="train")
        except Exception as error:  # the readers of five formats have no error in common
            cause = _first_line(error.__cause__ or error)
            raise DataError(
                f"dataset is {dataset!r}: nothing in it could be read as {reader['path']} ({cause})."
            ) from None
    else:
        reader = {"path": dataset}
    try:
        found = datasets.load_dataset(**reader, split=split)
    except (ConnectionError, FileNotFoundError) as error:
        raise DataError(
            f"dataset is {dataset!r}: it is no file here, and the Hub gave none ({_first_line(error)})."
        ) from None
    except (ValueError, AssertionError, KeyError, TypeError, RuntimeError) as error:
        raise ParameterError(
            "split", split, f"{dataset!r} has no such split ({_first_line(error)}), try 'train[:1000]'"
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


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__


def texts(examples: "Dataset", text_column: str) -> list[str]:
    """The text of each example: a string as it is, a list of strings joined by spaces, '' where there is none.

    A nested column is named with dots, as `Dataset.flatten` names it (`answers.text`). Raises ParameterError for a column that
    is not there, or that holds something other than text.
    """
    return joined(text_of(examples, text_column)[text_column][:], text_column)


def text_of(examples: "Dataset", text_column: str) -> "Dataset":
    """The examples with nothing but the column `text_column`, no longer nested; ParameterError where it is not there.

    `Dataset.flatten` would do, but for data sets that `concatenate_datasets` has made it loses what was nested (datasets 5.2).
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    from datasets import Dataset
    from datasets.fingerprint import Hasher

    known = examples.flatten().column_names
    if text_column not in known:
        hint, listed = nearest(text_column, known), f"the columns are {', '.join(known)}"
        raise ParameterError("text_column", text_column, f"{hint}, {listed}" if "nearest" in hint else listed)
    outer = next(c for c in examples.column_names if f"{text_column}.".startswith(f"{c}."))
    column = examples.select_columns(outer).with_format("arrow")[:][outer]
    for inner in text_column.removeprefix(outer).split(".")[1:]:
        column = pc.struct_field(column, inner)
    return Dataset(pa.table({text_column: column}), fingerprint=Hasher.hash((examples._fingerprint, text_column)))


def joined(values: list[str | list[str] | None], text_column: str) -> list[str]:
    """Values of a column as one text each; ParameterError where it holds something else."""
    for value in values:
        for part in value if isinstance(value, list) else [value]:
            if not (part is None or isinstance(part, str)):
                kind = type(part).__name__
                raise ParameterError(
                    "text_column", text_column, f"it holds {kind}, choose a column of texts or of lists of texts"
                )
    return [" ".join(part for part in value if part) if isinstance(value, list) else value or "" for value in values]


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

    Two documents are near-duplicates if at least half of the shorter one's runs of 8 words are in the other; a document of
    fewer words only matches one of the same words. Groups are closed under this. Case and punctuation do not count. Runs are
    compared by a 64-bit hash,
    as in w-shingling (Broder 1997).
    """
    runs = _runs_of_words(documents)
    group = np.arange(len(documents))

    def root(i: int) -> int:
        while group[i] != i:
            i = group[i]
        return int(i)

    seen: dict[bytes, int] = {}
    for i, own in enumerate(runs):  # exact copies at once, so that what follows compares each text only once
        group[i] = seen.setdefault(own.tobytes(), i) if len(own) else i
    originals = [i for i in range(len(documents)) if group[i] == i]
    holders: dict[int, list[int]] = {}
    for i in originals:
        for run in runs[i].tolist():
            holders.setdefault(run, []).append(i)
    for i in originals:
        shared = Counter(j for run in runs[i].tolist() for j in holders[run] if j > i)
        for j, count in shared.items():
            if 2 * count >= min(len(runs[i]), len(runs[j])):
                group[max(root(i), root(j))] = min(root(i), root(j))
    return np.array([root(i) for i in range(len(documents))], np.int64)


def _runs_of_words(documents: list[str]) -> list[np.ndarray]:
    """The distinct runs of 8 words of each document, as sorted 64-bit hashes."""
    vocabulary: dict[str, int] = {}
    hashes = []
    for document in documents:
        words = np.array(
            [vocabulary.setdefault(w, len(vocabulary) + 1) for w in re.findall(r"\w+", document.lower())], np.uint64
        )
        width = min(SHINGLE, len(words))
        value = np.zeros(max(0, len(words) - width + 1) if width else 0, np.uint64)
        for column in range(width):
            value = (value ^ words[column : column + len(value)]) * np.uint64(0x9E3779B97F4A7C15)
            value ^= value >> np.uint64(29)
        hashes.append(np.unique(value))
    return hashes


def split_fairly(
    examples: "Dataset", text_column: str, test_size: float, seed: int, stratify_by_column: str | None = None
) -> "DatasetDict":
    """A train and a test set such that no document has a near-duplicate on the other side.

    `Dataset.train_test_split` deals out single examples, so that copies and quotes end up on both sides and the test is of memory.
    Here whole groups of near-duplicates are dealt out, in a seeded order, until the test share is reached; with
    `stratify_by_column`, value by value of that column, so that both sides have each in proportion (a group counts as its first example).
    Raises ParameterError if either side would be empty.
    """
    from datasets import DatasetDict

    if stratify_by_column is not None and stratify_by_column not in examples.column_names:
        raise ParameterError(
            "stratify_by_column", stratify_by_column, f"choose one of {', '.join(examples.column_names)}, or None"
        )
    groups = near_duplicates(texts(examples, text_column))
    names, first, sizes = np.unique(groups, return_index=True, return_counts=True)
    values = [str(v) for v in examples[stratify_by_column][:]] if stratify_by_column else [""] * len(examples)
    strata: dict[str, list[int]] = {value: [] for value in sorted(set(values))}
    for i in np.random.default_rng(seed).permutation(len(names)):
        strata[values[first[i]]].append(i)
    test_names: list[int] = []
    taken, wanted = 0, 0.0
    for members in strata.values():
        wanted += test_size * sizes[members].sum()
        target = max(1, round(wanted))
        for i in members:
            if taken < target and taken + sizes[i] <= 1.1 * target:
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


def shared_ngrams(train: list[str], test: list[str], n: int = 8) -> np.ndarray:
    """For each text of `test`, the share of its runs of n words that occur in `train`: (texts,), NaN where it has no such run.

    A run is what lies between white space, upper and lower case alike. Much more than nothing means that the model has seen
    the test.
    """

    def runs(text: str) -> set[int]:
        words = text.lower().split()
        return {hash(tuple(words[i : i + n])) for i in range(len(words) - n + 1)}

    known = set().union(*map(runs, train))
    found = [(len(own & known), len(own)) for own in map(runs, test)]
    return np.array([shared / own if own else np.nan for shared, own in found])


def write_split(folder: Path, schema: "pa.Schema", batches: Iterable["pa.RecordBatch"]) -> "Dataset":
    """Write record batches as they come, in the form of `Dataset.save_to_disk`, and memory-map them.

    Nothing in `folder` depends on where and when it was written, as it does with `save_to_disk` alone.
    """
    import pyarrow as pa
    from datasets import Dataset

    path = folder / "data-00000-of-00001.arrow"
    empty = Dataset(schema.empty_table())
    empty.save_to_disk(folder)
    with pa.ipc.new_stream(str(path), empty.features.arrow_schema) as stream:
        for batch in batches:
            stream.write_batch(batch)
    state = json.loads((folder / "state.json").read_text())
    state |= {"_data_files": [{"filename": path.name}], "_fingerprint": fingerprint(path)}
    (folder / "state.json").write_text(json.dumps(state, indent=2))
    return _load_split(folder)


def name_splits(folder: Path, names: Iterable[str]) -> None:
    """Say which splits are in `folder`, as `DatasetDict.save_to_disk` does."""
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(names)}))


def save(dataset: "DatasetDict", folder: Path) -> None:
    """Write a data set to `folder`, in the form of `DatasetDict.save_to_disk`."""
    for name, part in dataset.items():
        table = part.flatten_indices().data
        write_split(folder / name, table.schema, table.to_batches())
    name_splits(folder, dataset)


def load(folder: Path) -> "DatasetDict":
    """A data set as `save` wrote it, memory-mapped. It does not know its folder, so that `map` puts no cache files there."""
    from datasets import DatasetDict

    names = json.loads((folder / "dataset_dict.json").read_text())["splits"]
    return DatasetDict({name: _load_split(folder / name) for name in names})


def _load_split(folder: Path) -> "Dataset":
    from datasets import Dataset, load_from_disk

    part = load_from_disk(str(folder))
    return Dataset(part.data.table, fingerprint=part._fingerprint)
