"""Exercises of notebook 06: temperature, top-p, settings that do what one wants."""

import math
from collections.abc import Mapping
from numbers import Real

from helpers.workshop.exercise import Exercise, by_cases, plain, shown, softmax


def _soften(logits: list[float], temperature: float) -> list[float]:
    if temperature == 0:
        return [float(i == logits.index(max(logits))) for i in range(len(logits))]
    return softmax(logits, temperature)


def _dividing(logits: list[float], temperature: float) -> list[float]:
    return softmax([logit / temperature for logit in logits])


def _not_numbers(logits: list[float], temperature: float) -> list[float]:
    """What arrays give in place of an exception."""
    return _soften(logits, temperature) if temperature else [math.nan] * len(logits)


SOFTEN = by_cases(
    _soften,
    [([2.0, 1.0, 0.0], 0.5), ([0.0, 3.0, 1.0], 2.0), ([0.0, 3.0, 1.0], 0)],
    [
        (
            _dividing,
            "Temperature 0 is no division: it is the limit in which the likeliest token gets all.",
        ),
        (
            _not_numbers,
            "Temperature 0 is no division: it is the limit in which the likeliest token gets all.",
        ),
        (
            lambda logits, t: softmax(logits, t) if t else max(logits),
            "This is the highest logit. At temperature 0, too, each token has a probability.",
        ),
        (
            lambda logits, t: softmax(logits, t) if t else logits.index(max(logits)),
            "This is a place. At temperature 0, too, each token has a probability.",
        ),
        (
            lambda logits, t: softmax([logit * t for logit in logits]),
            "The logits are multiplied: a low temperature should sharpen, and this one flattens.",
        ),
        (
            lambda logits, t: [math.exp(x / t) for x in logits] if t else _soften(logits, t),
            "They do not add up to 1: divide by their sum.",
        ),
        (
            lambda logits, t: [p / t for p in softmax(logits)] if t else _soften(logits, t),
            "The probabilities were divided, after softmax. Divide the logits, before it.",
        ),
        (
            lambda logits, t: softmax(logits) if t else _soften(logits, t),
            "The temperature makes no difference.",
        ),
        (
            lambda logits, t: softmax(logits, t or 1.0),
            "Temperature 0 is the sharpest of all, not the same as 1.",
        ),
        (
            lambda logits, t: softmax(logits, t) if t else [1 / len(logits)] * len(logits),
            "At temperature 0 all tokens are equally likely here. That is what a very high one "
            "does.",
        ),
    ],
    "Divide the logits by the temperature, then softmax; and treat 0 by itself.",
)


def _nucleus(probabilities: list[float], p: float, extra: int = 0) -> list[int]:
    """The places of the likeliest tokens that make up p together."""
    order = sorted(range(len(probabilities)), key=lambda i: -probabilities[i])
    total, kept = 0.0, []
    for i in order:
        if total >= p:
            break
        kept.append(i)
        total += probabilities[i]
    return order[: max(1, len(kept) + extra)]


def _keep(probabilities: list[float], places: list[int]) -> list[float]:
    total = sum(probabilities[i] for i in places)
    return [q / total if i in places else 0.0 for i, q in enumerate(probabilities)]


def _top_p(logits: list[float], temperature: float, p: float) -> list[float]:
    probabilities = softmax(logits, temperature)
    return _keep(probabilities, _nucleus(probabilities, p))


def _top_p_first(logits: list[float], temperature: float, p: float) -> list[float]:
    return _keep(softmax(logits, temperature), _nucleus(softmax(logits), p))


def _without_renewal(logits: list[float], temperature: float, p: float) -> list[float]:
    probabilities = softmax(logits, temperature)
    places = _nucleus(probabilities, p)
    return [q if i in places else 0.0 for i, q in enumerate(probabilities)]


def _without_last(logits: list[float], temperature: float, p: float) -> list[float]:
    probabilities = softmax(logits, temperature)
    return _keep(probabilities, _nucleus(probabilities, p, -1))


TOP_P = by_cases(
    _top_p,
    [([3.0, 2.0, 1.0, 0.0], 2.0, 0.8), ([0.0, 3.0, 1.0, 2.0], 0.5, 0.9), ([1.0, 3.0], 1.0, 0.95)],
    [
        (
            _top_p_first,
            "Top-p was chosen before the temperature. `generate` applies the temperature first, "
            "and cuts what that leaves.",
        ),
        (_without_renewal, "They do not add up to 1: divide what is left by its sum."),
        (
            _without_last,
            "The token that carries the sum over p is missing. What is kept makes up at least p.",
        ),
        (
            lambda logits, t, p: _top_p(logits, 1.0, p),
            "The temperature makes no difference.",
        ),
        (
            lambda logits, t, p: softmax(logits, t),
            "Nothing was cut off.",
        ),
        (
            lambda logits, t, p: sorted(_top_p(logits, t, p), reverse=True),
            "The probabilities are sorted. Each has to stay at the place of its token.",
        ),
    ],
    "Temperature, softmax, then the likeliest tokens until they make up p, then divide again.",
)

LOGITS = [4.0, 3.0, 2.5, 2.0, 1.0, 0.0]
BAND, FEWEST, MOST = (0.40, 0.45), 3, 4


def _judge_knobs(answer: object) -> str | None:
    """Compute the distribution that the settings give for LOGITS."""
    answer = plain(answer)
    if isinstance(answer, Mapping):
        answer = [answer.get(name) for name in ("temperature", "top_k", "top_p")]
    if (
        not isinstance(answer, list)
        or len(answer) != 3
        or not all(isinstance(value, Real) and not isinstance(value, bool) for value in answer)
    ):
        return f"{shown(answer)} are not three numbers: temperature, top_k, top_p."
    temperature, top_k, top_p = answer
    if temperature <= 0:
        return (
            f"The temperature is {temperature:g}: the logits are divided by it, so it is above 0."
        )
    if top_k < 0 or top_k != int(top_k) or not 0 < top_p <= 1:
        return "top_k is a whole number of at least 0 (0: all), and top_p is above 0 and at most 1."
    probabilities = softmax(LOGITS, temperature)
    order = sorted(range(len(LOGITS)), key=lambda i: -probabilities[i])
    probabilities = _keep(probabilities, order[: int(top_k) or len(LOGITS)])
    probabilities = _keep(probabilities, _nucleus(probabilities, top_p))
    count, likeliest = sum(q > 0 for q in probabilities), max(probabilities)
    if count < FEWEST:
        return f"Only {count} of the tokens can be drawn. Cut less off, or flatten more."
    if count > MOST:
        return f"{count} of the tokens can be drawn, also unlikely ones. Cut more off."
    if not BAND[0] <= likeliest <= BAND[1]:
        side = "too sure: flatten more" if likeliest > BAND[1] else "not sure enough: sharpen more"
        return f"The likeliest token has probability {likeliest:.2f}, which is {side}."
    return None


EXERCISES = (
    Exercise(
        "6.1",
        "Temperature, also 0",
        "easy",
        SOFTEN,
        (
            "What happens to the differences of the logits if they are divided by 0.5?",
            "Softmax: `exp` of each, divided by the sum of all.",
            "Logits 3 and 1 count as 300 and 100 at temperature 0.01, and as 30,000 and 10,000 at "
            "0.0001. What does softmax make of such distances?",
        ),
    ),
    Exercise(
        "6.2",
        "Top-p after the temperature",
        "middle",
        TOP_P,
        (
            "Which probabilities are cut: those at temperature 1, or those that are drawn from?",
            "Go through the tokens from the likeliest on, until their sum is at least p.",
            "Set the others to 0, and divide by the sum of what is left.",
        ),
    ),
    Exercise(
        "6.3",
        "Settings that do what you want",
        "open",
        _judge_knobs,
        (
            "Begin with top_k alone: how many tokens may be drawn?",
            "A higher temperature takes probability from the likeliest token.",
            "With top_k = 4 the likeliest token has 0.58 at temperature 1 and 0.35 at 3. Your "
            "`soften` of 6.1 computes such numbers, from the four highest logits.",
        ),
    ),
)
