"""Exercises of notebook 05: perplexity of documents, bits per byte, what may be compared."""

import math

from helpers.workshop.exercise import Exercise, by_cases


def _perplexity(nats: list[float], tokens: list[int]) -> float:
    return math.exp(sum(nats) / sum(tokens))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


PERPLEXITY = by_cases(
    _perplexity,
    [([60.0, 5.0], [20, 5]), ([12.0, 30.0, 2.0], [4, 20, 1]), ([9.0], [3])],
    [
        (
            lambda nats, tokens: _mean(
                [math.exp(n / t) for n, t in zip(nats, tokens, strict=True)]
            ),
            "This is the mean of the documents' perplexities: a short odd document counts as much "
            "as a long one, and a high value counts most.",
        ),
        (
            lambda nats, tokens: math.exp(
                _mean([n / t for n, t in zip(nats, tokens, strict=True)])
            ),
            "This is a mean of means. Each token should count the same, not each document.",
        ),
        (
            lambda nats, tokens: sum(nats) / sum(tokens),
            "This is the loss. Perplexity is one step further.",
        ),
        (
            lambda nats, tokens: 2 ** (sum(nats) / sum(tokens)),
            "This is 2 to the power of the loss, which is right for bits. These are nats.",
        ),
        (
            lambda nats, tokens: math.exp(_mean(nats)),
            "The nats are divided by the number of documents. Divide by that of the tokens.",
        ),
        (
            lambda nats, tokens: math.exp(sum(tokens) / sum(nats)),
            "The fraction is upside down: it is nats per token.",
        ),
    ],
    "Add up the nats, count the tokens, and divide once.",
)


def _bits_per_byte(nats: float, text: str) -> float:
    return nats / math.log(2) / len(text.encode())


BITS = by_cases(
    _bits_per_byte,
    [(40.0, "Water boils at 100 °C."), (12.5, "Über"), (6.0, "tea")],
    [
        (
            lambda nats, text: nats / len(text.encode()),
            "These are nats per byte. How many nats does a bit have?",
        ),
        (
            lambda nats, text: nats * math.log(2) / len(text.encode()),
            "Nats were multiplied by ln 2. A bit is smaller than a nat, so there are more of them.",
        ),
        (
            lambda nats, text: nats / math.log(2) / len(text),
            "These are bits per letter. Letters outside ASCII have several bytes.",
        ),
        (
            lambda nats, text: nats / math.log(2) / len(text.split()),
            "These are bits per word.",
        ),
        (
            lambda nats, text: nats / math.log(2),
            "These are the bits of the whole text.",
        ),
        (
            lambda nats, text: math.log2(nats) / len(text.encode()),
            "The logarithm was taken of the nats. They are a logarithm already: change its base.",
        ),
    ],
    "Two things change: the unit, from nats to bits, and what they are counted by.",
)

RESULT = {"documents": ["a", "b"], "nats": [60.0, 5.0], "tokens": [20, 5], "context": 256}
TUNED = RESULT | {"nats": [50.0, 4.5]}
CASES = [
    (RESULT, TUNED),
    (RESULT, TUNED | {"documents": ["a", "c"]}),
    (RESULT, TUNED | {"context": 128}),
    (RESULT, TUNED | {"tokens": [22, 5]}),
    (TUNED, RESULT),
]


def _total(one: dict) -> float:
    return _perplexity(one["nats"], one["tokens"])


def _agree(a: dict, b: dict, *keys: str) -> bool:
    return all(a[key] == b[key] for key in keys)


def _ratio(a: dict, b: dict) -> float | None:
    return _total(b) / _total(a) if _agree(a, b, "documents", "tokens", "context") else None


def _mean_of(one: dict) -> float:
    pairs = zip(one["nats"], one["tokens"], strict=True)
    return _mean([math.exp(nats / tokens) for nats, tokens in pairs])


def _of_means(a: dict, b: dict) -> float | None:
    return None if _ratio(a, b) is None else _mean_of(b) / _mean_of(a)


COMPARISON = by_cases(
    _ratio,
    CASES,
    [
        (
            lambda a, b: _total(b) / _total(a),
            "These two were scored on different documents. Two test parts differ in how hard "
            "they are, so the ratio says nothing about the models: return None.",
        ),
        (
            lambda a, b: _total(b) / _total(a) if _agree(a, b, "tokens", "context") else None,
            "These two were scored on different documents: as many, but not the same.",
        ),
        (
            lambda a, b: _total(b) / _total(a) if _agree(a, b, "documents", "tokens") else None,
            "Their contexts differ. Who sees more of a text guesses better.",
        ),
        (
            lambda a, b: _total(b) / _total(a) if _agree(a, b, "documents", "context") else None,
            "The same text has more tokens for one than for the other, so a perplexity per token "
            "means something else. What could be compared is bits per byte.",
        ),
        (
            lambda a, b: _total(b) / _total(a) if _agree(a, b, "documents") else None,
            "The documents agree, but the contexts or the tokens do not.",
        ),
        (
            lambda a, b: None if _ratio(a, b) is None else 1 / _ratio(a, b),
            "The ratio is upside down: below 1 should mean that the second model is better.",
        ),
        (
            lambda a, b: None if _ratio(a, b) is None else _total(b) - _total(a),
            "This is the difference. The ratio of two perplexities is asked for.",
        ),
        (
            _of_means,
            "This is the ratio of the documents' mean perplexities. Count all tokens together.",
        ),
    ],
    "First ask whether the two may be compared at all, then divide their perplexities.",
)

EXERCISES = (
    Exercise(
        "5.1",
        "The perplexity of several documents",
        "easy",
        PERPLEXITY,
        (
            "How many nats are there in all, and how many tokens?",
            "Their ratio is the loss per token, in which each token counts once.",
            "`math.exp` of the loss is the perplexity.",
        ),
    ),
    Exercise(
        "5.2",
        "Bits per byte",
        "middle",
        BITS,
        (
            "A fair coin has 1 bit, and −log ½ = ln 2 = 0.69 nats.",
            "Divide the nats by `math.log(2)`.",
            "`len(text.encode())` counts bytes.",
        ),
    ),
    Exercise(
        "5.3",
        "When two results may be compared",
        "open",
        COMPARISON,
        (
            "What would make one of two equally good models look better?",
            "Compare the documents, the numbers of tokens, and the contexts.",
            "Where all three agree, return the second perplexity divided by the first.",
        ),
    ),
)
