"""The negative log likelihood of each token under a model.

Windows of many documents are sorted by length and scored together, see `helpers.engine.batches`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from helpers.engine.batches import losses_in_batches
from helpers.engine.memory import keep_memory
from helpers.engine.progress import progress
from helpers.engine.resume import unfinished_array
from helpers.engine.windows import Windows
from helpers.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def token_nats(
    model: "PreTrainedModel",
    windows: Windows,
    compute_dtype: str = "float32",
    resume: Path | None = None,
) -> np.ndarray:
    """The negative log likelihood of each token.

    Args:
        compute_dtype: `float32` or `bfloat16`, for the model; the loss is float32 in either case.
        resume: A folder that keeps the nats scored so far, so that an interrupted call can be
            repeated; those of another model, precision or text are not used.

    Returns:
        Nats, NaN where a token is not scored: (tokens,), float32.

    Raises:
        ModelError: for a token that is not in the model's vocabulary, a loss that is not a number,
            or a window that does not fit into memory.
        DataError: if there is nothing to score.
    """
    _check_vocabulary(model, windows)
    arrays = [windows.ids, windows.first, windows.start, windows.end, windows.ignored]
    nats = unfinished_array(resume, len(windows.ids), model, compute_dtype, arrays)
    width, scored = windows.end - windows.first, windows.end - windows.start
    left = np.flatnonzero(np.isnan(nats[windows.end - 1]) & (scored > 0))
    left = left[np.argsort(-width[left], kind="stable")]
    training = model.training
    model.eval()
    keep_memory()
    # during a training, `forward` is replaced by one with a tiled loss, always in bfloat16
    replaced = model.__dict__.pop("forward", None)
    try:
        with progress(int(scored.sum()), "tokens") as bar:
            bar.resume(int(scored.sum() - scored[left].sum()))
            for chosen, losses in losses_in_batches(model, windows, left, compute_dtype):
                for w, row in zip(chosen, losses, strict=True):
                    loss = row[width[w] - scored[w] - 1 : width[w] - 1]
                    _check_finite(loss, windows, w)
                    nats[windows.start[w] : windows.end[w]] = loss
                bar.advance(int(scored[chosen].sum()))
    finally:
        model.train(training)
        if replaced is not None:
            model.forward = replaced
    nats = np.array(nats)
    if windows.ignored is not None:
        nats[windows.ignored] = np.nan
    if np.isnan(nats).all():
        raise DataError("There is not one token to score: the texts are empty.")
    return nats


def _check_vocabulary(model: "PreTrainedModel", windows: Windows) -> None:
    size = model.config.get_text_config().vocab_size
    if len(windows.ids) and (largest := int(windows.ids.max())) >= size:
        owner = windows.owners[np.flatnonzero(windows.first <= np.argmax(windows.ids))[-1]]
        raise ModelError(
            f"{windows.unit.capitalize()} {owner} has token {largest}, and the model knows 0 to "
            f"{size - 1}: resize its embeddings (resize_token_embeddings) or use its own tokenizer."
        )


def _check_finite(loss: np.ndarray, windows: Windows, w: int) -> None:
    if not np.isfinite(loss).all():
        raise ModelError(
            f"The model gives {windows.unit} {windows.owners[w]} a loss of "
            f"{loss[~np.isfinite(loss)][0]}: its perplexity is not a number."
        )
