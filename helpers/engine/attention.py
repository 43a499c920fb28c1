"""Causal attention without a mask, where torch.compile would build one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "sdpa_causal"


@contextmanager
def causal_without_mask(model: "PreTrainedModel", wanted: bool = True) -> Iterator[None]:
    """While it lasts, each token attends to all tokens before it in its row, with no mask.

    In a model that is compiled, transformers builds a mask for every batch, since it may not look
    at `position_ids` then; with a mask, PyTorch takes none of its fast kernels. Only for rows
    without padding on the left in which documents are not kept apart. Models with another
    attention than `sdpa` are left alone.
    """
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    config = model.config.get_text_config()
    before = config._attn_implementation
    if not wanted or before != "sdpa":
        yield
        return
    # no mask is built for a kind of attention that has no function for it
    AttentionInterface.register(NAME, sdpa_attention_forward)
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
