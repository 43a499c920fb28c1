"""Blocks to batches: padding known by its place, labels that teach where a text ends."""

from typing import TYPE_CHECKING

from helpers.engine.blocks import IGNORED
from helpers.errors import ParameterError

if TYPE_CHECKING:
    import torch


def collate(blocks: list[dict[str, list[int]]]) -> dict[str, "torch.Tensor"]:
    """A batch of blocks: `input_ids`, `labels` and, where the blocks have them, `position_ids`; each (blocks, longest block), int64.

    Shorter blocks are padded on the right, where causal attention does not look, and padding is known by its place: a
    label is never ignored because of which token it is, so that the model is taught to end its texts. Also ignored is the first
    token of a document in its block, which has nothing before it. Whatever else a block has is left out: with an
    `attention_mask`, transformers would let documents see each other, and not say so.
    """
    import torch

    shape = (len(blocks), max(len(block["input_ids"]) for block in blocks))
    batch = {"input_ids": torch.zeros(shape, dtype=torch.int64)}
    if "position_ids" in blocks[0]:
        batch["position_ids"] = torch.zeros(shape, dtype=torch.int64)
    batch["labels"] = torch.full(shape, IGNORED, dtype=torch.int64)
    for row, block in enumerate(blocks):
        length = len(block["input_ids"])
        for name in batch:
            batch[name][row, :length] = torch.as_tensor(
                block[name] if name in block else block["input_ids"]
            )
        if "position_ids" in batch:
            batch["labels"][row, :length][batch["position_ids"][row, :length] == 0] = IGNORED
    return batch


def check_block_size(block_size: int, context: int) -> None:
    """ParameterError if blocks would be longer than the model's context length (tokens)."""
    if block_size > context:
        raise ParameterError(
            "block_size",
            block_size,
            f"the model attends to at most {context:,} tokens, choose 2 to {context:,}",
        )
