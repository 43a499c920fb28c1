"""Data sets as folders, in the form of `save_to_disk`: the same bytes for the same rows."""

import json
import pickle
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from helpers.engine.files import fingerprint, link
from helpers.engine.progress import Progress, no_bars
from helpers.errors import ParameterError

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, DatasetDict

SLICE = 100_000  # rows
IN_MEMORY = 64e6  # bytes of a split that is read into memory, rather than mapped


def save(dataset: "DatasetDict", folder: Path) -> None:
    """Write a data set to `folder`, in the form of `DatasetDict.save_to_disk`."""
    for name, part in dataset.items():
        with closing(Progress(len(part), f"rows of {name}")) as bar:
            write_split(folder / name, part.data.schema, _batches(part, bar))
    name_splits(folder, dataset)


def load(folder: Path) -> "DatasetDict":
    """A data set that `save` wrote, memory-mapped if it is large.

    Windows replaces no file that is mapped, so that a step could not be done again while another
    notebook has its data set open; a small one is read instead.

    It has no reference to its folder, so that `map` puts no cache files there.
    """
    from datasets import DatasetDict

    names = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
    return DatasetDict({name: _load_split(folder / name) for name in names})


def write_split(
    folder: Path, schema: "pa.Schema", batches: Iterable["pa.RecordBatch"]
) -> "Dataset":
    """Write record batches as they come, as `Dataset.save_to_disk` would, and load them.

    Unlike what `save_to_disk` writes, nothing in `folder` depends on where and when it was written.
    """
    import pyarrow as pa
    from datasets import Dataset

    path = folder / "data-00000-of-00001.arrow"
    # schema.empty_table() cannot make columns of JSON
    empty = Dataset(pa.Table.from_batches([], schema), fingerprint="none")
    with no_bars():
        empty.save_to_disk(folder)
    with pa.ipc.new_stream(str(path), empty.features.arrow_schema) as stream:
        for batch in batches:
            stream.write_batch(batch)
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    state |= {"_data_files": [{"filename": path.name}], "_fingerprint": fingerprint(path)}
    (folder / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
    return _load_split(folder)


def shard_of(parts: "DatasetDict", shard: str) -> "DatasetDict":
    """A part of each split: `2/8` is the second of eight, in order; '' is all of it.

    Raises ParameterError for a shard that cannot be.
    """
    if not shard:
        return parts
    found, most = re.fullmatch(r"(\d+)/(\d+)", shard), min(map(len, parts.values()))
    number, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= count <= most:
        needed = f"'2/8' is the second of eight, and here are documents for at most {most:,}"
        raise ParameterError("shard", shard, needed)
    shards = {k: part.shard(count, number - 1, contiguous=True) for k, part in parts.items()}
    return type(parts)(shards)


def join(shards: Sequence[Path], folder: Path) -> None:
    """Make one data set of several that `save` or `write_split` wrote, one after the other.

    Their files get second names, so that nothing is copied where the disk has hard links.
    """
    names = json.loads((shards[0] / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
    for name in names:
        (folder / name).mkdir(parents=True)
        files = [f"data-{n:05d}-of-{len(shards):05d}.arrow" for n in range(len(shards))]
        for shard, file in zip(shards, files, strict=True):
            link(shard / name / "data-00000-of-00001.arrow", folder / name / file)
        state = json.loads((shards[0] / name / "state.json").read_text(encoding="utf-8"))
        state |= {"_data_files": [{"filename": file} for file in files]}
        state |= {"_fingerprint": fingerprint(folder / name)}
        (folder / name / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
        shutil.copy(shards[0] / name / "dataset_info.json", folder / name)
    name_splits(folder, names)


def validate(dataset: "Dataset") -> None:
    """Raise Arrow's error where a value is not valid, such as a text that is not UTF-8.

    The files are read batch by batch, so that no more than that gets into memory.
    """
    import pyarrow as pa

    for path in {file["filename"] for file in dataset.cache_files}:
        with pa.OSFile(path) as file:
            for batch in pa.ipc.open_stream(file):
                batch.validate(full=True)


def count_tokens(dataset: "Dataset") -> int:
    """The number of tokens in the column `input_ids`, of which no row is decoded."""
    import pyarrow.compute as pc

    ids = dataset.select_columns("input_ids")
    lengths = (pc.list_value_length(table["input_ids"]) for table in tables(ids, 10_000))
    return sum(pc.sum(length).as_py() or 0 for length in lengths)


def token_counts(dataset: "Dataset", vocabulary: int) -> np.ndarray:
    """How often each token comes in the column `input_ids`, which is read in batches.

    Args:
        dataset: documents or blocks.
        vocabulary: the number of different tokens.
    """
    counts = np.zeros(vocabulary, np.int64)
    for table in tables(dataset.select_columns("input_ids"), 10_000):
        for chunk in table["input_ids"].chunks:
            counts += np.bincount(chunk.flatten().to_numpy(), minlength=vocabulary)
    return counts


def name_splits(folder: Path, names: Iterable[str]) -> None:
    """Record which splits are in `folder`, as `DatasetDict.save_to_disk` does."""
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(names)}), encoding="utf-8")


def _batches(part: "Dataset", bar: Progress) -> Iterator["pa.RecordBatch"]:
    for table in tables(part, 1000):
        yield from table.combine_chunks().to_batches()  # selected rows come one by one
        bar.advance(len(table))


def tables(dataset: "Dataset", size: int) -> Iterator["pa.Table"]:
    """All rows as Arrow tables of so many rows.

    What has been read of a memory-mapped file counts as this process's memory until it is closed,
    so the file is opened anew for each slice of the rows.
    """
    slice_size = max(SLICE, len(dataset) // 16)
    for start in range(0, len(dataset), slice_size):
        rows = pickle.loads(pickle.dumps(dataset)) if dataset.cache_files else dataset
        rows = rows.select(range(start, min(start + slice_size, len(rows))))
        yield from rows.with_format("arrow").iter(size)


def _load_split(folder: Path) -> "Dataset":
    from datasets import Dataset, load_from_disk

    size = sum(path.stat().st_size for path in folder.glob("*.arrow"))
    part = load_from_disk(str(folder), keep_in_memory=size <= IN_MEMORY)
    return Dataset(part.data.table, fingerprint=part._fingerprint)
