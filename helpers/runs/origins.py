"""Which data set, model and prompts a step is made from just now, as far as a record can say."""

import hashlib
from collections.abc import Mapping

from helpers.engine.files import fingerprint
from helpers.hub.download import cached, place_of
from helpers.hub.packages import MODELS
from helpers.hub.sources import EMBEDDED, base_of, local_path, matching_files, resolve


def sources(parameters: Mapping[str, object]) -> dict[str, str]:
    """The state of the `dataset`, `model` and `prompts_file` among a step's parameters.

    Of files it is their fingerprint, of a repository on the Hub the commit of the copy that lies on
    this machine, of adapters theirs and that of their base model.
    """
    states = {}
    for kind in EMBEDDED:
        name, folder = str(parameters.get(kind, "")), None
        if name in MODELS:
            states[kind] = MODELS[name].hash
        elif name and (folder := local_path(kind, name)):
            hashes = [fingerprint(file, record=None) for file in matching_files(folder)]
            states[kind] = hashes[0]
            if len(hashes) > 1:
                states[kind] = hashlib.blake2b("".join(hashes).encode()).hexdigest()[:32]
        elif name and (copy := cached(kind, name)):
            states[kind] = f"{place_of(kind, copy.name).repo}@{copy.commit}"
            folder = copy.folder
        if kind == "model" and folder and (base := base_of(folder)):
            states[kind] += " on " + sources({"model": base}).get("model", base)
    if (file := parameters.get("prompts_file")) and (path := resolve(file)).is_file():
        states["prompts_file"] = fingerprint(path, record=None)
    return states
