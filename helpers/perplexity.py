"""Perplexity, one definition at a time, from sums in float64: nats are added up, tokens are counted, and divided once."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from helpers.chunking import IGNORED
from helpers.collation import collate
from helpers.errors import DataError, ModelError
from helpers.models import context_length
from helpers.progress import progress

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Score:
    """What a model makes of some texts, document by document (or block by block).

    `nats` (float64) are the negative log likelihoods, `tokens` how many tokens they are of. `bytes` and `words` are those of the
    original text, and 0 where blocks were scored, which have no text of their own.
    """

    nats: np.ndarray
    tokens: np.ndarray
    bytes: int = 0
    words: int = 0

    @property
    def loss(self) -> float:
        """Mean negative log likelihood, in nats a token."""
        return float(self.nats.sum() / self.tokens.sum())

    @property
    def perplexity(self) -> float:
        """exp(loss): among how many equally likely tokens the model is in doubt, as a geometric mean."""
        return _exp(self.loss)

    @property
    def bits_per_byte(self) -> float:
        """Bits for a byte of UTF-8 text: independent of the tokenizer, so that models with different ones compare."""
        return float(self.nats.sum() / math.log(2) / self.bytes)

    @property
    def word_perplexity(self) -> float:
        """exp(nats a word), words being what lies between white space."""
        return _exp(float(self.nats.sum()) / self.words)


def _exp(nats: float) -> float:
    """exp, infinite where a float64 cannot hold it."""
    return math.exp(nats) if nats < 709 else math.inf


def score_documents(
    model: "PreTrainedModel", documents: list[list[int]], texts: list[str], prefix: int, batch_size: int = 16
) -> Score:
    """Each token of each document once, in windows as long as the model's context.

    `documents` are token ids, `texts` the same documents as text. The first token is predicted from `prefix` (the end-of-text token),
    the first token of a later window from the one before it; the last window, which is shorter, sees what came before it as far as
    the context reaches. It is the rolling log likelihood of lm-evaluation-harness.
    """
    context = context_length(model)
    windows, owners = [], []
    for number, ids in enumerate(documents):
        shifted = [prefix, *ids]
        for start in range(0, len(ids), context):
            end = min(start + context, len(ids))
            first = max(0, end - context)  # a last window that is shorter looks back as far as the context allows
            windows.append((shifted[first:end], [IGNORED] * (start - first) + ids[start:end]))
            owners.append(number)
    if not windows:
        raise DataError("There is not one token to score: the documents are empty.")
    nats, tokens = np.zeros(len(documents)), np.zeros(len(documents), np.int64)
    order = sorted(range(len(windows)), key=lambda i: -len(windows[i][1]))
    with progress(sum(map(len, documents)), "tokens") as bar:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            inputs, targets = _pad([windows[i][0] for i in chosen], 0), _pad([windows[i][1] for i in chosen], IGNORED)
            sums = _nats(model, {"input_ids": inputs}, targets)
            for i, value in zip(chosen, sums, strict=True):
                if not math.isfinite(value):
                    raise ModelError(
                        f"The model gives document {owners[i]} a loss of {value}: its perplexity is not a number."
                    )
                nats[owners[i]] += value
            for i, count in zip(chosen, (targets != IGNORED).sum(1).tolist(), strict=True):
                tokens[owners[i]] += count
            bar.advance(int((targets != IGNORED).sum()))
    return Score(nats, tokens, sum(len(t.encode()) for t in texts), sum(len(t.split()) for t in texts))


def score_blocks(model: "PreTrainedModel", blocks: "Dataset", batch_size: int = 16) -> Score:
    """The blocks as the model is trained on them: the targets of the loss, weighted by token.

    exp(loss) of it is the guide's `exp(eval_loss)`, which is right only where all blocks have the same number of targets.
    """
    nats, tokens = [], []
    with progress(len(blocks), "blocks") as bar:
        for start in range(0, len(blocks), batch_size):
            batch = collate([blocks[i] for i in range(start, min(start + batch_size, len(blocks)))])
            targets = batch.pop("labels")[:, 1:]
            sums = _nats(model, batch, targets)
            if not np.isfinite(sums).all():
                raise ModelError(
                    f"The model gives block {start + int(np.argmin(np.isfinite(sums)))} a loss that is not a number."
                )
            nats.append(sums)
            tokens.append((targets != IGNORED).sum(1).numpy())
            bar.advance(len(sums))
    return Score(np.concatenate(nats), np.concatenate(tokens))


def definitions(model: str, rolling: Score, blocks: Score, context: int, block_size: int) -> list[dict[str, object]]:
    """The perplexities of one model as rows of a table, each with what defines it; lengths in tokens, None where it has no meaning."""
    return [
        {
            "model": model,
            "definition": name,
            "first token": first,
            "context": length,
            "stride": length,
            "tokens": int(score.tokens.sum()),
            "perplexity": score.perplexity,
            "bits per byte": score.bits_per_byte if score.bytes else None,
            "perplexity a word": score.word_perplexity if score.words else None,
        }
        for name, first, length, score in (
            ("rolling", "after end-of-text", context, rolling),
            ("blocks", "not scored", block_size, blocks),
        )
    ]


def row_nats(logits: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
    """The summed negative log likelihood of each row's labels: (rows,), float64, in nats.

    `logits` (rows, length, vocabulary) are of the positions that predict `labels` (rows, length); labels of -100 count nothing. Each
    row is brought to float32 by itself, so that a batch's logits are never there twice.
    """
    import torch

    rows = [
        torch.nn.functional.cross_entropy(row.float(), target, ignore_index=IGNORED, reduction="none").double().sum()
        for row, target in zip(logits, labels, strict=True)
    ]
    return torch.stack(rows)


def _nats(model: "PreTrainedModel", batch: dict, targets: "torch.Tensor") -> np.ndarray:
    import torch

    model.eval()
    with torch.inference_mode():
        logits = model(**{k: v.to(model.device) for k, v in batch.items()}, use_cache=False).logits[
            :, : targets.shape[1]
        ]
        return row_nats(logits, targets.to(model.device)).cpu().numpy()


def _pad(rows: list[list[int]], value: int) -> "torch.Tensor":
    import torch

    return torch.nn.utils.rnn.pad_sequence([torch.tensor(r) for r in rows], batch_first=True, padding_value=value)


def compare(base: Score, tuned: Score, seed: int = 0, samples: int = 2000) -> dict[str, float]:
    """Fine-tuned against base on the same documents: the ratio of perplexities with a 95 % interval, and who got better.

    The interval comes from a bootstrap over documents, paired: each sample draws documents, not scores (Efron 1979).
    Raises ModelError where the two were not scored on the same tokens.
    """
    if not np.array_equal(base.tokens, tuned.tokens) or base.bytes != tuned.bytes:
        raise ModelError(
            "Base and fine-tuned model were scored on different tokens: their perplexities cannot be compared."
        )
    scored = base.tokens > 0
    difference, tokens = (tuned.nats - base.nats)[scored], base.tokens[scored]
    drawn = np.random.default_rng(seed).integers(0, len(tokens), (samples, len(tokens)))
    low, high = np.quantile(np.exp(difference[drawn].sum(1) / tokens[drawn].sum(1)), [0.025, 0.975])
    return {
        "perplexity_ratio": math.exp(difference.sum() / tokens.sum()),
        "perplexity_ratio_low": float(low),
        "perplexity_ratio_high": float(high),
        "share_of_documents_better": float((difference < 0).mean()),
    }
