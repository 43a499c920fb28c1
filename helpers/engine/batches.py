"""Losses of many windows, computed in batches as large as memory allows."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from helpers.engine.memory import keep_memory, tokens_at_once
from helpers.engine.windows import Windows
from helpers.errors import ModelError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def losses_in_batches(
    model: "PreTrainedModel", windows: Windows, order: np.ndarray, compute_dtype: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Windows in the given order, longest first, and the losses at their positions.

    A batch that does not fit into memory is halved. Logits are computed tile by tile if the model
    allows it. Raises ModelError for a loss that is not a number, or a window too large for memory.
    """
    import torch
    from accelerate.utils.memory import should_reduce_batch_size

    from helpers.engine.tiled_loss import full_losses, sliceable, tiled_losses

    if not len(order):
        return

    def autocast() -> "torch.autocast":
        bfloat16 = compute_dtype == "bfloat16"
        return torch.autocast(model.device.type, torch.bfloat16, enabled=bfloat16)

    width = windows.end - windows.first
    with torch.inference_mode(), autocast():
        tiled = sliceable(model, windows.batch(order[:1])[0])
    budget = tokens_at_once(model, int(width[order[0]]), tiled)
    while len(order):
        longest = int(width[order[0]])
        chosen = order[: max(1, budget // longest)]
        try:
            with torch.inference_mode(), autocast():
                losses_of = tiled_losses if tiled else full_losses
                losses = losses_of(model, *windows.batch(chosen)).cpu().numpy()
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            if len(chosen) == 1:
                message = f"A window of {longest} tokens does not fit into memory."
                raise ModelError(message) from None
            budget = len(chosen) // 2 * longest
            continue
        finite = np.isfinite(losses)
        if not finite.all():
            row = int(np.argmin(finite.all(axis=1)))
            raise ModelError(
                f"The model gives {windows.unit} {windows.owners[chosen[row]]} a loss of "
                f"{losses[row][~finite[row]][0]}: its perplexity is not a number."
            )
        yield chosen, losses
        order = order[len(chosen) :]


@contextmanager
def ready_to_score(model: "PreTrainedModel") -> Iterator[None]:
    """A model without dropout, and with its own `forward`; both are restored afterwards.

    A training replaces `forward` by one with a tiled loss, always in bfloat16.
    """
    training, replaced = model.training, model.__dict__.pop("forward", None)
    model.eval()
    keep_memory()
    try:
        yield
    finally:
        model.train(training)
        if replaced is not None:
            model.forward = replaced
