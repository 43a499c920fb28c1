"""Scores on disk, filled bit by bit, that survive an interruption."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from helpers.engine.files import flush, move

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def unfinished_array(
    folder: Path | None,
    size: int,
    model: "PreTrainedModel",
    dtype: str,
    inputs: list[np.ndarray | None],
) -> np.ndarray:
    """An array of NaN to write results to: (size,), float32.

    With a `folder`, it lies in a file there, which holds the results of an earlier attempt with the
    same model, `dtype` and `inputs`.
    """
    if folder is None:
        return np.full(size, np.nan, np.float32)
    path = folder / f"{_digest(model, dtype, inputs)}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        with new.open("wb") as file:
            np.save(file, np.full(size, np.nan, np.float32))
        flush(new)  # complete and on the disk before it gets its name
        move(new, path)
    return np.lib.format.open_memmap(path, "r+")


def _digest(model: "PreTrainedModel", dtype: str, inputs: list[np.ndarray | None]) -> str:
    """A hash of a model's configuration and weights, a precision, and arrays."""
    import torch

    digest = hashlib.blake2b(f"{dtype} {model.config.to_json_string()}".encode(), digest_size=16)
    for name, weight in model.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    for array in inputs:
        digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
