"""The card of a fine-tuned model: how it was made and how good it is."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.hub.secrets import redacted
from helpers.runs.rendering import render

if TYPE_CHECKING:
    from helpers.runs.step import Step


def model_card(step: "Step", metrics: Mapping[str, object]) -> str:
    """A card for the model that step `evaluate` has scored, with the Hub's metadata."""
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
        metric_name="perplexity per token, rolling",
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
    versions = records["train"]["versions"].items()
    card = render(
        "model_card.md.j2",
        metadata=metadata.to_yaml(),
        model=model,
        data=data,
        commits={kind: f" (commit `{commit}`)" for kind, (_, commit) in on_hub.items()},
        parameters=parameters,
        loaded=records["load"]["metrics"],
        metrics=metrics,
        versions=", ".join(f"{name} {version}" for name, version in versions),
    )
    return redacted(card)


def _without_paths(record: Mapping[str, dict]) -> dict[str, object]:
    """A step's parameters, with only the last part of paths of this machine."""
    parameters = dict(record["parameters"])
    for kind in ("dataset", "model"):
        if kind in parameters and "@" not in record["sources"].get(kind, ""):
            parameters[kind] = Path(parameters[kind]).name
    return parameters
