"""Keeping secrets out of files: the Hub's tokens in force, and whatever looks like one."""

import mmap
import os
import re
from pathlib import Path

_TOKEN = "hf_[A-Za-z0-9]{30,}"
_SHORTEST = 20  # characters; a shorter value of HF_TOKEN is a mistake, and may be part of any word
_SECRET_NAME = re.compile(r"token|secret|passw|api_?key|credential", re.IGNORECASE)
HIDDEN = "hf_…"


def is_secret_name(name: str) -> bool:
    """Whether a parameter of this name, which no step has, would hold a secret."""
    return bool(_SECRET_NAME.search(name))


def redacted(text: str) -> str:
    """The text with `hf_…` in the place of every token."""
    return _tokens().sub(HIDDEN, text) if len(text) >= _SHORTEST else text


def holds_token(path: Path) -> bool:
    """Whether a file contains a token."""
    if not path.stat().st_size:
        return False
    with path.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return re.search(_tokens().pattern.encode(), content) is not None


def _tokens() -> re.Pattern[str]:
    """A pattern for the tokens in force and everything that looks like one."""
    from huggingface_hub import get_token

    values = (os.environ.get("HF_TOKEN"), os.environ.get("HUGGING_FACE_HUB_TOKEN"), get_token())
    known = {token.strip() for token in values if token}
    escaped = [re.escape(t) for t in known if re.fullmatch(rf"\S{{{_SHORTEST},}}", t)]
    return re.compile("|".join([*escaped, _TOKEN]))
