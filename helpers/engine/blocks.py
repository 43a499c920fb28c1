"""Cuts and packs documents, end-of-text between, on Arrow's buffers."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from helpers.errors import ParameterError

if TYPE_CHECKING:
    import pyarrow as pa

STRATEGIES, REMAINDERS = ("concat", "pack", "document"), ("keep", "pad", "drop")
IGNORED = -100  # the label that PyTorch's cross-entropy leaves out
WINDOW = 1 << 21  # tokens; a window ends with the document that reaches it


@dataclass(frozen=True)
class Settings:
    """The arguments of `chunk`, checked."""

    block_size: int
    eos_token_id: int | None
    strategy: str
    remainder: str
    overlap: int
    position_ids: bool
    seed: int

    def __post_init__(self) -> None:
        for name, low in (("block_size", 2), ("overlap", 0), ("seed", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < low:
                raise ParameterError(name, value, f"it must be a whole number of at least {low}")
        for name, choices in (("strategy", STRATEGIES), ("remainder", REMAINDERS)):
            if getattr(self, name) not in choices:
                needed = "it must be one of " + ", ".join(map(repr, choices))
                raise ParameterError(name, getattr(self, name), needed)
        if self.remainder != "keep" and self.strategy != "concat":
            needed = f"{self.strategy!r} has no remainder, use 'keep'"
            raise ParameterError("remainder", self.remainder, needed)
        if self.overlap and self.strategy != "document":
            needed = "only blocks of the strategy 'document' can overlap, use 0"
            raise ParameterError("overlap", self.overlap, needed)
        if self.overlap >= self.block_size:
            needed = f"it must be less than a block of {self.block_size:,} tokens"
            raise ParameterError("overlap", self.overlap, needed)

    @property
    def has_labels(self) -> bool:
        """Whether blocks need a column of labels, for places that are not scored."""
        return self.remainder == "pad" or self.overlap > 0

    @property
    def position_type(self) -> type:
        """16 bits if they suffice, for half the memory."""
        return np.int16 if self.block_size <= 1 << 15 else np.int32

    @property
    def schema(self) -> "pa.Schema":
        """The columns of the blocks."""
        import pyarrow as pa

        columns = [("input_ids", np.int32)]
        columns += [("position_ids", self.position_type)] * self.position_ids
        columns += [("labels", np.int32)] * self.has_labels
        lists = [(name, pa.large_list(pa.from_numpy_dtype(kind))) for name, kind in columns]
        return pa.schema(lists)


class Chunker:
    """Makes the blocks of one split, see `helpers.chunking.chunk`, and counts their tokens.

    `assign_bins` gives the block of each piece for the strategy `pack`. `counts` are the fields of
    `helpers.chunking.Account`.
    """

    def __init__(self, settings: Settings, assign_bins: Callable[[np.ndarray, int], np.ndarray]):
        self.settings, self.assign_bins, self.counts = settings, assign_bins, Counter()
        self._rest = np.zeros(0, np.int32)  # of `concat`: tokens that are in no block yet, and
        self._rest_ends = np.zeros(0, np.int64)  # where documents end there, counted from its end

    def batches(self, columns: Iterable["pa.ChunkedArray"]) -> Iterator["pa.RecordBatch"]:
        """The blocks, one record batch for each window of the text."""
        strategy, eos = self.settings.strategy, self.settings.eos_token_id
        for number, (ids, lengths) in enumerate(windows(columns, whole=strategy == "pack")):
            offset = self.counts["tokens_in"] + self.counts["separators"]
            self.counts["documents"] += len(lengths)
            self.counts["tokens_in"] += len(ids)
            if eos is not None:
                ids, lengths = np.insert(ids, np.cumsum(lengths), eos), lengths + 1
                self.counts["separators"] += len(lengths)
            if not len(ids):  # empty documents, and nothing between them
                continue
            if strategy == "document":
                yield self._documents(ids, lengths)
            elif strategy == "pack":
                yield self._packed(ids, lengths, number)
            else:
                yield from self._concatenated(ids, lengths, offset)
        if len(self._rest):
            yield from self._remainder()

    def _concatenated(
        self, ids: np.ndarray, lengths: np.ndarray, offset: int
    ) -> Iterator["pa.RecordBatch"]:
        """Documents end to end, the first of them `offset` tokens into the split."""
        size, ends, rest = self.settings.block_size, np.cumsum(lengths), self._rest
        first_block, last_block = (offset + ends - lengths) // size, (offset + ends - 1) // size
        self.counts["documents_cut"] += int(((last_block > first_block) & (lengths > 0)).sum())
        ends = np.append(self._rest_ends, ends)
        if len(rest) + len(ids) < size:
            self._rest, self._rest_ends = np.append(rest, ids), ends - len(ids)
            return
        first = size - len(rest) if len(rest) else 0
        last = first + (len(ids) - first) // size * size
        if first:  # the only block of a window that is copied; all others lie in it as they are
            yield self._cut(np.append(rest, ids[:first]), ends + len(rest))
        if last > first:
            yield self._cut(ids[first:last], ends - first)
        self._rest, self._rest_ends = ids[last:], ends[ends > last] - len(ids)

    def _cut(self, ids: np.ndarray, ends: np.ndarray) -> "pa.RecordBatch":
        """Tokens cut every `block_size`; documents end at those `ends` that lie inside."""
        size = self.settings.block_size
        borders = np.append(np.arange(size, len(ids), size), len(ids))
        inside = ends[(ends > 0) & (ends < len(ids))]
        return self._batch(
            ids, lengths_between(borders), lengths_between(np.append(borders, inside))
        )

    def _remainder(self) -> Iterator["pa.RecordBatch"]:
        """The last tokens of `concat`: a shorter block, a padded one, or none."""
        settings, ids = self.settings, self._rest
        ends = self._rest_ends + len(ids)
        if settings.remainder == "drop":
            self.counts["dropped_remainder"] += len(ids)
        elif settings.remainder == "pad" and len(ids) > 1:
            missing = settings.block_size - len(ids)
            filler = 0 if settings.eos_token_id is None else settings.eos_token_id
            segments = lengths_between(np.append(ends[ends > 0], len(ids)))
            yield self._batch(
                np.append(ids, np.full(missing, filler, np.int32)),
                np.array([settings.block_size]),
                np.append(segments, np.ones(missing, np.int64)),
                masked=np.arange(settings.block_size) >= len(ids),
                padded=missing,
            )
        else:
            yield self._cut(ids, ends)

    def _pieces(self, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The document of each piece, where the piece begins, and its size."""
        size, step = self.settings.block_size, self.settings.block_size - self.settings.overlap
        pieces = np.where(lengths > 0, 1 + np.maximum(0, -(-(lengths - size) // step)), 0)
        owner = np.repeat(np.arange(len(lengths)), pieces)
        number = np.arange(len(owner)) - (np.cumsum(pieces) - pieces)[owner]  # in its document
        ends = np.cumsum(lengths)
        begins = (ends - lengths)[owner] + step * number
        self.counts["documents_cut"] += int((pieces > 1).sum())
        return owner, begins, np.minimum(size, ends[owner] - begins)

    def _documents(self, ids: np.ndarray, lengths: np.ndarray) -> "pa.RecordBatch":
        """A block for each piece of a document."""
        owner, begins, sizes = self._pieces(lengths)
        if not self.settings.overlap:
            return self._batch(ids, sizes, sizes)
        place = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        continued = np.append(False, owner[1:] == owner[:-1])  # not the first of its document
        repeated = (place < self.settings.overlap) & np.repeat(continued, sizes)
        overlapping = ids[np.repeat(begins, sizes) + place]
        return self._batch(overlapping, sizes, sizes, masked=repeated, repeated=int(repeated.sum()))

    def _packed(self, ids: np.ndarray, lengths: np.ndarray, window: int) -> "pa.RecordBatch":
        """Pieces of documents, several to a block, the blocks in a seeded order."""
        _, _, sizes = self._pieces(lengths)
        bins = self.assign_bins(sizes, self.settings.block_size)
        generator = np.random.default_rng([self.settings.seed, window])
        row = generator.permutation(bins.max() + 1)[bins]
        order = np.argsort(row, kind="stable")
        filled = np.bincount(row, weights=sizes).astype(np.int64)
        return self._batch(take_segments(ids, sizes, order), filled, sizes[order])

    def _batch(
        self,
        ids: np.ndarray,
        sizes: np.ndarray,
        segments: np.ndarray,
        masked: np.ndarray | None = None,
        repeated: int = 0,
        padded: int = 0,
    ) -> "pa.RecordBatch":
        """Blocks of `sizes` tokens, made of `segments`, the parts of one document in one block.

        The places in `masked` are not scored: `repeated` of them are in an earlier block already,
        `padded` of them hold no token of the text.
        """
        import pyarrow as pa

        settings, counts = self.settings, self.counts
        single = sizes == 1
        if single.any():
            counts["dropped_single"] += int(single.sum())
            alone = single[np.searchsorted(np.cumsum(sizes), np.cumsum(segments))]
            keep = ~np.repeat(single, sizes)
            ids, sizes, segments = ids[keep], sizes[~single], segments[~alone]
            masked = None if masked is None else masked[keep]
        offsets, starts = np.append(0, np.cumsum(sizes)), np.cumsum(segments) - segments
        first = starts if settings.position_ids else offsets[:-1]  # tokens with nothing before them
        columns, scored = [ids], len(ids) - len(first)
        if settings.position_ids:
            places = np.arange(len(ids), dtype=np.int32) - np.repeat(
                starts.astype(np.int32), segments
            )
            columns.append(places.astype(settings.position_type))
        if settings.has_labels:
            masked = np.zeros(len(ids), bool) if masked is None else masked
            masked[first] = True
            scored = len(ids) - int(masked.sum())
            columns.append(np.where(masked, np.int32(IGNORED), ids))
        counts["tokens_kept"] += len(ids) - padded - repeated
        counts["tokens_repeated"] += repeated
        counts["tokens_scored"] += scored
        counts["blocks"] += len(sizes)
        counts["full_blocks"] += int((sizes == settings.block_size).sum()) - (padded > 0)
        lists = [pa.LargeListArray.from_arrays(offsets, column) for column in columns]
        return pa.RecordBatch.from_arrays(lists, schema=settings.schema)


def lengths_between(borders: np.ndarray) -> np.ndarray:
    """The lengths between borders, starting at 0, without empty ones."""
    lengths = np.diff(np.sort(borders), prepend=0)
    return lengths[lengths > 0]


def windows(
    columns: Iterable["pa.ChunkedArray"], whole: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The ids of the documents of a window end to end, and the length of each document.

    With `whole`, windows do not depend on the batches in which the text arrives. Otherwise a window
    may end with a batch, so that it need not be copied together from several.
    """
    pending: list[tuple[np.ndarray, np.ndarray]] = []
    missing = WINDOW

    def joined() -> tuple[np.ndarray, np.ndarray]:
        if len(pending) == 1:
            return pending[0]
        return tuple(np.concatenate(part) for part in zip(*pending, strict=True))

    for array in (array for column in columns for array in column.chunks):
        ids = array.flatten().to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
        lengths = array.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
        ends = np.cumsum(lengths)
        document = token = 0
        while document < len(lengths):
            until = min(int(np.searchsorted(ends, token + missing)) + 1, len(lengths))
            pending.append((ids[token : ends[until - 1]], lengths[document:until]))
            missing -= int(ends[until - 1]) - token
            document, token = until, int(ends[until - 1])
            full_enough = not whole and document == len(lengths) and missing < 7 * WINDOW // 8
            if missing <= 0 or full_enough:
                yield joined()
                pending, missing = [], WINDOW
    if pending:
        yield joined()


def take_segments(values: np.ndarray, sizes: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Reorder the segments of an int32 array, which have the given sizes, into the given order.

    The segments travel as binary strings, which Arrow moves at the speed of memory.
    """
    import pyarrow as pa

    offsets = pa.py_buffer(values.itemsize * np.append(0, np.cumsum(sizes)))
    buffers = [None, offsets, pa.py_buffer(values)]
    segments = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(sizes), buffers)
    return np.frombuffer(segments.take(pa.array(order)).buffers()[2], np.int32)
