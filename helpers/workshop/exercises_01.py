"""Exercises of notebook 01: counting documents, finding copies, a split that tears no group."""

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

PARTS = ("train", "validation", "test")


def _count(splits: dict[str, list[str]]) -> int:
    return sum(bool(text.strip()) for part in splits.values() for text in part)


def _of(*parts: str):
    return lambda splits: _count({name: splits[name] for name in parts})


COUNT = by_cases(
    _count,
    [
        ({"train": ["Why?", "", "So.", "Yes."], "validation": ["No."], "test": ["  ", "It is."]},),
        ({"train": ["a", "b"], "validation": ["", "c", "d"], "test": ["e", "f", "g", "\n"]},),
    ],
    [
        (_of("train"), "Only `train` is counted. Documents lie in three parts."),
        (_of("train", "test"), "`validation` is missing from the count."),
        (_of("train", "validation"), "`test` is missing from the count."),
        (len, "This is the number of parts, not of documents."),
        (
            lambda splits: sum(map(len, splits.values())),
            "Records without text are counted too. They would become empty documents.",
        ),
        (
            lambda splits: sum(bool(text) for part in splits.values() for text in part),
            "A text of spaces or line breaks alone is counted. There is nothing in it to learn.",
        ),
        (
            lambda splits: sum(not text.strip() for part in splits.values() for text in part),
            "These are the empty ones. Count the others.",
        ),
    ],
    "Which texts of each part have something to read? Count them by hand in the example.",
)


def _copies(
    train: list[list[str]],
    test: list[list[str]],
    size: Callable[[int, int], int] = min,
    least: Callable[[float], bool] = lambda share: share >= 0.5,
) -> list[int]:
    """The places of the test documents that share enough runs with a training document."""
    return [
        i
        for i, one in enumerate(test)
        if any(least(len({*one} & {*other}) / size(len(one), len(other))) for other in train)
    ]


COPIES = by_cases(
    _copies,
    [
        (
            [["a b", "b c", "c d"], ["x y", "y z"]],
            [["b c", "c d", "d e", "e f", "f g"], ["p q"], ["y z", "z w", "w v"]],
        ),
        (
            [["a b", "b c", "c d"], ["e f", "f g", "g h"]],
            [["b c", "f g", "k l"], ["a b", "b c"], ["e f", "f g", "g h"]],
        ),
        (
            [["a b", "b c", "c d", "d e", "e f"], ["w a", "a b", "b c", "c x", "x y"], ["k l"]],
            [["a b", "b c"]],
        ),
        ([["a b", "b c"]], [["c d", "d e"]]),
    ],
    [
        (
            lambda train, test: [],
            "No copy is found here. Which runs do the first documents of both parts share?",
        ),
        (
            lambda train, test: [i for i, one in enumerate(test) if one in train],
            "Only exact copies are found. A near-duplicate shares half of the runs or more.",
        ),
        (
            lambda train, test: _copies(train, test, lambda one, other: one),
            "The share is of the test document's runs. If that one is longer than what it copies, "
            "the share looks small: take the shorter of the two.",
        ),
        (
            lambda train, test: _copies(train, test, lambda one, other: other),
            "The share is of the training document's runs. Take the shorter of the two.",
        ),
        (
            lambda train, test: _copies(train, test, max),
            "The share is of the longer document's runs. Take the shorter of the two.",
        ),
        (
            lambda train, test: _copies(train, test, least=lambda share: share > 0.5),
            "Exactly half is missing: at least half counts.",
        ),
        (
            lambda train, test: _copies(train, test, least=lambda share: share > 0),
            "One run in common is enough here. A common phrase is no copy.",
        ),
        (
            lambda train, test: _copies([[run for one in train for run in one]], test),
            "All of `train` was taken as one document. Compare with each document by itself.",
        ),
        (
            lambda train, test: [
                i for i in range(len(test)) for one in train if _copies([one], [test[i]])
            ],
            "A document comes up once for each original. Its place is asked for once.",
        ),
        (
            lambda train, test: _copies(test, train),
            "These are places in `train`. Which documents of the test part are copies?",
        ),
        (
            lambda train, test: [i in _copies(train, test) for i in range(len(test))],
            "This is a yes or no for each document. Give the places of those with a yes.",
        ),
        (
            lambda train, test: [test[i] for i in _copies(train, test)],
            "These are the documents themselves. Give their places in `test`, from 0 on.",
        ),
    ],
    "By hand: how many runs do the two share, and how many has the shorter one?",
    lambda result: sorted(result) if isinstance(result, set) else result,
)

GROUPS = [
    [0, 0, 1, 2, 2, 2, 3, 4, 5, 5, 6, 7, 8, 9, 9, 10, 11, 12, 13, 13],
    [7, 1, 2, 7, 3, 4, 5, 6, 7, 8, 9, 10, 11, 1, 12, 13, 14, 15, 16, 1],
    [0, 0, 0, 1, 1, 2, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14],
    list(range(30)),
]
LOW, HIGH = 0.1, 0.3


def _judge_split(answer: object) -> str | None:
    """Look whether each group is whole, and each part of the size that was asked for."""
    if not callable(answer):
        return f"{shown(answer)} is not a function: give the function itself, without brackets."
    for groups in GROUPS:
        names = outcome(answer, (list(groups),))
        if names is ... or (isinstance(names, list) and ... in names):
            return NOTHING_YET
        if names is None:
            return NO_RETURN
        if problem := stops(names):
            return f"For {shown(groups)} the function {problem}"
        if problem := _problem_of_split(groups, names):
            return f"For {shown(groups)}: {problem}"
    return None


def _problem_of_split(groups: list[int], names: object) -> str | None:
    if not isinstance(names, list):
        return f"{shown(names)} is not a list with the name of a part for each document."
    if len(names) != len(groups):
        return f"{len(groups)} documents were given, and {len(names)} names came back."
    if strange := [name for name in names if name not in PARTS]:
        return f"{shown(strange[0])} is the name of no part; there are {', '.join(PARTS)}."
    for group in dict.fromkeys(groups):
        of = sorted({name for name, g in zip(names, groups, strict=True) if g == group})
        if len(of) > 1:
            return (
                f"group {group} is torn, between {' and '.join(of)}. Choose a part for a group, "
                "not for a document."
            )
    for part in PARTS[1:]:
        share = names.count(part) / len(names)
        if share == 0:
            return f"no document is in {part!r}."
        if not LOW <= share <= HIGH:
            return (
                f"{part!r} gets {share:.0%} of the documents, which is not between {LOW:.0%} and "
                f"{HIGH:.0%}. Groups differ in size: count documents."
            )
    return None


EXERCISES = (
    Exercise(
        "1.1",
        "Count the documents",
        "easy",
        COUNT,
        (
            "The keys of the dictionary are the parts, its values lists of texts. All parts count.",
            "`splits.values()` gives the lists of texts, one for each part.",
            '`" \\n".strip()` is `""`. What is `bool("")`, and what `bool("Why?")`?',
        ),
    ),
    Exercise(
        "1.2",
        "Copies in the test part",
        "middle",
        COPIES,
        (
            "First compare two documents: which runs do they share, and which is shorter?",
            "`set(one) & set(other)` holds the runs that both have.",
            "Documents of 3 and 5 runs that share 2: that is 2 of 3, so the longer one may be a "
            "copy with additions. One document like that is enough.",
        ),
    ),
    Exercise(
        "1.3",
        "A split that tears no group",
        "open",
        _judge_split,
        (
            "How many documents should `test` get at most? `filled` says how many it has so far.",
            "A part has room for a group if the documents of both are not more than it should get. "
            "What has room in neither of the small parts goes to the third.",
            "Of 20 documents a part may aim at 4. With 2 so far, a group of 3 has no room, and a "
            "group of 1 that comes later has.",
        ),
    ),
)
