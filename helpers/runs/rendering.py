"""Pages and cards from the words in `templates/`, without tokens."""

import errno
import math
import os
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from helpers.engine.files import move
from helpers.errors import RunError
from helpers.hub.secrets import redacted

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, **values: object) -> str:
    """The text of a template; in HTML, every value is escaped that is not marked as safe."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": _cell, "markdown": _markdown, "repr": repr}
    environment.filters["link"] = lambda path: quote(path.as_posix())  # escapes `#`, `?`, spaces
    return environment


def _cell(value: object) -> str:
    """A value as a table shows it."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:,.5g}"
    return f"{value:,}" if type(value) is int else "" if value is None else str(value)


def _markdown(value: object) -> str:
    """A text escaped for Markdown, in one line, also within a table."""
    return re.sub(r"([\\`*_\[\]<>|#~$])", r"\\\1", " ".join(str(value).split()))


def write_text(path: Path, text: str) -> Path:
    """Write a text without tokens, keeping the old file until the new one is complete.

    Raises RunError where it cannot be written, or OSError for a full disk.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.exists():
            path.open("ab").close()  # fails for a folder, and without permission
        # A link, or a device such as /dev/stdout, must not be replaced.
        if path.is_symlink() or (path.exists() and not path.is_file()):
            path.write_text(redacted(text), encoding="utf-8")
        else:
            temporary.write_text(redacted(text), encoding="utf-8")
            move(temporary, path)
    except OSError as error:
        if temporary.exists():
            temporary.unlink()
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RunError(
            f"{str(path)!r} cannot be written ({error.strerror}): name another place."
        ) from None
    return path
