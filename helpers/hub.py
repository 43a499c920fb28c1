"""The Hugging Face Hub: whether a run needs it, and who is logged in. A run never logs in by itself."""

from collections.abc import Mapping

from helpers.run import EMBEDDED, source_of


def needs_hub(parameters: Mapping[str, Mapping[str, object]]) -> bool:
    """Whether any step of a run names a data set or model that does not lie on this machine."""
    return any(
        source_of(kind, str(step[kind])) is None for step in parameters.values() for kind in EMBEDDED if kind in step
    )


def login_state() -> str:
    """Whether a token for the Hub is set on this machine, in a sentence that does not show it. Asks no server."""
    from huggingface_hub import get_token

    if get_token():
        return "A token for the Hub is set on this machine: private and gated repositories that it opens can be loaded."
    return "No token for the Hub is set: public repositories and everything on this machine can be loaded."
