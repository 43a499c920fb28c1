"""Exercises of notebook 01: counting documents, runs of words, a split that tears no group."""

from helpers.workshop.exercise import NOTHING_YET, Exercise, by_cases, plain, shown

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
    "Look at what `drop_empty` leaves out in notebook 01, and at the names of the parts.",
)


def _runs(text: str, n: int) -> list[str]:
    words = text.split()
    return [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]


def _joined(result: object) -> object:
    """Runs as strings, also where they were given as lists of words."""
    if not isinstance(result, list):
        return result
    return [" ".join(map(str, run)) if isinstance(run, list) else run for run in result]


RUNS = by_cases(
    _runs,
    [("the sky is blue at noon", 3), ("one two three", 3), ("a b c d e", 2), ("short", 2)],
    [
        (
            lambda text, n: _runs(text, n)[:-1],
            "The last run is missing. How many runs of 3 words do 3 words have?",
        ),
        (
            lambda text, n: _runs(text, n)[::n],
            "The runs do not overlap. One begins at each word that has enough words after it.",
        ),
        (
            lambda text, n: [" ".join(text.split()[i : i + n]) for i in range(len(text.split()))],
            "The last runs are too short: they reach beyond the end of the text.",
        ),
        (
            lambda text, n: [text[i : i + n] for i in range(len(text) - n + 1)],
            "These are runs of letters. Split the text into words first.",
        ),
        (lambda text, n: text.split(), "These are single words, whatever n is."),
    ],
    "Each run has n words and begins one word after the one before it.",
    _joined,
)

GROUPS = [
    [0, 0, 1, 2, 2, 2, 3, 4, 5, 5, 6, 7, 8, 9, 9, 10, 11, 12, 13, 13],
    [7, 1, 2, 7, 3, 4, 5, 6, 7, 8, 9, 10, 11, 1, 12, 13, 14, 15, 16, 1],
    list(range(30)),
]
LOW, HIGH = 0.1, 0.3


def _judge_split(answer: object) -> str | None:
    """Look whether each group is whole, and each part of the size that was asked for."""
    if not callable(answer):
        return f"{shown(answer)} is not a function: give the function itself, without brackets."
    for groups in GROUPS:
        try:
            names = plain(answer(list(groups)))
        except Exception as error:
            return f"For {shown(groups)} it stops with {type(error).__name__}: {error}."
        if names is None or names is ...:
            return f"The function returns nothing. {NOTHING_YET}"
        if problem := _problem_of_split(groups, names):
            return f"For {shown(groups)}: {problem}"
    return None


def _problem_of_split(groups: list[int], names: object) -> str | None:
    if not isinstance(names, list) or len(names) != len(groups):
        count = len(names) if isinstance(names, list) else shown(names)
        return f"{len(groups)} documents were given, and {count} names came back."
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
            "A data set is a table of parts. Which parts are there?",
            "`splits.values()` gives the lists of texts, one for each part.",
            "A text without content is empty after `strip()`.",
        ),
    ),
    Exercise(
        "1.2",
        "Runs of words",
        "middle",
        RUNS,
        (
            "List by hand the runs of 2 words in `a b c d e`. How many are there?",
            "A slice `words[i : i + n]` is a run. At which i does the last one begin?",
            "The last run begins at `len(words) - n`, and `range` leaves its end out.",
        ),
    ),
    Exercise(
        "1.3",
        "A split that tears no group",
        "open",
        _judge_split,
        (
            "First decide which part a group goes to; a document then goes where its group goes.",
            "Go through the groups, and fill `test`, then `validation`, up to the size you aim at.",
            "Skip a group that would make a part too large: the next one may fit.",
        ),
    ),
)
