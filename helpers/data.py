"""Where examples come from, and a split that does not leak."""

import errno
import glob
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from helpers.columns import texts
from helpers.errors import DataError, ParameterError, UserError, first_line
from helpers.hub import download as hub
from helpers.hub.sources import READERS, files_of, obtain, source_of

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

SHINGLE = 8  # words; two records are near-duplicates if half of the shorter one's 8-word runs are in the other


def load_examples(dataset: str, split: str, configuration: str = "") -> "Dataset":
    """The examples of a data set: `embedded`, files, or a name on the Hub.

    Files are one file (JSON, JSON Lines, CSV, TSV, Parquet, text; gzip too), a folder of them, or a
    pattern such as `data/*.jsonl`. A name on the Hub is
    `user/name` or `user/name@revision`, with a `configuration` where it has several; or
    `hf://datasets/user/name@revision/file` for single files of it. `split` is an expression such as
    `train[:5000]`; files have the one split `train`. Where it leaves examples out, or asks for more
    than there are, that is said. Raises DataError where nothing can be read.
    """
    import datasets

    path = obtain("dataset", dataset)
    copy = hub.cached("dataset", dataset) if source_of("dataset", dataset) is None else None
    if copy:
        print(f"{copy.name} at commit {copy.commit}")
    reader = _reader(dataset, path, copy, configuration)
    try:
        whole = datasets.load_dataset(**reader, split="train" if "data_files" in reader else None)
        if "data_files" in reader:
            whole.data.table.validate(full=True)  # the reader of JSON takes any bytes for UTF-8
    except Exception as error:  # the readers of five formats have no error in common
        raise _unreadable(dataset, reader, path, error) from None
    try:
        found = datasets.load_dataset(**reader, split=split)
    except (ValueError, AssertionError, KeyError, TypeError, RuntimeError) as error:
        raise ParameterError(
            "split",
            split,
            f"{dataset!r} has no such split ({first_line(error)}), try 'train[:1000]'",
        ) from None
    asked = re.fullmatch(r".*\[(\d*):(\d+)\]", split)
    if asked and len(found) < int(asked[2]) - int(asked[1] or 0):
        wanted = int(asked[2]) - int(asked[1] or 0)
        print(
            f"{wanted:,} examples were asked for, the data set has {len(found):,}: all of them are used."
        )
    elif omitted := left_out(found, split):
        print(f"{split!r} leaves out {omitted:,} of {len(found) + omitted:,} examples.")
    return found


def left_out(examples: "Dataset", split: str) -> int:
    """How many examples `split` left out of the splits that it names, when `examples` were loaded."""
    sizes = examples.info.splits
    names = {part.partition("[")[0].strip() for part in split.split("+")} & set(sizes) or set(sizes)
    return sum(sizes[name].num_examples for name in names) - len(examples)


def _reader(
    dataset: str, path: Path, copy: "hub.Copy | None", configuration: str
) -> dict[str, object]:
    """What `load_dataset` is called with: a repository's folder, or files and their ending's reader."""
    if copy and not copy.files:
        return {"path": str(path)} | ({"name": configuration} if configuration else {})
    if configuration:
        raise ParameterError("configuration", configuration, "a file has none, leave it empty")
    if path.is_dir() and not copy:
        inside = sorted(
            p for p in path.rglob("[!.]*") if p.is_file() and p.suffix not in ("", ".md")
        )
        files = [str(p) for p in inside if "/." not in f"/{p.relative_to(path).as_posix()}"]
    else:
        files = copy.files if copy else [str(p) for p in files_of(path)]
    endings = [Path(f).name.lower().removesuffix(".gz").rpartition(".")[2] for f in files]
    readers = [READERS.get(ending) for ending in endings]
    if not files or None in readers:
        odd = Path(files[readers.index(None)]).name if files else dataset
        known = ", .".join(READERS)
        raise DataError(
            f"dataset is {odd!r}: a file must end in .{known}, or one of these and .gz."
        )
    if any(reader != readers[0] for reader in readers):
        raise DataError(
            f"dataset is {dataset!r}: its files are of several kinds, name those of one."
        )
    return readers[0] | {"data_files": [glob.escape(file) for file in files]}


def _unreadable(dataset: str, reader: dict[str, object], path: Path, error: Exception) -> UserError:
    how = f" as {reader['path']}" if "data_files" in reader else ""
    full = getattr(error.__cause__, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    if full or "enough disk space" in str(error):
        return DataError(
            f"dataset is {dataset!r}: there is no room for it in the cache of datasets, "
            "make room or set HF_DATASETS_CACHE to a folder on another disk."
        )
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
    why = first_line(error.__cause__ or error)
    why += "; convert it to UTF-8" if re.search("utf-?8", why, re.IGNORECASE) else ""
    why += "; its records must have the same fields" if why == "Couldn't cast" else ""
    return DataError(f"dataset is {dataset!r}: nothing in it could be read{how} ({why}).")


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

    Two documents are near-duplicates if at least half of the shorter one's runs of 8 words are in the
    other; a document of fewer words only matches one of the same words. Groups are closed under this.
    Case and punctuation do not count. Runs are compared by a 64-bit hash, as in w-shingling (Broder
    1997). A passage that many documents have, such as a system prompt or a footer, is no sign of a
    copy: runs in more than 5 % of the different documents (in more than 10 at least, 1,000 at most)
    are left out, and documents are compared by their other words.
    """
    group = np.arange(len(documents))
    words, lengths = _words(documents, r"\w+")
    while True:
        begins, owner, value = _runs(words, lengths, SHINGLE)
        names, run = np.unique(value, return_inverse=True)
        different = group[owner] == owner  # exact copies of earlier documents have been found
        holder, held = _distinct(owner[different], run[different])
        _join_copies(holder, held, group)
        different = group[holder] == holder
        holder, held = holder[different], held[different]
        most = min(max(10, np.count_nonzero(np.diff(holder)) / 20), 1000)
        often = np.bincount(held, minlength=len(names)) > most
        if not often.any():
            break
        inside = np.zeros(len(words), bool)
        for place in range(SHINGLE):
            inside[begins[often[run]] + place] = True
        kept = ~inside
        lengths = np.bincount(
            np.repeat(np.arange(len(lengths)), lengths)[kept], minlength=len(lengths)
        )
        words = words[kept]
    _join_similar(holder, held, group)
    return _root(group, np.arange(len(group)))


def _words(documents: list[str], pattern: str) -> tuple[np.ndarray, np.ndarray]:
    """The words of all documents end to end, as numbers from 1 on, and how many each document has."""
    numbers: dict[str, int] = {}
    found = []
    for document in documents:
        words = re.findall(pattern, document.lower())
        found.append(np.array([numbers.setdefault(w, len(numbers) + 1) for w in words], np.uint64))
    lengths = np.array([len(words) for words in found], np.int64)
    return np.concatenate([np.zeros(0, np.uint64), *found]), lengths


def _runs(
    words: np.ndarray, lengths: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each run of `width` words begins, its document, and its 64-bit hash.

    A document of fewer words is one run.
    """
    document = np.repeat(np.arange(len(lengths)), lengths)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(
        len(words)
    )  # to the end of its document
    value = np.zeros(len(words), np.uint64)
    for column in range(min(width, len(words))):
        there = len(words) - column
        mixed = (value[:there] ^ words[column:]) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
        np.copyto(value[:there], mixed, where=left[:there] > column)
    begins = np.flatnonzero((left >= width) | (left == lengths[document]))
    return begins, document[begins], value[begins]


def _distinct(owner: np.ndarray, run: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of a document and a run, each once, in order."""
    count = int(run.max(initial=0)) + 1
    pairs = np.sort(
        owner * count + run
    )  # np.unique would build a table of hashes, three times as slow
    return np.divmod(pairs[np.diff(pairs, prepend=-1) > 0], count)


def _root(group: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """The first document of the group of each; `group` leads there, by way of others."""
    while (group[documents] != documents).any():
        documents = group[documents]
    return documents


def _join_copies(holder: np.ndarray, held: np.ndarray, group: np.ndarray) -> None:
    """Lead documents with the same runs to the first of them."""
    seen: dict[bytes, int] = {}
    begins = np.flatnonzero(np.diff(holder, prepend=-1)).tolist()
    for begin, end in pairwise([*begins, len(holder)]):
        group[holder[begin]] = seen.setdefault(held[begin:end].tobytes(), holder[begin])


def _join_similar(holder: np.ndarray, held: np.ndarray, group: np.ndarray) -> None:
    """Join the groups of documents if at least half of the runs of the one with fewer are in the other.

    At least one of these is among any (half and one) of its runs: only the holders of its rarest are
    looked at (prefix filtering, Chaudhuri et al. 2006).
    """
    frequency = np.bincount(held)
    holders, after = holder[np.argsort(held, kind="stable")], np.cumsum(frequency)

    def holders_of(runs: np.ndarray) -> np.ndarray:
        return np.concatenate([holders[after[run] - frequency[run] : after[run]] for run in runs])

    held = held[np.lexsort((frequency[held], holder))]
    sizes = np.bincount(holder, minlength=len(group))
    ends = np.cumsum(sizes)
    rare = np.arange(len(held)) - np.repeat(ends - sizes, sizes) <= np.repeat(sizes // 2, sizes)
    for i in np.unique(holder[rare & (frequency[held] > 1)]):
        own = held[ends[i] - sizes[i] : ends[i]]
        near = np.unique(holders_of(own[: sizes[i] // 2 + 1]))
        near = near[(sizes[near] >= sizes[i]) & (_root(group, near) != _root(group, np.array([i])))]
        if len(near):
            found = holders_of(own)
            place = np.searchsorted(near, found).clip(max=len(near) - 1)
            shared = np.bincount(place[near[place] == found], minlength=len(near))
            same = _root(group, np.append(near[2 * shared >= sizes[i]], i))
            group[same] = same.min()


def split_fairly(
    examples: "Dataset",
    text_column: str,
    test_size: float,
    seed: int,
    stratify_by_column: str | None = None,
    groups: Sequence[int] | None = None,
) -> "DatasetDict":
    """A train and a test set such that no document has a near-duplicate on the other side.

    `Dataset.train_test_split` deals out single examples, so that copies and quotes end up on both sides and the test is of memory.
    Here whole groups of near-duplicates are dealt out, in a seeded order, until the test share is reached; with
    `stratify_by_column`, value by value of that column, so that both sides have each in proportion (a group counts as its first example).
    `groups` is a number for each example, if not what `near_duplicates` finds for their texts.
    Raises ParameterError if either side would be empty.
    """
    from datasets import DatasetDict

    if stratify_by_column is not None and stratify_by_column not in examples.column_names:
        raise ParameterError(
            "stratify_by_column",
            stratify_by_column,
            f"choose one of {', '.join(examples.column_names)}, or None",
        )
    groups = near_duplicates(texts(examples, text_column)) if groups is None else np.asarray(groups)
    names, first, sizes = np.unique(groups, return_index=True, return_counts=True)
    values = (
        [str(v) for v in examples[stratify_by_column][:]]
        if stratify_by_column
        else [""] * len(examples)
    )
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
            f"{len(examples):,} examples in {len(names):,} groups of near-duplicates leave one side "
            "empty, use more examples or another share",
        )
    return DatasetDict(
        train=examples.select(np.flatnonzero(~in_test)),
        test=examples.select(np.flatnonzero(in_test)),
    )


def shared_ngrams(train: list[str], test: list[str], n: int = 8) -> np.ndarray:
    """For each text of `test`, the share of its runs of n words that occur in `train`: (texts,), NaN where it has no such run.

    A run is what lies between white space, upper and lower case alike. Much more than nothing means that the model has seen
    the test.
    """
    words, lengths = _words([*train, *test], r"\S+")
    _, owner, value = _runs(words, lengths, n)
    whole = lengths[owner] >= n
    owner, run = owner[whole] - len(train), np.unique(value[whole], return_inverse=True)[1]
    known = np.zeros(len(run), bool)
    known[run[owner < 0]] = True
    tested, held = _distinct(owner[owner >= 0], run[owner >= 0])
    shared, own = (np.bincount(tested, weights, len(test)) for weights in (known[held], None))
    return np.divide(shared, own, out=np.full(len(test), np.nan), where=own > 0)
