"""The errors that a user can cause: one sentence each, and never a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can correct: the message has the value and what is needed."""

    def _render_traceback_(self) -> list[str]:
        """What IPython prints in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class ParameterError(UserError):
    """A parameter whose value cannot be used."""

    def __init__(self, name: str, value: object, needed: str):
        super().__init__(f"{name} is {value!r}: {needed}.")


class DataError(UserError):
    """A data set or file that cannot be read, or holds nothing to work with."""


class ModelError(UserError):
    """A model or tokenizer that cannot be loaded, or is of the wrong kind."""


class RunError(UserError):
    """A run folder in which something is missing, stale, newer than this code or not writable."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`the nearest is 'x'` for a name close to one in `known`, else a list of those."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"the nearest is {close[0]!r}" if close else f"there are {', '.join(known)}"


def first_line(error: BaseException) -> str:
    """The first line of a library's error without its full stop, to be part of a sentence."""
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
