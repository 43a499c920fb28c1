"""Token ids to blocks for training, with an account of every token.

Arrow keeps the ids of all documents end to end in one buffer; a block is a pair of offsets into it. So nothing is
concatenated in Python, and no token is looked at one by one.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from helpers.errors import DataError, ParameterError

if TYPE_CHECKING:
    import torch
    from datasets import Dataset, DatasetDict

STRATEGIES = ("concat", "document")
IGNORED = -100  # the label that PyTorch's cross-entropy leaves out


@dataclass(frozen=True)
class Account:
    """Where every token went: `tokens_in + separators == tokens_kept + tokens_dropped`, always.

    A block of a single token would have nothing to predict; such a token is dropped. `tokens_scored` are the
    targets of the loss: the first token of a document in its block has nothing before it and is not one.
    """

    documents: int
    tokens_in: int
    separators: int
    tokens_kept: int
    tokens_dropped: int
    tokens_scored: int
    blocks: int
    full_blocks: int
    documents_cut: int
    places_filled: float


def chunk(
    tokenized: "DatasetDict", block_size: int, eos_token_id: int, strategy: str = "concat"
) -> tuple["DatasetDict", dict[str, Account]]:
    """Blocks of at most `block_size` tokens for each split, and the account of each.

    An end-of-text token is put after every document. `concat` lays the documents end to end and cuts every `block_size`
    tokens, so that all blocks but the last are full; `document` starts a new block at each document, so that none is mixed.
    What is left over becomes a shorter block; nothing is dropped but single tokens.

    A block has `input_ids` and `position_ids`, which start again at 0 with each document: from them transformers builds the mask that
    keeps attention inside a document, as long as there is no `attention_mask` and no cache.

    Raises ParameterError for a bad `block_size` or `strategy`, DataError where no block comes out.
    """
    from datasets import DatasetDict

    if type(block_size) is not int or block_size < 2:
        raise ParameterError(
            "block_size", block_size, "it must be a whole number of at least 2, one token to see and one to predict"
        )
    if strategy not in STRATEGIES:
        raise ParameterError("strategy", strategy, "it must be one of " + ", ".join(map(repr, STRATEGIES)))
    done = {name: _chunk_split(name, part, block_size, eos_token_id, strategy) for name, part in tokenized.items()}
    return DatasetDict({name: blocks for name, (blocks, _) in done.items()}), {name: a for name, (_, a) in done.items()}


def _chunk_split(
    name: str, tokenized: "Dataset", block_size: int, eos: int, strategy: str
) -> tuple["Dataset", Account]:
    import pyarrow as pa
    from datasets import Dataset

    values, lengths = _buffers(tokenized)
    ends = np.cumsum(lengths + 1)  # of the documents with their separators
    starts = ends - lengths - 1
    stream = np.full(int(ends[-1]) if len(ends) else 0, eos, np.int32)
    within = np.ones(len(stream), bool)
    within[ends - 1] = False
    stream[within] = values
    if strategy == "concat":
        cuts = np.arange(0, len(stream), block_size)
    else:
        pieces = -(-(lengths + 1) // block_size)
        first = np.repeat(np.cumsum(pieces) - pieces, pieces)
        cuts = np.repeat(starts, pieces) + (np.arange(pieces.sum()) - first) * block_size
    sizes = np.diff(np.append(cuts, len(stream)))
    resets = np.union1d(starts, cuts)
    positions = np.arange(len(stream), dtype=np.int32)
    positions -= np.repeat(resets, np.diff(np.append(resets, len(stream)))).astype(np.int32)
    single = sizes == 1
    keep = ~np.repeat(single, sizes)
    blocks, kept = sizes[~single], int(keep.sum())
    if not len(blocks):
        raise DataError(
            f"The {name} split has {len(lengths):,} documents with {len(values):,} tokens: not one block of at least 2 tokens, use more text."
        )
    if strategy == "concat" and len(stream) < block_size:
        raise ParameterError(
            "block_size",
            block_size,
            f"the {name} split has only {len(stream):,} tokens, fewer than one block, use a smaller one or more text",
        )
    offsets = pa.array(np.concatenate([[0], np.cumsum(blocks)]))
    columns = {
        "input_ids": pa.LargeListArray.from_arrays(offsets, pa.array(stream[keep])),
        "position_ids": pa.LargeListArray.from_arrays(offsets, pa.array(positions[keep])),
    }
    account = Account(
        documents=len(lengths),
        tokens_in=len(values),
        separators=len(lengths),
        tokens_kept=kept,
        tokens_dropped=len(stream) - kept,
        tokens_scored=int(np.count_nonzero(positions[keep])),
        blocks=len(blocks),
        full_blocks=int(np.count_nonzero(blocks == block_size)),
        documents_cut=int(
            np.count_nonzero(np.searchsorted(cuts, ends, "left") - np.searchsorted(cuts, starts, "right") > 0)
        ),
        places_filled=kept / (len(blocks) * block_size),
    )
    return Dataset(pa.table(columns)), account


def _buffers(tokenized: "Dataset") -> tuple[np.ndarray, np.ndarray]:
    """The ids of all documents end to end, and the length of each."""
    column = tokenized.with_format("arrow")[:]["input_ids"]
    parts = [chunk for chunk in column.chunks if len(chunk)]
    if not parts:
        return np.zeros(0, np.int32), np.zeros(0, np.int64)
    values = np.concatenate([part.flatten().to_numpy(zero_copy_only=False) for part in parts])
    lengths = np.concatenate([part.value_lengths().to_numpy(zero_copy_only=False) for part in parts])
    return values.astype(np.int32, copy=False), lengths.astype(np.int64)


def totals(accounts: dict[str, Account]) -> dict[str, int]:
    """The numbers of a run: tokens in (separators among them), kept and dropped over all splits, blocks of each."""
    every = [asdict(a) for a in accounts.values()]
    return {
        "tokens_in": sum(a["tokens_in"] + a["separators"] for a in every),
        "tokens_kept": sum(a["tokens_kept"] for a in every),
        "tokens_dropped": sum(a["tokens_dropped"] for a in every),
    } | {f"blocks_{name}": account.blocks for name, account in accounts.items()}


def collate(blocks: list[dict[str, list[int]]]) -> dict[str, "torch.Tensor"]:
    """A batch of blocks: `input_ids`, `position_ids` and `labels`, each (blocks, longest block), int64.

    Shorter blocks are padded on the right, where causal attention does not look, and padding is known by its place: a
    label is never ignored because of which token it is, so that the model is taught to end its texts. Also ignored is the first
    token of a document in its block, which has nothing before it.
    """
    import torch

    width = max(len(block["input_ids"]) for block in blocks)
    batch = {
        "input_ids": torch.zeros(len(blocks), width, dtype=torch.int64),
        "position_ids": torch.zeros(len(blocks), width, dtype=torch.int64),
        "labels": torch.full((len(blocks), width), IGNORED, dtype=torch.int64),
    }
    for row, block in enumerate(blocks):
        ids, positions = torch.as_tensor(block["input_ids"]), torch.as_tensor(block["position_ids"])
        batch["input_ids"][row, : len(ids)] = ids
        batch["position_ids"][row, : len(ids)] = positions
        batch["labels"][row, : len(ids)] = torch.where(positions == 0, IGNORED, ids)
    return batch


def check_block_size(block_size: int, context: int) -> None:
    """ParameterError if blocks would be longer than the model's context length (tokens)."""
    if block_size > context:
        raise ParameterError(
            "block_size", block_size, f"the model attends to at most {context:,} tokens, choose 2 to {context:,}"
        )
