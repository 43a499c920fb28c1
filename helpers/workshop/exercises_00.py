"""Exercises of notebook 00: pairs of tokens, the loss of a sentence, a sampler."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain, pairwise

from helpers.workshop.exercise import (
    NO_RETURN,
    NOTHING_YET,
    Exercise,
    by_cases,
    outcome,
    shown,
    softmax,
    stops,
)

DRAWS = 1500  # so many that two shares of a draw differ by less than CLOSE, by chance
CLOSE = 0.06


def _pairs(ids: list[int]) -> list[tuple[int, int]]:
    return list(pairwise(ids))


def _loss(probabilities: list[float]) -> float:
    return sum(-math.log(p) for p in probabilities) / len(probabilities)


PAIRS = by_cases(
    _pairs,
    [([5, 9, 2, 7],), ([4, 4, 8],), ([3, 1],)],
    [
        (
            lambda ids: [(i, i) for i in ids],
            "Each token is paired with itself. What comes after it is what has to be predicted.",
        ),
        (
            lambda ids: [(b, a) for a, b in _pairs(ids)],
            "The pairs are turned round: they predict the token before from the one after it.",
        ),
        (
            lambda ids: [(ids[:i], ids[i]) for i in range(1, len(ids))],
            "You wrote down all the tokens so far. The model sees them, but here only the last of "
            "them is asked for.",
        ),
        (
            lambda ids: [*_pairs(ids), (ids[-1], ids[0])],
            "The last token is paired with the first one, as `roll` does. Nothing follows it here.",
        ),
        (
            lambda ids: [*_pairs(ids), (ids[-1], None)],
            "The last token has no token after it, so it is in no pair as the one that is seen.",
        ),
        (
            lambda ids: _pairs(ids)[0],
            "Only the first pair comes back: does `return` stand inside the loop?",
        ),
        (
            lambda ids: list(zip(ids, ids[2:], strict=False)),
            "The shift is by two places: every pair leaves a token out.",
        ),
        (
            lambda ids: _pairs(ids)[:-1],
            "A pair is missing at the end. How many pairs do four tokens have?",
        ),
    ],
    "In notebook 00, under “The task: what comes next?”, each line has a token on the right. Which "
    "token is the last one on its left?",
)

LOSS = by_cases(
    _loss,
    [([0.5, 0.25, 0.1, 0.8],), ([0.9],), ([0.05, 0.6],)],
    [
        (
            lambda p: _loss(p) / math.log(2),
            "These are bits, with the logarithm to base 2. The loss is counted in nats.",
        ),
        (
            lambda p: _loss(p) / math.log(10),
            "This is the logarithm to base 10. The loss takes the natural one.",
        ),
        (
            lambda p: _loss(p) * len(p),
            "This is the sum. A loss is the mean per token, whatever the length.",
        ),
        (
            lambda p: -math.log(sum(p) / len(p)),
            "The probabilities were averaged first. Take each token's surprise, then the mean.",
        ),
        (lambda p: -_loss(p), "The sign is missing: a surprise is never below 0."),
        (
            lambda p: math.exp(_loss(p)),
            "This is the perplexity, exp of the loss. The loss itself is one step earlier.",
        ),
        (
            lambda p: 1 - sum(p) / len(p),
            "This is 1 − p. A surprise is −log p, which grows without bound as p goes to 0.",
        ),
    ],
    "Look at the surprise of each token in notebook 00, and at how they become one number.",
)

SETTINGS = [([2.0, 1.0, 0.0, -1.0], 2.0), ([2.0, 1.0, 0.0, -1.0], 0.5)]
WRONG_DRAWS: list[tuple[Callable[[Sequence[float], float], list[float]], str]] = [
    (
        lambda logits, t: softmax(logits),
        "The temperature makes no difference: it divides the logits before softmax.",
    ),
    (
        lambda logits, t: softmax([logit * t for logit in logits]),
        "The logits are multiplied: a high temperature should make rare tokens likelier.",
    ),
    (
        lambda logits, t: [1 / len(logits)] * len(logits),
        "All tokens are drawn equally often, whatever their logits say.",
    ),
    (
        lambda logits, t: [float(i == 0) for i in range(len(logits))],
        "The likeliest token is taken each time. That is greedy decoding, not drawing.",
    ),
]


def _judge_sampler(answer: object) -> str | None:
    """Compare how often each token is drawn with its probability."""
    import numpy as np

    if not callable(answer):
        return f"{shown(answer)} is not a function: give the function itself, without brackets."
    found = []
    for logits, temperature in SETTINGS:
        generator = np.random.default_rng(0)
        call, drawn = f"For logits {logits} and temperature {temperature:g}", []
        for _ in range(DRAWS):
            drawn.append(outcome(answer, (list(logits), temperature, generator)))
            if drawn[-1] is ... or drawn[-1] is None:
                return NOTHING_YET if drawn[-1] is ... else NO_RETURN
            if problem := stops(drawn[-1]):
                return f"{call} the function {problem}"
        drawn = [t[0] if isinstance(t, list) and len(t) == 1 else t for t in drawn]
        if strange := [t for t in drawn if not isinstance(t, int) or not 0 <= t < len(logits)]:
            return (
                f"{call} it returns {shown(strange[0])}. It has to be the place of a token among "
                f"the logits, a whole number from 0 to {len(logits) - 1}."
            )
        counts = Counter(drawn)
        found.append([counts[i] / DRAWS for i in range(len(logits))])
    return _compare(found)


def _compare(found: list[list[float]]) -> str | None:
    """What is wrong with shares that were drawn in the two settings."""

    def agrees(distribution: Callable) -> bool:
        expected = [distribution(*setting) for setting in SETTINGS]
        pairs = zip(chain(*found), chain(*expected), strict=True)
        return all(abs(a - b) < CLOSE for a, b in pairs)

    if agrees(softmax):
        return None
    said = next((text for distribution, text in WRONG_DRAWS if agrees(distribution)), "")
    if not said and all(max(shares) == 1 for shares in found):
        said = "It draws the same token each time: use the generator that is given, not a new one."
    logits, temperature = SETTINGS[0]
    return (
        f"For logits {logits} and temperature {temperature:g} the tokens are drawn with the shares "
        f"{shown(found[0])}. "
        + (said or "Look at what softmax makes of the logits, divided by the temperature.")
    )


EXERCISES = (
    Exercise(
        "0.1",
        "Pairs: what is seen, what comes next",
        "easy",
        PAIRS,
        (
            "Write 5, 9, 2, 7 on paper, and draw an arrow from each token to the one that follows.",
            "Each arrow is a pair. Which token has no arrow out, and which has none in?",
            "`zip` of a list with the same list from its second item on stops at the shorter one.",
        ),
    ),
    Exercise(
        "0.2",
        "The loss of a sentence",
        "middle",
        LOSS,
        (
            "How surprised is somebody who had given 0.25 to what came? Begin with one token.",
            "`math.log` is the natural logarithm. Which sign does the logarithm of 0.25 have?",
            "One surprise for each token, then their sum divided by their number.",
        ),
    ),
    Exercise(
        "0.3",
        "A sampler with a temperature",
        "open",
        _judge_sampler,
        (
            "Two parts: make probabilities of the logits, then draw a place by them.",
            "Logits 1 and 0 at temperature 0.5 count as 2 and 0: softmax gives 0.88 and 0.12.",
            "`generator.random()` is a number between 0 and 1. For the probabilities 0.5, 0.3 and "
            "0.2, numbers up to 0.5 stand for place 0, up to 0.8 for place 1, up to 1 for place 2.",
        ),
    ),
)
