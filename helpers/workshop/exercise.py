"""An exercise: what makes an answer right, and what is said about a wrong one."""

import copy
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Number

Judge = Callable[[object], "str | None"]  # what is wrong with an answer; None: it is right
NOTHING_YET = "There is no answer yet: replace the dots."
NO_RETURN = "It returns nothing. Does it end with `return`? (`print` only shows.)"
LIMIT = 5.0  # seconds of computing that a call of a learner's function may take


@dataclass(frozen=True)
class Exercise:
    """An exercise of the workshop.

    Attributes:
        number: that of the notebook and its own, such as `3.2`.
        title: a few words.
        level: `easy`, `middle` or `open`; an open one has many right answers.
        judge: what is wrong with an answer and where to look, never the answer; None if right.
        hints: three, which open one after the other.
        remark: what is said about an answer that is right but could be better; None if it could
            not.
    """

    number: str
    title: str
    level: str
    judge: Judge
    hints: tuple[str, str, str]
    remark: Judge = lambda answer: None


def by_cases(
    right: Callable,
    cases: Sequence[tuple],
    wrong: Sequence[tuple[Callable, str]],
    look: str,
    form: Callable[[object], object] = lambda result: result,
) -> Judge:
    """Judge a function by what it returns for some inputs.

    Args:
        right: returns what is right.
        cases: the arguments of each call.
        wrong: functions with mistakes that people make, each with what is said about it.
        look: what is said about any other mistake.
        form: brings a result into the form of those of `right`.
    """

    def judge(answer: object) -> str | None:
        if not callable(answer):
            return f"{shown(answer)} is not a function: give the function itself, without brackets."
        given = []
        for case in cases:
            given.append(outcome(answer, copy.deepcopy(case), form))
            if isinstance(given[-1], TimeoutError):
                return _call(case, given[-1])
        if all(result is None or result is ... for result in given):
            return NOTHING_YET if ... in given else NO_RETURN
        expected = [outcome(right, copy.deepcopy(case)) for case in cases]
        bad = [i for i in range(len(cases)) if not same(given[i], expected[i])]
        if not bad:
            return None
        # A mistake that agrees with the answer throughout, else in the first case that is wrong.
        found = {
            where: [text for f, text in wrong if _agrees(f, given, cases, where)]
            for where in (tuple(range(len(cases))), (bad[0],))
        }
        said = next((texts[0] for texts in found.values() if texts), look)
        return f"{_call(cases[bad[0]], given[bad[0]])} {said}"

    return judge


def _call(case: tuple, result: object) -> str:
    """What a function does for some input, as a sentence."""
    call = f"For {', '.join(map(shown, case))} the function"
    return f"{call} {stops(result) or f'returns {shown(result)}.'}"


def stops(result: object) -> str | None:
    """How a call ended that gave no result; None if it gave one."""
    if isinstance(result, TimeoutError):
        return f"has not ended after {LIMIT:g} seconds. Does each round of its loop move on?"
    if isinstance(result, Exception):
        why = f"stops with {type(result).__name__}: {result}".rstrip(": ") + "."
        return f"{why} {_meaning(result)}".rstrip()
    return None


def _meaning(error: Exception) -> str:
    """What two frequent messages of Python mean to a beginner."""
    if isinstance(error, IndexError):
        return "It looks beyond the end of a list."
    if isinstance(error, TypeError) and "list" in str(error):
        return "A list is no number: go through it in a loop, or make an array, `np.array(…)`."
    return ""


def _agrees(function: Callable, given: list, cases: Sequence[tuple], where: tuple) -> bool:
    return all(same(given[i], outcome(function, copy.deepcopy(cases[i]))) for i in where)


def outcome(
    function: Callable, case: tuple, form: Callable[[object], object] = lambda result: result
) -> object:
    """What a function returns, in plain Python, or the exception that it raises.

    A function that is still running after `LIMIT` seconds of computing gets a TimeoutError at its
    next line: by tracing, which works on all systems and in every thread.
    """
    before, end = sys.gettrace(), time.thread_time() + LIMIT

    def watch(frame: object, event: str, argument: object) -> Callable:
        if time.thread_time() > end:
            raise TimeoutError
        return watch

    sys.settrace(watch)
    try:
        return form(plain(function(*case)))
    except Exception as error:
        return error
    finally:
        sys.settrace(before)


def plain(value: object) -> object:
    """Numbers, strings, lists and dictionaries in place of arrays, tensors and iterators."""
    for method in ("detach", "tolist"):
        value = getattr(value, method)() if hasattr(value, method) else value
    if isinstance(value, Mapping):
        return {plain(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | range | Iterator):
        return [plain(one) for one in value]
    return value


def same(given: object, expected: object, tolerance: float = 0.005) -> bool:
    """Whether two results are the same: whole numbers exactly, others to three digits.

    A list of one number is a number as well; exceptions are the same if their types are.
    """
    if isinstance(expected, list):
        if not isinstance(given, list) or len(given) != len(expected):
            return False
        return all(same(a, b, tolerance) for a, b in zip(given, expected, strict=True))
    while isinstance(given, list) and len(given) == 1:
        given = given[0]
    if isinstance(expected, Exception):
        return type(given) is type(expected)
    if isinstance(given, bool) or isinstance(expected, bool) or not isinstance(expected, Number):
        return type(given) is type(expected) and given == expected
    if not isinstance(given, Number) or isinstance(given, complex):
        return False
    if isinstance(expected, int):
        return given == expected
    if math.isnan(expected):
        return math.isnan(given)
    return math.isclose(given, expected, rel_tol=tolerance, abs_tol=5e-4)


def shown(value: object) -> str:
    """A value as it is shown in a sentence: short, and with rounded numbers."""
    text = repr(_rounded(plain(value)))
    return text if len(text) <= 90 else f"{text[:87]}..."


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return value


def softmax(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    """The probabilities that logits stand for, at a temperature above 0."""
    top = max(logits)
    weights = [math.exp((logit - top) / temperature) for logit in logits]
    return [weight / sum(weights) for weight in weights]
