"""Documents as sets of shingles (runs of words), and groups of documents that share many of them.

All documents are compared at once, in arrays. `group` leads from each document to an earlier one of
the same group, and from the first of a group to itself.
"""

import re
from itertools import pairwise

import numpy as np


def words_of(documents: list[str], pattern: str) -> tuple[np.ndarray, np.ndarray]:
    """The words of all documents end to end, as numbers from 1, and how many each document has."""
    numbers: dict[str, int] = {}
    arrays = [np.zeros(0, np.uint64)]
    for document in documents:
        words = re.findall(pattern, document.lower())
        arrays.append(np.array([numbers.setdefault(w, len(numbers) + 1) for w in words], np.uint64))
    return np.concatenate(arrays), np.array([len(array) for array in arrays[1:]], np.int64)


def shingles_of(
    words: np.ndarray, lengths: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each run of `width` words begins, its document, and its 64-bit hash.

    A document of fewer words is one run.
    """
    owner = np.repeat(np.arange(len(lengths)), lengths)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words))  # in the document
    value = np.zeros(len(words), np.uint64)
    for offset in range(min(width, len(words))):
        count = len(words) - offset
        mixed = (value[:count] ^ words[offset:]) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
        np.copyto(value[:count], mixed, where=left[:count] > offset)
    starts = np.flatnonzero((left >= width) | (left == lengths[owner]))
    return starts, owner[starts], value[starts]


def unique_pairs(document: np.ndarray, shingle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different pairs of a document and a shingle, in order."""
    base = int(shingle.max(initial=0)) + 1
    # np.unique would build a table of hashes, which is three times as slow
    pairs = np.sort(document * base + shingle)
    return np.divmod(pairs[np.diff(pairs, prepend=-1) > 0], base)


def first_of_group(group: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """The first document of the group of each."""
    while (group[documents] != documents).any():
        documents = group[documents]
    return documents


def join_copies(document: np.ndarray, shingle: np.ndarray, group: np.ndarray) -> None:
    """Put documents with the same set of shingles into the group of the first of them."""
    known: dict[bytes, int] = {}
    starts = np.flatnonzero(np.diff(document, prepend=-1)).tolist()
    for start, end in pairwise([*starts, len(document)]):
        first = known.setdefault(shingle[start:end].tobytes(), document[start])
        group[document[start]] = first


def join_similar(document: np.ndarray, shingle: np.ndarray, group: np.ndarray) -> None:
    """Join the groups of two documents if at least half of the shingles of the smaller are shared.

    One of the shared ones is then among any half plus one of its shingles, so a document is only
    compared with those that have one of its rarest (prefix filtering, Chaudhuri et al. 2006).
    """
    frequency = np.bincount(shingle)
    by_shingle, ends = document[np.argsort(shingle, kind="stable")], np.cumsum(frequency)

    def documents_with(shingles: np.ndarray) -> np.ndarray:
        return np.concatenate([by_shingle[ends[s] - frequency[s] : ends[s]] for s in shingles])

    shingle = shingle[np.lexsort((frequency[shingle], document))]  # the rarest of each first
    sizes = np.bincount(document, minlength=len(group))
    starts = np.cumsum(sizes) - sizes
    rank = np.arange(len(shingle)) - np.repeat(starts, sizes)
    rare = rank <= np.repeat(sizes // 2, sizes)
    for i in np.unique(document[rare & (frequency[shingle] > 1)]):
        own = shingle[starts[i] : starts[i] + sizes[i]]
        near = np.unique(documents_with(own[: sizes[i] // 2 + 1]))
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
