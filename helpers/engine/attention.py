"""Causal attention without a mask, where torch.compile would build one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "sdpa_causal"


@contextmanager
def causal_without_mask(model: "PreTrainedModel", length: int) -> Iterator[None]:
    """While it lasts, each token attends to all tokens before it in its row, with no mask.

    In a model that is compiled, transformers builds a mask for every batch, since it may not look
    at `position_ids` then; with a mask, PyTorch takes none of its fast kernels. Only for rows
    without padding on the left in which documents are not kept apart. A model is left alone whose
    logits for a row of `length` tokens change, as with sliding windows, or whose attention is of
    another kind than `sdpa`.
    """
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    config = model.config.get_text_config()
    before = config._attn_implementation
    # no mask is built for a kind of attention that has no function for it
    AttentionInterface.register(NAME, sdpa_attention_forward)
    try:
        if before == "sdpa" and _same_logits(model, config, length):
            config._attn_implementation = NAME
        yield
    finally:
        config._attn_implementation = before


def _same_logits(model: "PreTrainedModel", config: object, length: int) -> bool:
    """Whether a row gets the same logits with both kinds of attention."""
    import torch

    ids = (torch.arange(length, device=model.device) % config.vocab_size)[None]
    found, training = [], model.training
    model.eval()
    try:
        for kind in ("sdpa", NAME):
            config._attn_implementation = kind
            with torch.inference_mode():
                found.append(model(input_ids=ids, use_cache=False).logits.float())
    except Exception:  # of a model that looks at the name
        return False
    finally:
        config._attn_implementation = "sdpa"
        model.train(training)
    return torch.allclose(*found, rtol=1e-2, atol=1e-3 * float(found[0].abs().max()))
