"""Uploading a fine-tuned model and its card to the Hub, where the user asks for it."""

from pathlib import Path

from helpers.errors import ParameterError, UserError
from helpers.hub.download import LOG_IN


def check_publishing(push_to_hub: bool, hub_model_id: str) -> None:
    """Refuse to publish under a name that the Hub does not take, or without a login.

    Raises ParameterError for the name, UserError where there is no token.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if not push_to_hub:
        return
    try:
        validate_repo_id(hub_model_id)
    except HFValidationError:
        needed = "the model's name on the Hub is needed to publish it, such as 'user/name'"
        raise ParameterError("hub_model_id", hub_model_id, needed) from None
    if not get_token():
        raise UserError(f"push_to_hub is True: nobody is logged in to the Hub here, {LOG_IN}.")


def publish(folder: Path, card: str, hub_model_id: str, private: bool) -> str:
    """Upload a model's folder and its card as one commit, to a new or existing repository.

    Returns its address. Raises UserError where the Hub refuses or does not answer.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    try:
        repository = api.create_repo(hub_model_id, private=private, exist_ok=True)
        files = {path.name: str(path) for path in sorted(folder.iterdir()) if path.is_file()}
        files["README.md"] = card.replace("USER/NAME", repository.repo_id).encode()
        operations = [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
            for name, content in files.items()
        ]
        api.create_commit(repository.repo_id, operations, commit_message="Fine-tuned model")
    except OSError as error:  # every refusal and every failure of the network is one
        status = getattr(getattr(error, "response", None), "status_code", None)
        why = f"status {status}" if status else type(error).__name__
        raise UserError(
            f"hub_model_id is {hub_model_id!r}: the model could not be published ({why}); see that "
            "you are logged in with a token that may write, and run the step again: the scores are "
            "kept."
        ) from None
    return str(repository)
