"""Exercises of notebook 03: how many blocks, blocks of one document each, packing."""

from collections import Counter
from collections.abc import Callable

from helpers.workshop.exercise import (
    NO_RETURN,
    NOTHING_YET,
    Exercise,
    by_cases,
    outcome,
    shown,
    stops,
)


def _blocks(lengths: list[int], size: int, separators: int | None = None) -> tuple[int, int]:
    total = sum(lengths) + (len(lengths) if separators is None else separators)
    return -(-total // size), (total - 1) % size + 1


COUNT = by_cases(
    _blocks,
    [([5, 9, 2], 8), ([7, 7], 8), ([3], 10), ([20, 1, 1, 1], 6)],
    [
        (
            lambda lengths, size: _blocks(lengths, size, 0),
            "The end-of-text tokens are missing: each document has one after it.",
        ),
        (
            lambda lengths, size: _blocks(lengths, size, len(lengths) - 1),
            "The last document is followed by end-of-text as well, not only those before it.",
        ),
        (
            lambda lengths, size: ((sum(lengths) + len(lengths)) // size, size),
            "The tail is dropped. The last block may be shorter, and its tokens count.",
        ),
        (
            lambda lengths, size: divmod(sum(lengths) + len(lengths), size),
            "Full blocks alone are counted. The last block may be shorter, and is one, too.",
        ),
        (
            lambda lengths, size: _blocks(lengths, size)[0],
            "That is the number of blocks. How many tokens the last one has is asked for, too.",
        ),
        (
            lambda lengths, size: ((sum(lengths) + len(lengths)) // size + 1, size),
            "The last block is not always full, and there is not always one more.",
        ),
        (
            lambda lengths, size: (
                (sum(lengths) + len(lengths)) // size + 1,
                (sum(lengths) + len(lengths)) % size,
            ),
            "A last block of 0 tokens is none. What if the size divides the tokens evenly?",
        ),
        (
            lambda lengths, size: (
                -(-(sum(lengths) + len(lengths)) // size),
                (sum(lengths) + len(lengths)) % size,
            ),
            "A last block of 0 tokens is none. What if the size divides the tokens evenly?",
        ),
        (
            lambda lengths, size: (sum(-(-(n + 1) // size) for n in lengths), 0),
            "Each document gets blocks of its own here. They are laid end to end first.",
        ),
    ],
    "Lay the documents end to end, with end-of-text after each, and cut.",
)


def _cut(ids: list[int], size: int) -> list[list[int]]:
    return [ids[i : i + size] for i in range(0, len(ids), size)]


def _chunk(documents: list[list[int]], size: int, eos: int) -> list[list[int]]:
    return [block for ids in documents for block in _cut([*ids, eos], size)]


def _cut_first(ids: list[int], size: int, eos: int) -> list[list[int]]:
    """End-of-text put to the last block once the document is cut."""
    *blocks, last = _cut(ids, size)
    return [*blocks, [*last, eos]]


CHUNK = by_cases(
    _chunk,
    [
        ([[5, 6, 7, 8, 9], [4, 3], [2]], 4, 0),
        ([[5, 6, 7, 9], [8, 9, 5]], 4, 0),
        ([[7, 7, 7, 7, 7, 7]], 3, 1),
    ],
    [
        (
            lambda d, size, eos: _cut([i for ids in d for i in [*ids, eos]], size),
            "All documents are laid end to end, as `cut` does, so a block holds the end of one and "
            "the start of the next.",
        ),
        (
            lambda d, size, eos: [b for b in _chunk(d, size, eos) if len(b) == size],
            "The shorter blocks are missing. Each document may have one, at its end.",
        ),
        (
            lambda d, size, eos: [b for ids in d for b in _cut(ids, size)],
            "There is no end-of-text after the documents: the model would never learn to stop.",
        ),
        (
            lambda d, size, eos: [b for ids in d for b in _cut([eos, *ids], size)],
            "End-of-text stands before each document. It belongs after it.",
        ),
        (
            lambda d, size, eos: [b for ids in d for b in _cut_first(ids, size, eos)],
            "Some blocks are longer than block_size: a document was cut before end-of-text was "
            "added to it.",
        ),
        (
            lambda d, size, eos: [[*b, eos] for ids in d for b in _cut(ids, size)],
            "End-of-text follows each block here. It follows each document.",
        ),
        (
            lambda d, size, eos: [[*ids, eos][:size] for ids in d],
            "There is one block for each document, and what is beyond it is lost.",
        ),
        (
            lambda d, size, eos: [[*ids, eos] for ids in d],
            "Nothing is cut: a long document takes several blocks.",
        ),
        (
            lambda d, size, eos: [b + [eos] * (size - len(b)) for b in _chunk(d, size, eos)],
            "Short blocks were filled up. Here they stay short.",
        ),
        (
            lambda d, size, eos: [_cut([*ids, eos], size) for ids in d],
            "There is a list for each document. One list holds all blocks.",
        ),
    ],
    "Take one document with its end-of-text. Which blocks does it give, and where does the next "
    "one begin?",
)

ROOM = 16
PACKINGS = [([9, 10, 8, 7, 5, 4, 6, 7], 4), ([3, 3, 3, 11, 11, 11], 3)]


def _judge_packing(answer: object) -> str | None:
    """Look whether each document is in one block, none too full, and the blocks are few."""
    if not callable(answer):
        return f"{shown(answer)} is not a function: give the function itself, without brackets."
    for lengths, fewest in PACKINGS:
        call = f"For documents of {lengths} tokens and blocks of {ROOM}"
        blocks = outcome(answer, (list(lengths), ROOM))
        if blocks is ... or blocks is None:
            return NOTHING_YET if blocks is ... else NO_RETURN
        if problem := stops(blocks):
            return f"{call} the function {problem}"
        if problem := _problem_of_packing(blocks, lengths, fewest):
            return f"{call}: {problem}"
    return None


def _problem_of_packing(blocks: object, lengths: list[int], fewest: int) -> str | None:
    if not isinstance(blocks, list) or not all(isinstance(block, list) for block in blocks):
        return f"{shown(blocks)} is not a list of blocks, each a list of documents."
    counts = Counter(i for block in blocks for i in block)
    if strange := [i for i in counts if i not in range(len(lengths))]:
        return (
            f"a block holds {shown(strange[0])}. A document is named by its place in the list, "
            "from 0 on, not by its length."
        )
    if twice := [i for i, times in counts.items() if times > 1]:
        return f"document {twice[0]} is in two blocks."
    if missing := [i for i in range(len(lengths)) if i not in counts]:
        return f"document {missing[0]} is in no block: its tokens would be dropped."
    for block in blocks:
        if sum(lengths[i] for i in block) > ROOM:
            return f"the block {block} holds more than {ROOM} tokens."
        if sum(lengths[i] + 1 for i in block) > ROOM:
            return (
                f"the block {block} is too full once each document has its end-of-text token "
                "after it."
            )
    if len(blocks) > fewest + 1:
        return (
            f"it takes {len(blocks)} blocks, where {fewest} can be done and {fewest + 1} will do. "
            "Is there an earlier block with room, and which documents are hardest to place?"
        )
    return None


def _remark(answer: Callable) -> str | None:
    """Which of the lists of documents a right answer packs into a block more than needed."""
    for lengths, fewest in PACKINGS:
        if len(outcome(answer, (list(lengths), ROOM))) > fewest:
            return f"{shown(lengths)} takes one block more than the {fewest} that can be done."
    return None


EXERCISES = (
    Exercise(
        "3.1",
        "How many blocks",
        "easy",
        COUNT,
        (
            "How many tokens are there in all, with those that `chunk` adds?",
            "Blocks are full but the last one. Rounding up gives their number.",
            "Try 16 tokens and blocks of 8: how many tokens does the last block have?",
        ),
    ),
    Exercise(
        "3.2",
        "Blocks of one document each",
        "middle",
        CHUNK,
        (
            "In notebook 03, `cut` lays all documents end to end, then cuts. What changes, if each "
            "document is cut by itself?",
            "By hand, in blocks of 2, with 0 as end-of-text: [5, 6, 7] and [8, 9] give four "
            "blocks, the last of them [0].",
            "With its end-of-text, a document of 7 tokens has 8: in blocks of 3, that is 3, 3 "
            "and 2.",
        ),
    ),
    Exercise(
        "3.3",
        "Pack documents without a cut",
        "open",
        _judge_packing,
        (
            "Each document takes one place more than its tokens.",
            "Look through all blocks that have been begun, not only the last one.",
            "Place the longest documents first; short ones fit into what is left.",
        ),
        _remark,
    ),
)
