"""Publishing a fine-tuned model on the Hub, with a card that says how it was made and how good it is. Only where it is asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.errors import ParameterError, UserError
from helpers.hub import LOG_IN
from helpers.redaction import redacted

if TYPE_CHECKING:
    from helpers.run import Step


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
            "hub_model_id", hub_model_id, "the model's name on the Hub is needed to publish it, such as 'user/name'"
        ) from None
    if not get_token():
        raise UserError(f"push_to_hub is True: nobody is logged in to the Hub here, {LOG_IN}.")


def model_card(step: "Step", metrics: Mapping[str, object]) -> str:
    """A card for the model that step `evaluate` has scored, with the Hub's metadata (`model-index`)."""
    from huggingface_hub import EvalResult, ModelCardData

    parameters = {name: record["parameters"] for name, record in step.records.items()}
    used = {**step.records["load"]["sources"], **step.records["train"]["sources"]}
    on_hub = {kind: used[kind].split("@") for kind in used if "@" in used[kind]}
    data, model = parameters["load"]["dataset"], parameters["train"]["model"]
    data, model = (
        "clm-notebooks " + what if name == "embedded" else name
        for name, what in ((data, "questions"), (model, "base model"))
    )
    result = EvalResult(
        task_type="text-generation",
        dataset_type=on_hub["dataset"][0] if "dataset" in on_hub else "text",
        dataset_name=f"{data}, {metrics['tokens_rolling']:,} tokens set aside",
        metric_type="perplexity",
        metric_name="perplexity a token, rolling",
        metric_value=round(metrics["perplexity_finetuned"], 3),
    )
    card = ModelCardData(
        model_name=f"{model} fine-tuned on {data}",
        library_name="transformers",
        pipeline_tag="text-generation",
        eval_results=[result],
        **({"base_model": on_hub["model"][0]} if "model" in on_hub else {}),
        **({"datasets": [on_hub["dataset"][0]]} if "dataset" in on_hub else {}),
    )
    settings = "\n".join(f"| {s}.{k} | {v!r} |" for s, values in parameters.items() for k, v in values.items())
    versions = ", ".join(f"{k} {v}" for k, v in step.records["train"]["versions"].items())
    return redacted(f"""---
{card.to_yaml()}
---
# {model} fine-tuned on {data}

A causal language model: `{model}`{_at(on_hub, "model")}, fine-tuned on `{parameters["load"]["text_column"]}` of `{data}`{_at(on_hub, "dataset")},
{step.records["load"]["metrics"]["examples_train"]:,} examples, split `{parameters["load"]["split"]}`.

## Perplexity

On {step.records["load"]["metrics"]["examples_test"]:,} examples that were set aside before ({metrics["tokens_rolling"]:,} tokens). Every token of each example is scored once, in windows of
{metrics["context_rolling"]:,} tokens that do not overlap; the first one is predicted from a prefix token. Nats are added up and divided by tokens once.

| | base | fine-tuned |
|---|---|---|
| perplexity a token | {_with_interval(metrics, "base")} | {_with_interval(metrics, "finetuned")} |
| bits per byte | {metrics["bits_per_byte_base"]:.4f} | {metrics["bits_per_byte_finetuned"]:.4f} |

Fine-tuning multiplied perplexity by {metrics["perplexity_ratio"]:.3f} (95 % interval {metrics["perplexity_ratio_low"]:.3f} to {metrics["perplexity_ratio_high"]:.3f}, paired bootstrap over documents).

## How to use it

```python
from transformers import pipeline

generator = pipeline("text-generation", "USER/NAME")
print(generator("The sky is blue because", max_new_tokens=50)[0]["generated_text"])
```

## Limits

It continues text in the manner of its data. It does not know what is true, repeats what its data and its base model have of errors and prejudice, and was measured on text like that it was
trained on, and on no other. Blocks had {parameters["chunk"]["block_size"]:,} tokens: longer texts were not trained on.

## How it was made

| parameter | value |
|---|---|
{settings}

Made with {versions}.
""")


def _at(on_hub: Mapping[str, list[str]], kind: str) -> str:
    return f" (commit `{on_hub[kind][1]}`)" if kind in on_hub else ""


def _with_interval(metrics: Mapping[str, float], model: str) -> str:
    low, high = (metrics[f"{end}_{model}"] for end in ("low", "high"))
    return f"{metrics[f'perplexity_{model}']:.2f} (95 % interval {low:.2f} to {high:.2f})"


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
        operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()]
        api.create_commit(repository.repo_id, operations, commit_message="Fine-tuned model")
    except OSError as error:  # every refusal and every failure of the network is one
        status = getattr(getattr(error, "response", None), "status_code", None)
        why = f"status {status}" if status else type(error).__name__
        raise UserError(
            f"hub_model_id is {hub_model_id!r}: the model could not be published ({why}); see that you are logged in with a token that may write, "
            "and run the step again: the scores are kept."
        ) from None
    return str(repository)
