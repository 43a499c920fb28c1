"""Groups of near-duplicates among any number of documents, exactly, in memory that hardly grows.

The words lie in a temporary file as hashes. Most shingles occur in one document alone, and say
nothing: bits that are set as the file is read sort nearly all of them out, and only those that come
twice are held in memory. Documents are then compared only with those that share a rare shingle.

`group` leads from each document to an earlier one of its group, and from the first to itself.
"""

import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing

import numpy as np

from helpers.engine.progress import Progress
from helpers.engine.shingles import (
    batches_of,
    first_in_document,
    is_in,
    shingles_of,
    words_of,
)

WORDS = 500_000  # in a batch that is read back
PENDING = 2_000_000  # shingles that are collected before they are counted


class Words:
    """The words of all documents as hashes, in a temporary file that is gone with this object."""

    def __init__(self):
        self._file = tempfile.TemporaryFile()  # noqa: SIM115, open as long as this object
        self.lengths = np.zeros(0, np.int64)

    def write(self, batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> "Words":
        """Append words and the lengths of their documents, batch by batch."""
        lengths = [self.lengths]
        for words, count in batches:
            self._file.write(words.tobytes())
            lengths.append(count)
        self.lengths = np.concatenate(lengths)
        return self

    def batches(self, what: str) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """The number of the first document, the words and the lengths of each batch."""
        self._file.seek(0)
        ends = np.cumsum(self.lengths)
        first = 0
        with closing(Progress(len(self.lengths), what)) as bar:
            while first < len(ends):
                before = ends[first - 1] if first else 0
                last = max(first + 1, int(np.searchsorted(ends, before + WORDS, "right")))
                content = self._file.read(8 * int(ends[last - 1] - before))
                yield first, np.frombuffer(content, np.uint64), self.lengths[first:last]
                bar.advance(last - first)
                first = last

    def without(self, common: np.ndarray, width: int) -> "Words":
        """The documents without the words of the shingles `common`, which are in order."""

        def cut() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for _, words, lengths in self.batches("documents cleaned"):
                starts, _, value = shingles_of(words, lengths, width)
                found, kept = starts[is_in(value, common)], np.ones(len(words), bool)
                for offset in range(width):
                    kept[found + offset] = False
                owner = np.repeat(np.arange(len(lengths)), lengths)[kept]
                yield words[kept], np.bincount(owner, minlength=len(lengths))

        return Words().write(cut())


class Twice:
    """Which of `count` shingles have been added twice; of the others, one in ten looks so too."""

    def __init__(self, count: int):
        size = max(16, int(8 * count).bit_length())
        self._shift = np.uint64(64 - size)
        self._once, self._twice = (np.zeros(1 << (size - 6), np.uint64) for _ in range(2))

    def add(self, values: np.ndarray) -> None:
        """Add shingles; those that come twice here count as well."""
        slots = np.sort(values >> self._shift)
        again = slots[1:] == slots[:-1]
        self._set(self._twice, slots[1:][again])
        self._set(self._twice, slots[self._test(self._once, slots)])
        self._set(self._once, slots)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return self._test(self._twice, values >> self._shift)

    @staticmethod
    def _test(bits: np.ndarray, slots: np.ndarray) -> np.ndarray:
        return (bits[slots >> np.uint64(6)] >> (slots & np.uint64(63)) & np.uint64(1)).astype(bool)

    @staticmethod
    def _set(bits: np.ndarray, slots: np.ndarray) -> None:
        place = slots >> np.uint64(6)  # in order
        starts = np.flatnonzero(np.diff(place, prepend=place[:1] + np.uint64(1)))
        mask = np.uint64(1) << (slots & np.uint64(63))
        if len(slots):
            bits[place[starts]] |= np.bitwise_or.reduceat(mask, starts)


def near_duplicate_groups(
    documents: Collection[str], width: int, pattern: str
) -> tuple[np.ndarray, int]:
    """The group of each document, and how many shingles were left out as common.

    See `helpers.splitting.near_duplicates`; `pattern` finds the words, `width` of them are a
    shingle.
    """
    words, group = _read(documents, pattern)
    left_out = 0
    while True:
        sizes, twice = _sets(words, width, group)
        different = np.count_nonzero((group == np.arange(len(group))) & (sizes > 0))
        limit = min(max(10, different / 20), 1000)
        document, value, common = _shared(words, width, group, twice, limit)
        if not len(common):
            break
        left_out += len(common)
        words = words.without(common, width)
    del twice
    shingle = np.unique(value, return_inverse=True)[1]
    join_similar(document, shingle, sizes, group)
    return first_of_group(group, np.arange(len(group))), left_out


def _read(documents: Collection[str], pattern: str) -> tuple[Words, np.ndarray]:
    """The words of all documents, and groups of those that have the same."""
    keys: list[int] = []

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        with closing(Progress(len(documents), "documents read")) as bar:
            for batch in batches_of(documents):
                words, lengths = words_of(batch, pattern)
                ends = np.cumsum(lengths)
                for start, end in zip((ends - lengths).tolist(), ends.tolist(), strict=True):
                    keys.append(hash(words[start:end].tobytes()))
                yield words, lengths
                bar.advance(len(batch))

    words = Words().write(batches())
    group = np.arange(len(words.lengths))
    _join_equal(np.flatnonzero(words.lengths), np.array(keys, np.int64), group)
    return words, group


def _join_equal(documents: np.ndarray, keys: np.ndarray, group: np.ndarray) -> None:
    """Put each of `documents` into the group of the first that has the same key."""
    _, first, number = np.unique(keys[documents], return_index=True, return_inverse=True)
    group[documents] = documents[first][number]


def _shingles(
    words: Words, width: int, group: np.ndarray, what: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Documents and their different shingles, of those documents that are the first of a group."""
    for start, batch, lengths in words.batches(what):
        _, owner, value = shingles_of(batch, lengths, width)
        owner += start
        original = group[owner] == owner
        owner, value = owner[original], value[original]
        first = first_in_document(owner, value)
        yield owner[first], value[first]


def _sets(words: Words, width: int, group: np.ndarray) -> tuple[np.ndarray, Twice]:
    """How many shingles each document has, and which come twice; the same sets are joined."""
    sizes, signature = np.zeros(len(group), np.int64), np.zeros(len(group), np.uint64)
    twice = Twice(int(words.lengths.sum()))
    for document, value in _shingles(words, width, group, "documents counted"):
        first, last = document[:1].sum(), document[-1:].sum() + 1
        sizes[first:last] += np.bincount(document - first, minlength=last - first)
        np.add.at(signature, document, value)
        twice.add(value)
    _join_equal(np.flatnonzero(sizes), signature, group)
    return sizes, twice


def _shared(
    words: Words, width: int, group: np.ndarray, twice: Twice, limit: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Documents and the shingles that they share, and in order those of more than `limit`."""
    document, value = np.zeros(0, np.int64), np.zeros(0, np.uint64)
    common, pending, count = value, [], 0
    for owner, found in _shingles(words, width, group, "documents compared"):
        kept = twice(found) & ~is_in(found, common)
        pending.append((owner[kept], found[kept]))
        count += np.count_nonzero(kept)
        if count > max(PENDING, len(value)):
            document, value, common = _merged(document, value, common, pending, limit)
            pending, count = [], 0
    document, value, common = _merged(document, value, common, pending, limit)
    ordered = np.sort(value)
    several = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    kept = is_in(value, several)
    return document[kept], value[kept], common


def _merged(
    document: np.ndarray, value: np.ndarray, common: np.ndarray, pending: list, limit: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What was collected with what is pending, without the shingles that turn out to be common."""
    document = np.concatenate([document, *(owner for owner, _ in pending)])
    value = np.concatenate([value, *(found for _, found in pending)])
    ordered = np.sort(value)
    far = int(limit)  # if a shingle is here and so many places on, it has come more than that
    common = np.union1d(
        common, ordered[far:][ordered[far:] == ordered[: max(0, len(ordered) - far)]]
    )
    kept = ~is_in(value, common)
    return document[kept], value[kept], common


def first_of_group(group: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """The first document of the group of each."""
    while (group[documents] != documents).any():
        documents = group[documents]
    return documents


def join_similar(
    document: np.ndarray, shingle: np.ndarray, sizes: np.ndarray, group: np.ndarray
) -> None:
    """Join the groups of two documents if at least half of the shingles of the smaller are shared.

    `sizes` counts all shingles of a document, also those that no other has, which are not in
    `document` and `shingle`. One of the shared ones is among any half plus one of a document's
    shingles, so it is only compared with those that have one of its rarest (prefix filtering,
    Chaudhuri et al. 2006).
    """
    frequency = np.bincount(shingle)
    by_shingle, ends = document[np.argsort(shingle, kind="stable")], np.cumsum(frequency)

    def documents_with(shingles: np.ndarray) -> np.ndarray:
        return np.concatenate([by_shingle[ends[s] - frequency[s] : ends[s]] for s in shingles])

    shingle = shingle[np.lexsort((frequency[shingle], document))]  # the rarest of each first
    held = np.bincount(document, minlength=len(group))
    starts = np.cumsum(held) - held
    rarest = sizes // 2 + 1 - (sizes - held)
    rarest[(group != np.arange(len(group))) | (held == 0)] = 0  # may have become a copy since
    for i in np.flatnonzero(rarest > 0):
        own = shingle[starts[i] : starts[i] + held[i]]
        near = np.unique(documents_with(own[: rarest[i]]))
        near = near[
            (sizes[near] >= sizes[i])
            & (first_of_group(group, near) != first_of_group(group, np.array([i])))
        ]
        if len(near):
            holders = documents_with(own)
            place = np.searchsorted(near, holders).clip(max=len(near) - 1)
            shared = np.bincount(place[near[place] == holders], minlength=len(near))
            joined = first_of_group(group, np.append(near[2 * shared >= sizes[i]], i))
            group[joined] = joined.min()
