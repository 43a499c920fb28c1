"""Splits that do not leak: near-duplicates of a document never lie in different parts."""

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from helpers.data import Texts
from helpers.engine.dealing import deal
from helpers.engine.duplicates import near_duplicate_groups
from helpers.engine.shingles import (
    batches_of,
    first_in_document,
    is_in,
    shingles_of,
    words_of,
)
from helpers.errors import ParameterError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

SHINGLE = 8  # words


def split_fairly(
    examples: "Dataset",
    text_column: str,
    test_size: float,
    seed: int,
    stratify_by_column: str | None = None,
    groups: Sequence[int] | None = None,
    validation_size: float = 0.0,
) -> "DatasetDict":
    """Split examples into train, validation and test, with near-duplicates in the same part.

    `Dataset.train_test_split` deals out single examples: copies and quotes end up on both sides,
    and the test measures memory. Here whole groups of near-duplicates are dealt out, in a seeded
    order, first to the test part, then to the validation part, until each has its share.

    Args:
        examples: at least as many that are no near-duplicates of each other as there are parts.
        text_column: see `Texts`.
        test_size: the share of the examples in the test part, between 0 and 1.
        seed: decides which groups are in which part.
        stratify_by_column: each part gets each value of this column in proportion; a group counts
            as its first example.
        groups: a number for each example, in place of `near_duplicates` of their texts.
        validation_size: the share in the validation part, 0 for none; `test` is the same for any.

    Returns:
        `train`, `validation` (unless its share is 0) and `test`, each in the order of `examples`.

    Raises:
        ParameterError: where a part would be empty, or the column to stratify by is missing.

    >>> from datasets import Dataset
    >>> animals = Dataset.from_dict({"text": ["the cat", "The cat!", "a dog", "one cow"]})
    >>> parts = split_fairly(animals, "text", test_size=0.5, seed=0)
    >>> parts["train"]["text"][:], parts["test"]["text"][:]
    (['the cat', 'The cat!'], ['a dog', 'one cow'])
    """
    from datasets import DatasetDict

    if stratify_by_column is not None and stratify_by_column not in examples.column_names:
        needed = f"choose one of {', '.join(examples.column_names)}, or None"
        raise ParameterError("stratify_by_column", stratify_by_column, needed)
    groups = near_duplicates(Texts(examples, text_column)) if groups is None else np.asarray(groups)
    names, first, number, sizes = np.unique(groups, True, True, True)
    values = examples[stratify_by_column][:] if stratify_by_column else [""] * len(examples)
    shares = {"test": test_size} | ({"validation": validation_size} if validation_size else {})
    part_of = deal(sizes, [str(values[i]) for i in first], shares, seed)[number]
    rows = {part: np.flatnonzero(part_of == part) for part in ("train", *reversed(shares))}
    if empty := [part for part in (*shares, "train") if not len(rows[part])]:
        part = empty[0] if empty[0] in shares else list(shares)[-1]
        needed = f"{len(examples):,} examples in {len(names):,} groups of near-duplicates "
        needed += f"leave the {empty[0]} part empty, use more examples or another share"
        raise ParameterError(f"{part}_size", shares[part], needed)
    return DatasetDict({part: examples.select(rows[part]) for part in rows})


def near_duplicates(documents: Collection[str]) -> np.ndarray:
    """Group documents that are near-duplicates of each other.

    Two documents are near-duplicates if at least half of the shorter one's shingles (runs of 8
    words, compared by a 64-bit hash) are in the other; a document of fewer words only matches one
    of the same words. Groups are closed under this. Case and punctuation do not count.

    A passage that many documents have, such as a system prompt or a footer, is no sign of a copy:
    shingles in more than 5 % of the different documents (in more than 10 at least, 1,000 at most)
    are left out, and documents are compared by their other words; how many is printed.

    Args:
        documents: a list, or `Texts`, which are read in batches.

    Returns:
        A group number for each document: (documents,).

    Source: Broder, "On the resemblance and containment of documents" (1997).
    """
    groups, common = near_duplicate_groups(documents, SHINGLE, r"\w+")
    if common:
        print(
            f"{common:,} runs of {SHINGLE} words that many documents have, such as a footer, do "
            "not count as copies."
        )
    return groups


def shared_ngrams(train: Iterable[str], test: Collection[str], n: int = 8) -> np.ndarray:
    """For each text of `test`, the share of its different n-grams of words that occur in `train`.

    Words are what lies between white space, upper and lower case alike. A share much above zero
    means that the model has seen the test. `train` is read in batches.

    Returns:
        Shares from 0 to 1, NaN for a text of fewer than n words: (test texts,).
    """
    words, lengths = words_of(test, r"\S+")
    _, owner, value = shingles_of(words, lengths, n)
    whole = (lengths[owner] >= n) & first_in_document(owner, value)
    owner, (ngrams, number) = owner[whole], np.unique(value[whole], return_inverse=True)
    in_train = np.zeros(len(ngrams), bool)
    for batch in batches_of(train):
        words, lengths = words_of(batch, r"\S+")
        _, text, value = shingles_of(words, lengths, n)
        in_train |= is_in(ngrams, np.unique(value[lengths[text] >= n]))
    shared, total = (np.bincount(owner, w, len(test)) for w in (in_train[number], None))
    return np.divide(shared, total, out=np.full(len(test), np.nan), where=total > 0)
