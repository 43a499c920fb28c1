"""Data sets on the Hub, read as a stream and written once, with no copy in a cache."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.engine.arrow import write_split
from helpers.engine.progress import Progress
from helpers.engine.readers import reading_error
from helpers.errors import DataError, ParameterError, first_line

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, IterableDataset

BATCH = 100  # rows, each of which may be a book


def stream(dataset: str, reader: dict[str, object], split: str, folder: Path) -> "Dataset":
    """Write the rows of a split as they come, and load them; those after its end are not read.

    Args:
        dataset: its name, for messages.
        reader: the arguments of `load_dataset`.
        split: the name of a split, or rows of one by their numbers, such as `train[:1000]`.
        folder: where a new folder is made for the rows.

    Raises:
        ParameterError: where there is no such split, or its part cannot be had from a stream.
        DataError: where the stream cannot be read, or not to its end.
    """
    import datasets

    part = re.fullmatch(r"([\w.-]+)\[(\d*):(\d*)\]", split)
    name, first, last = part.groups() if part else (split, "", "")
    count = int(last) - int(first or 0) if last else None
    if "[" in name or (count is not None and count < 1):
        needed = "of a stream, name a split or rows of one by their numbers, such as 'train[:1000]'"
        raise ParameterError("split", split, needed)
    try:
        rows = datasets.load_dataset(**reader, split=name, streaming=True)
        rows = rows.skip(int(first or 0))
        written = _write(rows, count, Path(tempfile.mkdtemp(dir=folder)))
    except Exception as error:  # as in load_examples
        if "Bad split" in str(error):
            needed = f"{dataset!r} has no such split ({first_line(error)})"
            raise ParameterError("split", split, needed) from None
        raise reading_error(dataset, reader, folder, error) from None
    fewer = f"; {count:,} were asked for" if count and len(written) < count else ""
    print(f"{len(written):,} examples were streamed{fewer}.")
    return written


def _write(rows: "IterableDataset", count: int | None, folder: Path) -> "Dataset":
    """Write the first `count` rows, or all; the first batch decides the type of each column.

    `IterableDataset.take` would read on after the last of them (datasets 5.2).
    """
    from datasets import Features, load_from_disk
    from datasets.table import table_cast

    tables = rows.with_format("arrow").iter(min(BATCH, count or BATCH))
    if (head := next(tables, None)) is None:
        raise DataError("it has no rows")
    schema = (rows.features or Features.from_arrow_schema(head.schema)).arrow_schema

    def batches() -> Iterator["pa.RecordBatch"]:
        with closing(Progress(count, "rows streamed")) as bar:
            for table in chain([head], tables):
                table = table.slice(0, count and count - bar.done)
                table.validate(full=True)  # the reader of JSON takes any bytes for UTF-8
                yield from table_cast(table, schema).combine_chunks().to_batches()
                bar.advance(len(table))
                if bar.done == count:
                    break

    write_split(folder, schema, batches())
    return load_from_disk(str(folder))
