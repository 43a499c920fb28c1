"""Resolve pyproject.toml for every system and Python at once, and write both locks: `make lock`.

`requirements.lock` is what a learner needs; `requirements-dev.lock` adds what the tests need.
What PyTorch pins itself, in its builds for NVIDIA GPUs, is left out, so its CPU build can be taken.
"""

import subprocess
import tempfile
from pathlib import Path

PROJECT = Path(__file__).parent.parent
LOCK, DEV_LOCK = PROJECT / "requirements.lock", PROJECT / "requirements-dev.lock"
PINNED_BY_TORCH = ("nvidia-", "cuda-", "triton==")
HEADER = "# Made by 'make lock' from pyproject.toml, for Python 3.11 and newer on every system.\n"


def resolve(pins: Path, *extras: str) -> list[str]:
    """Resolve the project with some of its extras; versions that `pins` holds are preferred."""
    command = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"]
    command += ["--no-annotate", "--no-header", "pyproject.toml", "--output-file", str(pins)]
    command += [f"--extra={extra}" for extra in extras]
    subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    return [
        line
        for line in pins.read_text(encoding="utf-8").splitlines()
        if not line.startswith(PINNED_BY_TORCH) and "== 'emscripten'" not in line
    ]


def main() -> None:
    """Write both locks."""
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder) / "pins.txt"
        whole = resolve(pins, "lab", "dev")
        learner = resolve(pins, "lab")
    added = [line for line in whole if line not in learner]
    assert set(learner) <= set(whole), "a learner's environment would differ from a developer's"
    LOCK.write_text(
        "\n".join([f"{HEADER}# What a learner needs.", *learner, ""]),
        encoding="utf-8",
        newline="\n",
    )
    DEV_LOCK.write_text(
        "\n".join(
            [f"{HEADER}# What the tests need beside it.", "-r requirements.lock", *added, ""]
        ),
        encoding="utf-8",
        newline="\n",
    )


if __name__ == "__main__":
    main()
