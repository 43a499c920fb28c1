"""Blocks to batches: padding known by its place, labels that teach where a text ends."""

from typing import TYPE_CHECKING

from helpers.engine.blocks import IGNORED
from helpers.errors import ParameterError

if TYPE_CHECKING:
    import torch


def collate(blocks: list[dict[str, list[int]]]) -> dict[str, "torch.Tensor"]:
    """Make a batch of blocks, padded on the right, where causal attention does not look.

    Padding is known by its place: no label is ignored because of which token it is, so that the
    model learns to end its texts. The first token of a document in its block is ignored too, since
    nothing precedes it. There is no `attention_mask`: with one, transformers would silently let
    documents see each other.

    Args:
        blocks: Blocks made by `helpers.chunking.chunk`; other columns are left out.

    Returns:
        `input_ids`, `labels` and, if the blocks have them, `position_ids`: (blocks, longest block),
        int64 each. Labels that are not scored are -100.

    >>> batch = collate([{"input_ids": [5, 6, 0, 7], "position_ids": [0, 1, 2, 0]}])
    >>> batch["labels"].tolist()
    [[-100, 6, 0, -100]]
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
            values = block.get(name, block["input_ids"])
            batch[name][row, :length] = torch.as_tensor(values)
        if "position_ids" in batch:
            batch["labels"][row, :length][batch["position_ids"][row, :length] == 0] = IGNORED
    return batch


def check_block_size(block_size: int, context: int) -> None:
    """ParameterError if blocks would be longer than the model's context length (tokens)."""
    if block_size > context:
        needed = f"the model attends to at most {context:,} tokens, choose 2 to {context:,}"
        raise ParameterError("block_size", block_size, needed)
