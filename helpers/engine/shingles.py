"""Shingles (runs of words) as 64-bit hashes, computed for many documents at once."""

import re
from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np

CHARACTERS = 2_000_000  # in a batch of documents
FACTOR = 0x9E3779B97F4A7C15


def batches_of(documents: Iterable[str]) -> Iterator[list[str]]:
    """The documents in lists of about two million characters."""
    batch, size = [], 0
    for document in documents:
        batch.append(document)
        size += len(document)
        if size >= CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def words_of(documents: Iterable[str], pattern: str) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of all words end to end, and how many words each document has.

    Python salts these hashes: they mean nothing to another process.
    """
    found = [re.findall(pattern, document.lower()) for document in documents]
    lengths = np.array([len(words) for words in found], np.int64)
    hashes = np.fromiter(map(hash, chain.from_iterable(found)), np.int64, lengths.sum())
    return hashes.view(np.uint64), lengths


def shingles_of(
    words: np.ndarray, lengths: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each run of `width` words begins, its document, and its 64-bit hash.

    A document of fewer words is one run. The hash is a polynomial in the hashes of the words.
    """
    powers = [np.uint64(pow(FACTOR, power, 1 << 64)) for power in range(width)]
    value = np.zeros(len(words), np.uint64)
    for offset, power in enumerate(powers[: len(words)]):
        value[: len(words) - offset] += words[offset:] * power
    ends = np.cumsum(lengths)
    short = np.flatnonzero((lengths > 0) & (lengths < width))
    first = (ends - lengths)[short]
    value[first] = 0
    for offset, power in enumerate(powers):
        inside = first[lengths[short] > offset]
        value[inside] += words[inside + offset] * power
    owner = np.repeat(np.arange(len(lengths)), lengths)
    left = ends[owner] - np.arange(len(words))  # words in the document from here on
    starts = np.flatnonzero((left >= width) | (left == lengths[owner]))
    return starts, owner[starts], value[starts]


def first_in_document(owner: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Whether each shingle comes for the first time in its document."""
    first = np.ones(len(owner), bool)
    key = value ^ (owner.astype(np.uint64) * np.uint64(FACTOR))
    ordered = np.sort(key)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    suspects = np.flatnonzero(is_in(key, np.unique(repeated)))  # few, so they can be sorted by both
    suspects = suspects[np.lexsort((value[suspects], owner[suspects]))]
    again = (np.diff(owner[suspects]) == 0) & (np.diff(value[suspects]) == 0)
    first[suspects[1:][again]] = False
    return first


def is_in(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Whether each value is one of the `ordered` ones."""
    if not len(ordered):
        return np.zeros(len(values), bool)
    place = np.searchsorted(ordered, values)
    return ordered[place.clip(max=len(ordered) - 1)] == values
