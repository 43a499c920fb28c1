"""Exercises of notebook 02: bytes per token, a merge, texts that take many tokens."""

from functools import cache

from helpers.hub.sources import EMBEDDED
from helpers.workshop.exercise import Exercise, by_cases, plain, shown

BYTES = by_cases(
    lambda tokens: len("".join(tokens).encode()) / len(tokens),
    [
        (["It", " is", " 100", " °", "C", "."],),
        ([" the", " old", " the", "Ü", "ber"],),
        (["tea", " time"],),
    ],
    [
        (
            lambda tokens: len("".join(tokens)) / len(tokens),
            "Characters were counted. One outside ASCII, such as ° or Ü, has several bytes.",
        ),
        (
            lambda tokens: len(tokens) / len("".join(tokens).encode()),
            "These are tokens per byte: the fraction is upside down.",
        ),
        (
            lambda tokens: len("".join(tokens).replace(" ", "").encode()) / len(tokens),
            "The spaces are not counted. A space belongs to its token, and is a byte.",
        ),
        (
            lambda tokens: len(" ".join(tokens).encode()) / len(tokens),
            "Spaces were put between the tokens. A token that follows a space has it already.",
        ),
        (
            lambda tokens: len("".join(tokens).encode()) // len(tokens),
            "The mean is rounded down: `//` drops what comes after the point.",
        ),
        (
            lambda tokens: len("".join({*tokens}).encode()) / len({*tokens}),
            "A token that comes twice was counted once. The text has it twice.",
        ),
        (
            lambda tokens: len("".join(tokens).split()) / len(tokens),
            "These are words per token. Bytes are what `encode` gives.",
        ),
        (
            lambda tokens: 8 * len("".join(tokens).encode()) / len(tokens),
            "These are bits: a byte has eight.",
        ),
        (
            lambda tokens: len("".join(tokens).encode()),
            "This is the size of the text, for all tokens.",
        ),
        (
            lambda tokens: [len(token.encode()) for token in tokens],
            "These are the bytes of each token. What is their mean?",
        ),
    ],
    "How many bytes has the text that these tokens make up?",
)


def _merge(tokens: list[str], pair: tuple[str, str], left_out: int = 0) -> list[str]:
    merged, i = [], 0
    while i < len(tokens) - left_out:
        found = tuple(tokens[i : i + 2]) == tuple(pair)
        merged.append("".join(pair) if found else tokens[i])
        i += 2 if found else 1
    return merged


def _merge_overlapping(tokens: list[str], pair: tuple[str, str]) -> list[str]:
    """Every place where the pair begins, also inside one that was merged."""
    places = [i for i in range(len(tokens) - 1) if tuple(tokens[i : i + 2]) == tuple(pair)]
    second = {i + 1 for i in places}
    kept = [i for i in range(len(tokens)) if i in places or i not in second]
    return ["".join(pair) if i in places else tokens[i] for i in kept]


def _merge_once(tokens: list[str], pair: tuple[str, str]) -> list[str]:
    for i in range(len(tokens) - 1):
        if tuple(tokens[i : i + 2]) == tuple(pair):
            return [*tokens[:i], "".join(pair), *tokens[i + 2 :]]
    return tokens


def _merge_keeping(tokens: list[str], pair: tuple[str, str]) -> list[str]:
    """The second token of a pair stays where it was."""
    return [
        "".join(pair) if tuple(tokens[i : i + 2]) == tuple(pair) else tokens[i]
        for i in range(len(tokens))
    ]


def _merge_either(tokens: list[str], pair: tuple[str, str]) -> list[str]:
    """The pair in either order."""
    merged, i = [], 0
    while i < len(tokens):
        found = sorted(tokens[i : i + 2]) == sorted(pair)
        merged.append("".join(tokens[i : i + 2]) if found else tokens[i])
        i += 2 if found else 1
    return merged


MERGE = by_cases(
    _merge,
    [
        (["t", "h", "e", "t", "h"], ("t", "h")),
        (["a", "a", "a"], ("a", "a")),
        (["h", "t", "h", "e"], ("t", "h")),
        (["th", "e"], ("t", "h")),
    ],
    [
        (
            _merge_once,
            "Only the first occurrence is merged. Here all at once; `split_word` comes back for "
            "the rest in its next round.",
        ),
        (
            _merge_keeping,
            "The second token of the pair is still there: after a merge, go on two places further.",
        ),
        (
            _merge_overlapping,
            "Two merges share a token. Once two tokens are merged, the next merge begins after "
            "them.",
        ),
        (
            lambda tokens, pair: _merge(tokens, pair, 1),
            "The last token is lost where it is not merged: the loop ends before it.",
        ),
        (_merge_either, "The order matters: the pair (t, h) is not the pair (h, t)."),
        (lambda tokens, pair: tokens, "Nothing was merged."),
    ],
    "Go from left to right, and compare each token and the next one with the pair.",
)

SHORTEST, LONGEST, TIMES = 40, 60, 3


@cache
def _tokenizer():
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(EMBEDDED["model"] / "tokenizer.json"))


def _judge_texts(answer: object) -> str | None:
    """Count the tokens of the two texts with the embedded tokenizer."""
    answer = plain(answer)
    if (
        not isinstance(answer, list)
        or len(answer) != 2
        or not all(isinstance(text, str) for text in answer)
    ):
        return f"{shown(answer)} is not a pair of texts, such as `(few, many)`."
    for text in answer:
        if not SHORTEST <= len(text) <= LONGEST:
            return (
                f"{shown(text)} has {len(text)} characters; between {SHORTEST} and {LONGEST} make "
                "the two comparable."
            )
    few, many = (len(_tokenizer().encode(text).ids) for text in answer)
    if many < few:
        return f"The texts take {few} and {many} tokens: the one with few tokens comes first."
    if many < TIMES * few:
        return (
            f"The texts take {few} and {many} tokens, {many / few:.1f} times as many, and not yet "
            f"{TIMES} times. What has this tokenizer hardly seen in the text that it learned from?"
        )
    return None


EXERCISES = (
    Exercise(
        "2.1",
        "Bytes per token",
        "easy",
        BYTES,
        (
            "A text on the disk consists of bytes. How many does `°` take?",
            '`len("°".encode())` is 2: `encode` gives the bytes in UTF-8, and `len` counts them.',
            '`["tea", " time"]` are 8 bytes in 2 tokens, so 4 per token.',
        ),
    ),
    Exercise(
        "2.2",
        "One merge of BPE",
        "middle",
        MERGE,
        (
            "Do it by hand for `a a a` and the pair (a, a). Which tokens are left?",
            "Keep a place i in a `while` loop: it goes on by one, or by two after a merge.",
            "Compare `tokens[i : i + 2]` with the pair; at the end this slice is shorter.",
        ),
    ),
    Exercise(
        "2.3",
        "Few tokens and many",
        "open",
        _judge_texts,
        (
            "The tokenizer learned its merges from English text. What was frequent in it?",
            "Try other alphabets, digits, emoji: a character takes up to four bytes.",
            "For few tokens, take plain English words that are in every old book.",
        ),
    ),
)
