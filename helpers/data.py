"""Where examples come from, and a split that does not leak."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from helpers import hub
from helpers.columns import texts
from helpers.errors import DataError, ParameterError, UserError, first_line
from helpers.sources import READERS, fingerprint, obtain, source_of

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, DatasetDict

SHINGLE = 8  # words; two records are near-duplicates if half of the shorter one's 8-word runs are in the other


def load_examples(dataset: str, split: str, configuration: str = "") -> "Dataset":
    """The examples of a data set: `embedded`, a file (JSON, JSON Lines, CSV, TSV, Parquet, text; gzip too), or a name on the Hub.

    A name on the Hub is `user/name` or `user/name@revision`, with a `configuration` where it has several; or
    `hf://datasets/user/name@revision/file` for single files of it. `split` is an expression such as `train[:5000]`; files have the one
    split `train`. Where it asks for more examples than there are, all of them are taken, and that is said. Raises DataError where
    nothing can be read.
    """
    import datasets

    path = obtain("dataset", dataset)
    if copy := source_of("dataset", dataset) is None and hub.cached("dataset", dataset):
        print(f"{copy.name} at commit {copy.commit}")
    reader = _reader(dataset, path, copy.files if copy else [], configuration)
    try:
        datasets.load_dataset(**reader, split="train" if "data_files" in reader else None)
    except Exception as error:  # the readers of five formats have no error in common
        raise _unreadable(dataset, reader, path, error) from None
    try:
        found = datasets.load_dataset(**reader, split=split)
    except (ValueError, AssertionError, KeyError, TypeError, RuntimeError) as error:
        raise ParameterError(
            "split", split, f"{dataset!r} has no such split ({first_line(error)}), try 'train[:1000]'"
        ) from None
    asked = re.fullmatch(r".*\[(\d*):(\d+)\]", split)
    if asked and len(found) < int(asked[2]) - int(asked[1] or 0):
        wanted = int(asked[2]) - int(asked[1] or 0)
        print(f"{wanted:,} examples were asked for, the data set has {len(found):,}: all of them are used.")
    return found


def _reader(dataset: str, path: Path, files: list[str], configuration: str) -> dict[str, object]:
    """What `load_dataset` is called with: for files the reader that their ending asks for, for a repository its folder."""
    if path.is_dir() and not files and source_of("dataset", dataset) is None:
        return {"path": str(path)} | ({"name": configuration} if configuration else {})
    if configuration:
        raise ParameterError("configuration", configuration, "a file has none, leave it empty")
    names = {Path(file or path).name for file in files or [""]}
    endings = {name.removesuffix(".gz").rsplit(".", 1)[-1] for name in names}
    if (path.is_dir() and not files) or len(endings) != 1 or not endings <= set(READERS):
        raise DataError(
            f"dataset is {min(names)!r}: a file must end in .{', .'.join(READERS)}, or one of these and .gz."
        )
    reader = {"path": READERS[min(endings)], "data_files": files or str(path)}
    return reader | ({"delimiter": "\t"} if "tsv" in endings else {})


def _unreadable(dataset: str, reader: dict[str, object], path: Path, error: Exception) -> UserError:
    how = f" as {reader['path']}" if "data_files" in reader else ""
    if "data files found" in str(error) and any(path.glob("*.py")):
        return DataError(
            f"dataset is {dataset!r}: it is a Python script, which the library does not run any more; "
            f"look for a copy in plain files, or try '{dataset.partition('@')[0]}@refs/convert/parquet'."
        )
    if "BuilderConfig" in str(error) or "onfig name is missing" in str(error):
        return ParameterError(
            "configuration",
            reader.get("name", ""),
            f"{dataset!r} has others ({' '.join(str(error).split()).rstrip('.')})",
        )
    return DataError(
        f"dataset is {dataset!r}: nothing in it could be read{how} ({first_line(error.__cause__ or error)})."
    )


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
