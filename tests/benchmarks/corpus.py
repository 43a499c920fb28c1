"""Made-up documents like a forum's: lengths as in ELI5, some copies, the same last lines in all."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from helpers.data import load_examples, texts

COPIES = 0.02  # of the documents are an earlier one with some words left out
FOOTER = (
    "This answer was posted in a forum, where everybody may vote, reply and quote; be kind, and "
    "read the rules before you post."
)
RARE = 0.01  # of the words are names or numbers that hardly come twice


def documents(count: int, seed: int = 0) -> Iterator[str]:
    """So many documents of words from the embedded data set, in a random order.

    The number of words is log-normal, with the mean (117) and the spread of single answers in the
    second validation split of ELI5-Category.
    """
    rng = np.random.default_rng(seed)
    pool = " ".join(texts(load_examples("embedded", "train"), "answers.text")).split()
    footer = FOOTER.split()
    earlier: list[list[str]] = []
    for _ in range(count):
        if earlier and rng.random() < COPIES:
            words = earlier[rng.integers(len(earlier))]
            gap = int(rng.integers(len(words)))
            words = words[:gap] + words[gap + 1 + len(words) // 20 :]
        else:
            length = max(4, int(rng.lognormal(4.36, 0.87)) - len(footer))
            words = [pool[i] for i in rng.integers(0, len(pool), length).tolist()]
            for place in np.flatnonzero(rng.random(length) < RARE).tolist():
                words[place] = f"n{rng.integers(10**9)}"
            if len(earlier) < 10_000:
                earlier.append(words)
            else:
                earlier[rng.integers(10_000)] = words
        yield " ".join([*words, *footer])


def write(path: Path, count: int, seed: int = 0) -> int:
    """Write documents as JSON Lines, with the one column `text`; their bytes."""
    size = 0
    with path.open("w", encoding="utf-8") as file:
        for document in documents(count, seed):
            size += len(document.encode())
            file.write(json.dumps({"text": document}, ensure_ascii=False) + "\n")
    return size
