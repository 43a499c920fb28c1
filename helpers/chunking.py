"""Token ids to blocks for training, with an account of every token.

Arrow keeps the ids of all documents end to end in one buffer, and a block is a pair of offsets into it. So no token is looked at
in Python. The text is worked on a window of about two million tokens at a time, whatever batches it comes in, so
that the blocks do not depend on those and memory does not grow with the text.
"""

from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from helpers.account import Account
from helpers.data import name_splits, write_split
from helpers.errors import DataError, ParameterError
from helpers.packing import best_fit_decreasing, dissolve_emptiest
from helpers.parameters import RULES, check_parameters

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

IGNORED = -100  # the label that PyTorch's cross-entropy leaves out
WINDOW = 1 << 21  # tokens; it ends with the document that reaches it


@dataclass(frozen=True)
class _Way:
    """How blocks are to be made, checked."""

    block_size: int
    eos: int | None
    strategy: str
    remainder: str
    overlap: int
    position_ids: bool
    seed: int

    def __post_init__(self) -> None:
        check_parameters("chunk", {name: getattr(self, name) for name in RULES["chunk"]})
        if self.remainder != "keep" and self.strategy != "concat":
            raise ParameterError("remainder", self.remainder, f"{self.strategy!r} leaves none over, use 'keep'")
        if self.overlap and self.strategy != "document":
            raise ParameterError("overlap", self.overlap, "only blocks of the strategy 'document' can overlap, use 0")
        if self.overlap >= self.block_size:
            raise ParameterError("overlap", self.overlap, f"it must be less than a block of {self.block_size:,} tokens")

    @property
    def labelled(self) -> bool:
        """Whether some places must not be scored that only a column of labels can tell."""
        return self.remainder == "pad" or self.overlap > 0


def chunk(
    tokenized: "Dataset | DatasetDict | IterableDataset | IterableDatasetDict",
    block_size: int,
    eos_token_id: int | None,
    strategy: str = "concat",
    *,
    remainder: str = "keep",
    overlap: int = 0,
    position_ids: bool = True,
    seed: int = 0,
    folder: Path | None = None,
) -> tuple["Dataset | DatasetDict | IterableDataset | IterableDatasetDict", "Account | dict[str, Account]"]:
    """Blocks of at most `block_size` tokens from the column `input_ids`, and the account of every token, for each split.

    An end-of-text token is put after every document, unless `eos_token_id` is None. `strategy` is one of

    - `concat`: the documents end to end, cut every `block_size` tokens. What is left at the end of the split (`remainder`) becomes a
      shorter block ("keep"), is filled up with end-of-text that is not scored ("pad"), or is left out ("drop").
    - `pack`: documents longer than a block are cut, and the pieces packed into blocks by best-fit decreasing, two million
      tokens at a time; then a few pieces are cut once more, so that the emptiest blocks can be dissolved. The order of the
      blocks is drawn from `seed`.
    - `document`: a block never holds two documents. A long one is cut, and each further block begins with the last `overlap` tokens of
      the one before it (tokenizers call this the stride), which are not scored a second time.

    A block has `input_ids` and `position_ids`, which start again at 0 with each document: from them transformers builds the mask that
    keeps attention inside a document, as long as there is no `attention_mask` (whatever other columns come in, none goes out) and no
    cache. Without `position_ids`, the documents of a block see each other. Blocks that are padded or overlap also have `labels`.

    The blocks are kept in memory, or written to `folder` as they come, in the form that `load` reads, and memory-mapped. A stream gives a stream of
    the same blocks in the same order, and its account is complete once it has been read to the end.

    Raises ParameterError for a bad parameter, DataError where no block comes out.
    """
    way = _Way(block_size, eos_token_id, strategy, remainder, overlap, position_ids, seed)
    if not isinstance(tokenized, dict):
        return _chunk_split("the data set", tokenized, way, folder)
    done = {
        name: _chunk_split(f"the {name} split", part, way, folder and folder / name) for name, part in tokenized.items()
    }
    if folder is not None:
        name_splits(folder, done)
    return type(tokenized)({n: blocks for n, (blocks, _) in done.items()}), {n: a for n, (_, a) in done.items()}


def _chunk_split(name: str, tokenized: "Dataset | IterableDataset", way: _Way, folder: Path | None) -> tuple:
    """The blocks of one split and their account."""
    import pyarrow as pa
    from datasets import Dataset, IterableDataset
    from datasets.fingerprint import Hasher

    account = Account(way.block_size)
    if isinstance(tokenized, IterableDataset):
        source = tokenized.select_columns("input_ids").with_format("arrow")

        def rows() -> Iterator[dict[str, list[int]]]:
            vars(account).update(vars(Account(way.block_size)))
            arrays = (table["input_ids"] for table in source.iter(1000))
            for batch in _cut(arrays, way, account):
                yield from batch.to_pylist()
            _say(name, account)

        return IterableDataset.from_generator(rows), account
    columns = tokenized.select_columns("input_ids").with_format("arrow")
    arrays = (columns[i : i + 100_000]["input_ids"] for i in range(0, len(columns), 100_000))
    batches = _cut(arrays, way, account)
    if folder is None:
        # left to itself, datasets would hash every token for a fingerprint
        table = pa.Table.from_batches(batches, _schema(way))
        blocks = Dataset(table, fingerprint=Hasher.hash((tokenized._fingerprint, astuple(way))))
    else:
        blocks = write_split(folder, _schema(way), batches)
    _say(name, account)
    return blocks, account


def _say(name: str, account: Account) -> None:
    """DataError where no block came out; what was dropped, where it is more than one token in a hundred."""
    before, dropped = account.tokens_in + account.separators, account.tokens_dropped
    if not account.blocks:
        raise DataError(
            f"No block comes out of {name}: its {account.documents:,} documents have {account.tokens_in:,} tokens, "
            f"and a block of {account.block_size:,} needs more. Use more text or a smaller block_size."
        )
    if dropped > 0.01 * before:
        causes = f"{account.dropped_remainder:,} of a remainder, {account.dropped_single:,} alone in a block"
        print(f"{dropped:,} of {before:,} tokens of {name} are dropped ({dropped / before:.1%}): {causes}.")


def _schema(way: _Way) -> "pa.Schema":
    import pyarrow as pa

    columns = [("input_ids", np.int32)]
    columns += [("position_ids", _place_type(way))] * way.position_ids + [("labels", np.int32)] * way.labelled
    return pa.schema([(name, pa.large_list(pa.from_numpy_dtype(kind))) for name, kind in columns])


def _place_type(way: _Way) -> type:
    """The smallest type that holds every place in a block: half the memory for all but very long ones."""
    return np.int16 if way.block_size <= 1 << 15 else np.int32


def _windows(columns: Iterable["pa.ChunkedArray"], whole: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The ids of the documents of a window end to end and the length of each.

    Where the blocks depend on it, windows are `whole`: the same whatever batches come in. Else one may end with a batch,
    so that it need not be copied together from several.
    """
    held: list[tuple[np.ndarray, np.ndarray]] = []
    missing = WINDOW

    def joined() -> tuple[np.ndarray, np.ndarray]:
        return held[0] if len(held) == 1 else tuple(np.concatenate(part) for part in zip(*held, strict=True))

    for column in columns:
        for array in column.chunks:
            values = array.flatten().to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
            lengths = array.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
            ends = np.cumsum(lengths)
            document = token = 0
            while document < len(lengths):
                until = min(int(np.searchsorted(ends, token + missing)) + 1, len(lengths))
                held.append((values[token : ends[until - 1]], lengths[document:until]))
                missing -= int(ends[until - 1]) - token
                document, token = until, int(ends[until - 1])
                if missing <= 0 or (not whole and document == len(lengths) and missing < 7 * WINDOW // 8):
                    yield joined()
                    held, missing = [], WINDOW
    if held:
        yield joined()


def _cut(columns: Iterable["pa.ChunkedArray"], way: _Way, account: Account) -> Iterator["pa.RecordBatch"]:
    """The blocks as they come, and the account of them."""
    rest = np.zeros(0, np.int32)  # of `concat`: the tokens that are in no block yet,
    rest_ends = np.zeros(0, np.int64)  # and where documents end among them, counted back from their end
    for number, (values, lengths) in enumerate(_windows(columns, whole=way.strategy == "pack")):
        offset = account.tokens_in + account.separators
        account.documents += len(lengths)
        account.tokens_in += len(values)
        if way.eos is not None:
            values, lengths = np.insert(values, np.cumsum(lengths), way.eos), lengths + 1
            account.separators += len(lengths)
        if not len(values):  # empty documents, and nothing between them
            continue
        if way.strategy == "document":
            yield _documents(values, lengths, way, account)
        elif way.strategy == "pack":
            yield _packed(values, lengths, number, way, account)
        else:
            ends = np.cumsum(lengths)
            starts, lasts = offset + ends - lengths, offset + ends - 1
            account.documents_cut += int(((lasts // way.block_size > starts // way.block_size) & (lengths > 0)).sum())
            ends = np.append(rest_ends, ends)
            if len(rest) + len(values) < way.block_size:
                rest, rest_ends = np.append(rest, values), ends - len(values)
                continue
            first = way.block_size - len(rest) if len(rest) else 0
            last = first + (len(values) - first) // way.block_size * way.block_size
            if first:  # the only block of a window that is copied once more, all others lie in it as they are
                yield _concatenated(np.append(rest, values[:first]), ends + len(rest), way, account)
            if last > first:
                yield _concatenated(values[first:last], ends - first, way, account)
            rest, rest_ends = values[last:], ends[ends > last] - len(values)
    if len(rest):
        yield from _remainder(rest, rest_ends + len(rest), way, account)


def _concatenated(ids: np.ndarray, ends: np.ndarray, way: _Way, account: Account) -> "pa.RecordBatch":
    """Tokens cut every `block_size`; documents end at `ends`, where that is inside."""
    borders = np.append(np.arange(way.block_size, len(ids), way.block_size), len(ids))
    segments = _between(np.append(borders, ends[(ends > 0) & (ends < len(ids))]))
    return _batch(ids, _between(borders), segments, way, account)


def _between(borders: np.ndarray) -> np.ndarray:
    """The lengths of what lies between borders, from 0 on, empty ones left out."""
    lengths = np.diff(np.sort(borders), prepend=0)
    return lengths[lengths > 0]


def _remainder(ids: np.ndarray, ends: np.ndarray, way: _Way, account: Account) -> Iterator["pa.RecordBatch"]:
    """What is left at the end of `concat`: a shorter block, a padded one, or none."""
    if way.remainder == "drop":
        account.dropped_remainder += len(ids)
    elif way.remainder == "pad" and len(ids) > 1:
        missing = way.block_size - len(ids)
        segments = _between(np.append(ends[ends > 0], len(ids)))
        padded = np.append(ids, np.full(missing, 0 if way.eos is None else way.eos, np.int32))
        sizes, segments = np.array([way.block_size]), np.append(segments, np.ones(missing, np.int64))
        yield _batch(padded, sizes, segments, way, account, np.arange(way.block_size) >= len(ids), padded=missing)
    else:
        yield _concatenated(ids, ends, way, account)


def _pieces(lengths: np.ndarray, way: _Way) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The document of each piece, where the piece begins, and its size."""
    step = way.block_size - way.overlap
    pieces = np.where(lengths > 0, 1 + np.maximum(0, -(-(lengths - way.block_size) // step)), 0)
    owner = np.repeat(np.arange(len(lengths)), pieces)
    ends = np.cumsum(lengths)
    begins = (ends - lengths)[owner] + step * (np.arange(len(owner)) - (np.cumsum(pieces) - pieces)[owner])
    return owner, begins, np.minimum(way.block_size, ends[owner] - begins)


def _documents(values: np.ndarray, lengths: np.ndarray, way: _Way, account: Account) -> "pa.RecordBatch":
    """A block for each piece of a document."""
    owner, begins, sizes = _pieces(lengths, way)
    account.documents_cut += int((np.bincount(owner) > 1).sum())
    if not way.overlap:
        return _batch(values, sizes, sizes, way, account)
    place = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    again = np.append(False, owner[1:] == owner[:-1])  # not the first piece of its document
    repeated = (place < way.overlap) & np.repeat(again, sizes)
    ids = values[np.repeat(begins, sizes) + place]
    return _batch(ids, sizes, sizes, way, account, repeated, repeated=int(repeated.sum()))


def _packed(values: np.ndarray, lengths: np.ndarray, number: int, way: _Way, account: Account) -> "pa.RecordBatch":
    """Pieces of documents, several to a block, the blocks in a seeded order."""
    import pyarrow as pa

    _, _, sizes = _pieces(lengths, way)
    sizes, bins = dissolve_emptiest(sizes, best_fit_decreasing(sizes, way.block_size), way.block_size)
    borders = np.cumsum(sizes)
    owner = np.searchsorted(np.cumsum(lengths), borders)
    account.documents_cut += int((np.bincount(owner) > 1).sum())
    row = np.random.default_rng([way.seed, number]).permutation(bins.max() + 1)[bins]
    order = np.argsort(row, kind="stable")
    # as binary strings, which Arrow moves at the speed of memory, as it does not with lists
    offsets = pa.py_buffer(values.itemsize * np.append(0, borders))
    pieces = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(sizes), [None, offsets, pa.py_buffer(values)])
    ids = np.frombuffer(pieces.take(pa.array(order)).buffers()[2], np.int32)
    return _batch(ids, np.bincount(row, weights=sizes).astype(np.int64), sizes[order], way, account)


def _batch(
    ids: np.ndarray,
    sizes: np.ndarray,
    segments: np.ndarray,
    way: _Way,
    account: Account,
    masked: np.ndarray | None = None,
    repeated: int = 0,
    padded: int = 0,
) -> "pa.RecordBatch":
    """Blocks of `sizes` tokens. A segment is what belongs to one document in one block; `masked` are places that are not scored."""
    import pyarrow as pa

    single = sizes == 1
    if single.any():
        account.dropped_single += int(single.sum())
        alone = single[np.searchsorted(np.cumsum(sizes), np.cumsum(segments))]
        keep = ~np.repeat(single, sizes)
        ids, sizes, segments = ids[keep], sizes[~single], segments[~alone]
        masked = None if masked is None else masked[keep]
    offsets, starts = np.append(0, np.cumsum(sizes)), np.cumsum(segments) - segments
    first = starts if way.position_ids else offsets[:-1]  # what has nothing before it
    scored = len(ids) - len(first)
    columns = [ids]
    if way.position_ids:
        places = np.arange(len(ids), dtype=np.int32) - np.repeat(starts.astype(np.int32), segments)
        columns.append(places.astype(_place_type(way)))
    if way.labelled:
        masked = np.zeros(len(ids), bool) if masked is None else masked
        masked[first] = True
        scored = len(ids) - int(masked.sum())
        columns.append(np.where(masked, np.int32(IGNORED), ids))
    account.tokens_kept += len(ids) - padded - repeated
    account.tokens_repeated += repeated
    account.tokens_scored += scored
    account.blocks += len(sizes)
    account.full_blocks += int((sizes == way.block_size).sum()) - (padded > 0)
    lists = [pa.LargeListArray.from_arrays(offsets, column) for column in columns]
    return pa.RecordBatch.from_arrays(lists, schema=_schema(way))
