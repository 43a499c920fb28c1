"""Checks of the exercises: `check("3.2", answer)`, `hint("3.2")` and `progress()`.

What is solved is kept in one file, `work/progress.json` in the project's folder.
"""

import json
from importlib import import_module

from helpers.engine.files import replace
from helpers.errors import UserError, nearest
from helpers.hub.sources import PROJECT
from helpers.workshop.exercise import NOTHING_YET, Exercise

# One module for each notebook, from 00 to 06.
MODULES = [import_module(f"helpers.workshop.exercises_{number:02d}") for number in range(7)]
EXERCISES = {one.number: one for module in MODULES for one in module.EXERCISES}
STATE = PROJECT / "work" / "progress.json"


def problem_of(number: str, answer: object) -> str | None:
    """What is wrong with an answer and where to look; None if it is right."""
    if answer is ...:
        return NOTHING_YET
    return _find(number).judge(answer)


def check(number: str, answer: object) -> None:
    """Print whether an answer is right, or what is wrong with it and where to look.

    Args:
        number: of the exercise, such as `"3.2"`.
        answer: a number, a list, a function, or what else the exercise asks for.
    """
    problem, state = problem_of(number, answer), _read()
    entry = state.setdefault(number, {"tries": 0, "solved": False, "hints": 0})
    if problem is None:
        remark = _find(number).remark(answer)
        print(f"{number} is right." + (f" {remark}" if remark else ""))
        entry["solved"] = True
    elif NOTHING_YET in problem:
        print(f"{number}: {problem}")
        return
    else:
        more = f' hint("{number}") opens a hint.' if entry["hints"] < 3 else ""
        print(f"{number} is not right yet. {problem}{more}")
    entry["tries"] += 1
    _write(state)


def hint(number: str) -> None:
    """Print the hints that are open, and one more."""
    hints, state = _find(number).hints, _read()
    entry = state.setdefault(number, {"tries": 0, "solved": False, "hints": 0})
    entry["hints"] = min(entry["hints"] + 1, len(hints))
    _write(state)
    for i, text in enumerate(hints[: entry["hints"]], 1):
        print(f"Hint {i} of {len(hints)}: {text}")


def progress() -> None:
    """Print a table of all exercises: which are solved, after how many tries and hints."""
    state = _read()
    print(f"{'':4} {'exercise':42} {'level':7} {'solved':7} tries  hints")
    for number, one in EXERCISES.items():
        entry = state.get(number, {"tries": 0, "solved": False, "hints": 0})
        solved = "yes" if entry["solved"] else ""
        numbers = f"{entry['tries'] or '':>5}  {entry['hints'] or '':>5}"
        print(f"{number:4} {one.title:42} {one.level:7} {solved:7} {numbers}".rstrip())
    solved = sum(entry["solved"] for number, entry in state.items() if number in EXERCISES)
    print(f"\n{solved} of {len(EXERCISES)} are solved.")


def _find(number: str) -> Exercise:
    if number not in EXERCISES:
        raise UserError(f"There is no exercise {number!r}: {nearest(str(number), EXERCISES)}.")
    return EXERCISES[number]


def _read() -> dict[str, dict]:
    """The learner's state; a damaged file counts as none, since only this module writes it."""
    try:
        return json.loads(STATE.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _write(state: dict[str, dict]) -> None:
    STATE.parent.mkdir(parents=True, exist_ok=True)
    replace(STATE, json.dumps(state, indent=1) + "\n")
