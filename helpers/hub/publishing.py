"""Publishing a fine-tuned model on the Hub, with a card that says how it was made and how good it is. Only where it is asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.errors import ParameterError, UserError
from helpers.hub.download import LOG_IN
from helpers.hub.secrets import redacted
from helpers.runs.rendering import render

if TYPE_CHECKING:
    from helpers.runs.folder import Step


def check_publishing(push_to_hub: bool, hub_model_id: str) -> None:
    """ParameterError where a model is to be published without a name that the Hub takes, UserError where nobody is logged in."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if not push_to_hub:
        return
    try:
        validate_repo_id(hub_model_id)
    except HFValidationError:
        raise ParameterError(
            "hub_model_id",
            hub_model_id,
            "the model's name on the Hub is needed to publish it, such as 'user/name'",
        ) from None
    if not get_token():
        raise UserError(f"push_to_hub is True: nobody is logged in to the Hub here, {LOG_IN}.")


def model_card(step: "Step", metrics: Mapping[str, object]) -> str:
    """A card for the model that step `evaluate` has scored, with the Hub's metadata (`model-index`)."""
    from huggingface_hub import EvalResult, ModelCardData

    records = step.records
    used = {**records["load"]["sources"], **records["train"]["sources"]}
    on_hub = {kind: used[kind].split("@") for kind in used if "@" in used[kind]}
    parameters = {name: _without_paths(record) for name, record in records.items()}
    data, model = parameters["load"]["dataset"], parameters["train"]["model"]
    data = "clm-notebooks questions" if data == "embedded" else data
    model = "clm-notebooks base model" if model == "embedded" else model
    result = EvalResult(
        task_type="text-generation",
        dataset_type=on_hub["dataset"][0] if "dataset" in on_hub else "text",
        dataset_name=f"{data}, {metrics['tokens_rolling']:,} tokens set aside",
        metric_type="perplexity",
        metric_name="perplexity a token, rolling",
        metric_value=round(metrics["perplexity_finetuned"], 3),
    )
    metadata = ModelCardData(
        model_name=f"{model} fine-tuned on {data}",
        library_name="transformers",
        pipeline_tag="text-generation",
        eval_results=[result],
        **({"base_model": on_hub["model"][0]} if "model" in on_hub else {}),
        **({"datasets": [on_hub["dataset"][0]]} if "dataset" in on_hub else {}),
    )
    card = render(
        "model_card.md.j2",
        metadata=metadata.to_yaml(),
        model=model,
        data=data,
        commits={kind: f" (commit `{commit}`)" for kind, (_, commit) in on_hub.items()},
        parameters=parameters,
        loaded=records["load"]["metrics"],
        metrics=metrics,
        versions=", ".join(
            f"{name} {version}" for name, version in records["train"]["versions"].items()
        ),
    )
    return redacted(card)


def _without_paths(record: Mapping[str, dict]) -> dict[str, object]:
    """A step's parameters, with the last part only of what is a file or folder of this machine."""
    parameters = dict(record["parameters"])
    for kind in ("dataset", "model"):
        if kind in parameters and "@" not in record["sources"].get(kind, ""):
            parameters[kind] = Path(parameters[kind]).name
    return parameters


def publish(folder: Path, card: str, hub_model_id: str, private: bool) -> str:
    """Upload a model's folder and its card as one commit, into a new repository or over the old one; its address.

    Raises UserError where the Hub refuses or does not answer.
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
            f"hub_model_id is {hub_model_id!r}: the model could not be published ({why}); see that you are logged in with a token that may write, "
            "and run the step again: the scores are kept."
        ) from None
    return str(repository)
