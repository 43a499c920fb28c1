"""Fetching the data sets and models of a run before it starts."""

import shlex
from collections.abc import Mapping

from helpers.hub.sources import EMBEDDED, locate, needs_fetching
from helpers.runs.profiles import Settings, expand_settings, plan
from helpers.runs.prompts import read_prompts


def prefetch_command(profile: str, settings: Settings = ()) -> str:
    """The command that fetches what a run needs."""
    table = expand_settings(settings)
    chosen = [part for key, value in table.items() for part in ("-p", f"{key}={value}")]
    return shlex.join(["python", "-m", "helpers", "prefetch", "--profile", profile, *chosen])


def prefetch(profile: str, settings: Settings) -> str:
    """Fetch the data set and models of a run, check that they can be read, and say so."""
    from helpers.data import load_examples
    from helpers.models import load_config, load_tokenizer

    parameters = plan(profile, settings)
    fetch(parameters, prefetch_command(profile, settings))
    load = parameters["load"]
    examples = load_examples(load["dataset"], load["split"], load["configuration"])
    for name in sorted({parameters[step]["model"] for step in ("preprocess", "train")}):
        load_config(name)
        load_tokenizer(name)
    return (
        f"All that profile {profile} needs is here ({len(examples):,} examples): "
        "it runs without a network."
    )


def fetch(parameters: Mapping[str, Mapping[str, object]], command: str) -> None:
    """Fetch the data sets and models that are not on this machine; check models and prompts.

    Args:
        parameters: those of every step.
        command: the command that error messages suggest where there is no network.
    """
    from helpers.models import check_model

    needed = {
        (kind, str(step[kind]))
        for step in parameters.values()
        for kind in EMBEDDED
        if kind in step and not (kind == "dataset" and step.get("streaming"))
    }
    for kind, name in sorted(needed):
        if needs_fetching(kind, name):
            locate(kind, name, command)
        if kind == "model":
            check_model(name, command)
    read_prompts(str(parameters.get("infer", {}).get("prompts_file", "")))
