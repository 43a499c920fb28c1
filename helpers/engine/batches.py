"""Losses of many windows, computed in batches as large as memory allows."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from helpers.engine.memory import tokens_at_once
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
    allows it.
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
        yield chosen, losses
        order = order[len(chosen) :]
