"""Windows into many documents, cut with arithmetic on whole arrays."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from helpers.engine.blocks import IGNORED
from helpers.errors import ModelError

if TYPE_CHECKING:
    import torch
    from datasets import Dataset


@dataclass(frozen=True)
class Windows:
    """What to score: windows into one long row of tokens.

    Window w contains the tokens `first[w]` to `end[w]`. Those from `start[w]` on are scored, each
    given the tokens before it in the window.

    Attributes:
        ids: All tokens: (tokens,).
        first, start, end: Places in `ids`: (windows,) each.
        owners: The number of the document or block that each window belongs to: (windows,).
        unit: What the owners are, `document` or `block`, for messages.
        ignored: Tokens that are context only: (tokens,), bool.
    """

    ids: np.ndarray
    first: np.ndarray
    start: np.ndarray
    end: np.ndarray
    owners: np.ndarray
    unit: str = "document"
    ignored: np.ndarray | None = None

    def check_vocabulary(self, size: int) -> None:
        """ModelError for a token that a model with a vocabulary of this size does not know."""
        if len(self.ids) and (largest := int(self.ids.max())) >= size:
            owner = self.owners[np.flatnonzero(self.first <= np.argmax(self.ids))[-1]]
            raise ModelError(
                f"{self.unit.capitalize()} {owner} has token {largest}, and the model knows 0 to "
                f"{size - 1}: resize its embeddings (resize_token_embeddings) or use its own "
                "tokenizer."
            )

    def batch(self, chosen: np.ndarray) -> tuple["torch.Tensor", "torch.Tensor"]:
        """The model's inputs for some windows, and the targets: (windows, longest), int64 each.

        Both are padded on the right; targets that are not scored are -100.
        """
        import torch

        shape = (len(chosen), int((self.end - self.first)[chosen].max()) - 1)
        inputs, targets = torch.zeros(shape, dtype=torch.int64), torch.full(shape, IGNORED)
        for row, w in enumerate(chosen):
            first, start, end = self.first[w], self.start[w], self.end[w]
            ids = self.ids[first:end].astype(np.int64)
            inputs[row, : len(ids) - 1] = torch.from_numpy(ids[:-1])
            if self.ignored is not None:
                ids[self.ignored[first:end]] = IGNORED
            targets[row, start - first - 1 : len(ids) - 1] = torch.from_numpy(ids[start - first :])
        return inputs, targets

    def fingerprint(self, scored: np.ndarray, lengths: np.ndarray, texts: Sequence[str]) -> str:
        """A hash of all tokens, of which are `scored`, of the documents' lengths, and of texts."""
        hashed = self.ids.tobytes() + scored.tobytes() + lengths.tobytes()
        digest = hashlib.blake2b(hashed, digest_size=16)
        for text in texts:
            digest.update(text.encode() + b"\0")
        return digest.hexdigest()


def rolling_windows(
    documents: Sequence[Sequence[int]], prefix: int, context: int
) -> tuple[Windows, np.ndarray]:
    """Windows for `helpers.perplexity.score_documents`, and the documents' lengths with prefix."""
    lengths = _lengths(documents)
    ids = _joined([part for document in documents for part in ([prefix], document)])
    begins = np.cumsum(lengths + 1) - lengths - 1  # the place of each document's prefix
    owners, start = _pieces(lengths, context)
    start += 1
    end = np.minimum(start + context, lengths[owners] + 1)
    first = np.maximum(0, end - context - 1)
    places = (begins[owners] + n for n in (first, start, end))
    return Windows(ids, *places, owners), lengths + 1


def strided_windows(
    documents: Sequence[Sequence[int]], stride: int, context: int
) -> tuple[Windows, np.ndarray]:
    """Windows for `helpers.perplexity.score_stride`, and the documents' lengths."""
    lengths = _lengths(documents)
    begins = np.cumsum(lengths) - lengths
    covered = np.where(lengths > context, lengths - context + stride, np.minimum(lengths, 1))
    owners, first = _pieces(covered, stride)
    end = np.minimum(first + context, lengths[owners])
    start = np.maximum(first + 1, np.where(first > 0, first + context - stride, 0))
    places = (begins[owners] + n for n in (first, start, end))
    return Windows(_joined(documents), *places, owners), lengths


def block_windows(blocks: "Dataset") -> tuple[Windows, np.ndarray]:
    """A window for each document in each block, and the blocks' lengths."""
    import pyarrow.compute as pc

    table = blocks.with_format("arrow")
    columns = {
        name: pc.list_flatten(table[name][:]).to_numpy()
        for name in ("input_ids", "position_ids", "labels")
        if name in blocks.column_names
    }
    lengths = pc.list_value_length(table["input_ids"][:]).to_numpy().astype(np.int64)
    begins, ids = np.zeros(lengths.sum(), bool), columns["input_ids"]
    begins[(np.cumsum(lengths) - lengths)[lengths > 0]] = True
    begins |= columns.get("position_ids", np.ones(1, np.int64)) == 0
    first = np.flatnonzero(begins)
    owners = np.repeat(np.arange(len(lengths)), lengths)[first]
    ignored = columns["labels"] == IGNORED if "labels" in columns else None
    end = np.append(first[1:], len(ids))
    return Windows(ids, first, first + 1, end, owners, "block", ignored), lengths


def _lengths(documents: Sequence[Sequence[int]]) -> np.ndarray:
    return np.array([len(ids) for ids in documents], np.int64)


def _joined(rows: Sequence[Sequence[int]]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int32), *(np.asarray(row, np.int32) for row in rows)])


def _pieces(lengths: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """The document of each piece of `step` tokens, and where in the document it starts."""
    counts = -(-lengths // step)
    owners = np.repeat(np.arange(len(lengths)), counts)
    return owners, (np.arange(len(owners)) - (np.cumsum(counts) - counts)[owners]) * step
