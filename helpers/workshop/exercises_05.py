"""Exercises of notebook 05: perplexity of documents, two tokenizers, what may be compared."""

import math
from collections.abc import Callable

from helpers.workshop.exercise import Exercise, by_cases


def _perplexity(nats: list[float], tokens: list[int]) -> float:
    return math.exp(sum(nats) / sum(tokens))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _by_losses(losses: list[float], tokens: list[int]) -> float:
    return _perplexity([a * n for a, n in zip(losses, tokens, strict=True)], tokens)


PERPLEXITY = by_cases(
    _by_losses,
    [([3.0, 1.0], [20, 5]), ([3.0, 1.5, 2.0], [4, 20, 1]), ([3.0], [3])],
    [
        (
            lambda losses, tokens: _mean([math.exp(loss) for loss in losses]),
            "This is the mean of the documents' perplexities: a short odd document counts as much "
            "as a long one, and a high value counts most.",
        ),
        (
            lambda losses, tokens: math.exp(_mean(losses)),
            "This is a mean of means. Each token should count the same, not each document.",
        ),
        (
            lambda losses, tokens: math.log(_by_losses(losses, tokens)),
            "This is the loss. Perplexity is one step further.",
        ),
        (
            lambda losses, tokens: 2 ** math.log(_by_losses(losses, tokens)),
            "This is 2 to the power of the loss, which is right for bits. These are nats.",
        ),
        (
            lambda losses, tokens: _by_losses([math.exp(loss) for loss in losses], tokens),
            "exp was taken twice.",
        ),
        (
            lambda losses, tokens: 1 / _by_losses(losses, tokens),
            "A perplexity is never below 1. A loss has its minus sign already.",
        ),
        (
            lambda losses, tokens: math.log(
                _by_losses([math.exp(loss) for loss in losses], tokens)
            ),
            "Perplexities were averaged, by tokens. Average the losses, and take exp at the end.",
        ),
        (
            lambda losses, tokens: math.exp(sum(losses) / sum(tokens)),
            "The losses are per token already. How many nats has a document in all?",
        ),
        (
            lambda losses, tokens: math.exp(
                _mean([a * n for a, n in zip(losses, tokens, strict=True)])
            ),
            "The nats are divided by the number of documents. How many tokens share them?",
        ),
    ],
    "How much should a document of 20 tokens count beside one of 5?",
)

Model = tuple[float, int]  # the loss in nats per token, and the number of tokens


def _bits_per_byte(text: str, model: Model) -> float:
    return math.prod(model) / math.log(2) / len(text.encode())


def _better(
    text: str,
    first: Model,
    second: Model,
    unit: Callable[[str, Model], float] = _bits_per_byte,
    by: Callable[[str, Model], float] | None = None,
) -> tuple[int, float]:
    """Which model is better, 0 or 1, and its number, by default in bits per byte."""
    models = (first, second)
    place = min((0, 1), key=lambda i: (by or unit)(text, models[i]))
    return place, unit(text, models[place])


def _with(**mistake: Callable) -> Callable:
    return lambda text, first, second: _better(text, first, second, **mistake)


BITS = by_cases(
    _better,
    [
        ("Water boils at 100 °C.", (3.0, 9), (2.0, 15)),
        ("Über", (2.5, 4), (3.0, 3)),
        ("tea", (3.0, 2), (1.5, 3)),
    ],
    [
        (
            _with(by=lambda text, model: model[0]),
            "The model was chosen by the loss per token. Who cuts a text into more tokens has "
            "easier ones: compare what the whole text takes.",
        ),
        (
            _with(by=lambda text, model: model[1]),
            "The model with fewer tokens was chosen. That says how the text is cut, not how well "
            "it is predicted.",
        ),
        (
            _with(by=lambda text, model: -_bits_per_byte(text, model)),
            "The model with more bits per byte was chosen. Bits count surprise.",
        ),
        (
            _with(unit=lambda text, model: math.prod(model) / len(text.encode())),
            "These are nats per byte. How many nats does a bit have?",
        ),
        (
            _with(unit=lambda text, model: math.prod(model) * math.log(2) / len(text.encode())),
            "Nats were multiplied by ln 2. A bit is smaller than a nat, so there are more of them.",
        ),
        (
            _with(unit=lambda text, model: math.prod(model) / math.log(2) / len(text)),
            "These are bits per character. One outside ASCII has several bytes.",
        ),
        (
            _with(unit=lambda text, model: model[0] / math.log(2)),
            "These are bits per token. Take all tokens of the text, then its bytes.",
        ),
        (
            _with(unit=lambda text, model: model[0] / math.log(2) / len(text.encode())),
            "The loss is that of one token. How many nats has the whole text?",
        ),
        (
            _with(unit=lambda text, model: math.prod(model) / math.log(2)),
            "These are the bits of the whole text.",
        ),
        (
            lambda text, first, second: (
                _better(text, first, second)[0] + 1,
                _better(text, first, second)[1],
            ),
            "The number is right, the model is not: they are counted from 0.",
        ),
        (
            lambda text, first, second: _better(text, first, second)[0],
            "That is which model, without its bits per byte: return two numbers.",
        ),
        (
            lambda text, first, second: _better(text, first, second)[1],
            "That is a number of bits, without which model has it: return two numbers.",
        ),
        (
            lambda text, first, second: (
                _bits_per_byte(text, first),
                _bits_per_byte(text, second),
            ),
            "These are the bits per byte of both. Which of the models is better?",
        ),
    ],
    "From the loss of a token to the nats of the text, then to bits, then per byte.",
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
    "First ask whether the two may be compared at all (if not, `None`), then divide their "
    "perplexities.",
)

EXERCISES = (
    Exercise(
        "5.1",
        "The perplexity of several documents",
        "easy",
        PERPLEXITY,
        (
            "A loss of 3 nats per token, on 20 tokens: how many nats is that in all?",
            "Losses of 2 and 4 on 30 and 10 tokens are 100 nats on 40 tokens, so 2.5 per token.",
            "A loss of 0 is a perplexity of 1, and a loss of 0.69 one of 2.",
        ),
    ),
    Exercise(
        "5.2",
        "Two tokenizers, by bits per byte",
        "middle",
        BITS,
        (
            "How many nats of surprise does the whole text have for each model?",
            "A fair coin has 1 bit, and −log ½ = ln 2 = 0.69 nats: 6.9 nats are 10 bits.",
            "A loss of 2 on 12 tokens is 24 nats, or 34.6 bits; on 20 bytes that is 1.73 each.",
        ),
    ),
    Exercise(
        "5.3",
        "When two results may be compared",
        "open",
        COMPARISON,
        (
            "What would make one of two equally good models look better?",
            "60 nats are 3 per token on 20 tokens, and 2 on 30. Is a model better whose tokenizer "
            "cuts the same text into 30?",
            "Losses of 2.6 and 2.2 nats per token: the second perplexity is 0.67 times the first.",
        ),
    ),
)
