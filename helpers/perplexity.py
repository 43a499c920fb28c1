"""Perplexity by three definitions, with bootstrap intervals.

Nats are summed in float64, tokens counted, and divided once.
Three ways to cut a text into windows are in use, and their numbers differ: `score_documents` is the
rolling log likelihood of lm-evaluation-harness, `score_stride` the overlapping windows of the
documentation of transformers, `score_blocks` the evaluation loss of the guide.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from helpers.engine.windows import Windows, block_windows, rolling_windows, strided_windows
from helpers.errors import DataError, ModelError, ParameterError
from helpers.models import context_length
from helpers.scoring import token_nats

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Score:
    """The nats of some texts under a model, document by document (or block by block).

    Attributes:
        definition, context, stride, first_token: How windows were cut; lengths in tokens.
        token_nats: The negative log likelihood of each scored token, one document after another:
            (tokens,), float32.
        tokens: The number of scored tokens of each document: (documents,).
        bytes, words: The size of each document's text, 0 for blocks, which have none: (documents,).
        text: A hash of what was scored.

    >>> half = np.full(4, np.log(2), np.float32)  # four tokens of probability 1/2
    >>> counts = [np.array([n]) for n in (4, 8, 2)]
    >>> score = Score("rolling", 32, 32, "after the prefix", half, *counts, text="")
    >>> round(score.perplexity, 3), round(score.bits_per_byte, 3), round(score.word_perplexity, 3)
    (2.0, 0.5, 4.0)
    """

    definition: str
    context: int
    stride: int
    first_token: str
    token_nats: np.ndarray
    tokens: np.ndarray
    bytes: np.ndarray
    words: np.ndarray
    text: str

    @property
    def nats(self) -> np.ndarray:
        """The nats of each document: (documents,), float64."""
        nats, some = np.zeros(len(self.tokens)), self.tokens > 0
        starts = (np.cumsum(self.tokens) - self.tokens)[some]
        nats[some] = np.add.reduceat(self.token_nats, starts, dtype=np.float64)
        return nats

    @property
    def loss(self) -> float:
        """Mean negative log likelihood, in nats per token."""
        return float(self.nats.sum() / self.tokens.sum())

    @property
    def perplexity(self) -> float:
        """exp(loss): the model is as uncertain as among this many equally likely tokens."""
        return _exp(self.loss)

    def document(self, number: int) -> np.ndarray:
        """The nats of the tokens of one document."""
        end = int(self.tokens[: number + 1].sum())
        return self.token_nats[end - int(self.tokens[number]) : end]

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of UTF-8 text, NaN without text: comparable across tokenizers."""
        bits = float(self.nats.sum() / math.log(2))
        return bits / float(self.bytes.sum()) if self.bytes.any() else math.nan

    @property
    def word_perplexity(self) -> float:
        """exp(nats per word), NaN without words; words are separated by white space."""
        return _exp(float(self.nats.sum() / self.words.sum())) if self.words.any() else math.nan

    @property
    def document_perplexities(self) -> np.ndarray:
        """The perplexity of each document, NaN without tokens: (documents,), float64."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.exp(self.nats / self.tokens)


def _exp(nats: float) -> float:
    """exp, infinite where float64 overflows."""
    return math.inf if nats >= 709 else math.exp(nats)


def score_documents(
    model: "PreTrainedModel",
    documents: Sequence[Sequence[int]],
    texts: Sequence[str],
    prefix: int,
    compute_dtype: str = "float32",
    resume: Path | None = None,
) -> Score:
    """Score each token of each document once, in windows as long as the model's context.

    The first token of a document is predicted from `prefix`, that of a later window from the token
    before it. The last window, which is shorter, is extended to the left as far as the context
    allows. This is the rolling log likelihood of lm-evaluation-harness.

    Args:
        documents: The token ids of each document.
        texts: The same documents as text.
        prefix: The token put before each document, see `helpers.models.prefix_token`.
        compute_dtype, resume: As for `helpers.scoring.token_nats`, and so are the errors.

    Raises:
        DataError: if documents and texts differ in number.
    """
    _check_pairs(documents, texts)
    context = context_length(model)
    windows, lengths = rolling_windows(documents, prefix, context)
    nats = token_nats(model, windows, compute_dtype, resume)
    definition = ("rolling", context, context, "after the prefix")
    return _score(definition, windows, nats, lengths, texts)


def score_stride(
    model: "PreTrainedModel",
    documents: Sequence[Sequence[int]],
    texts: Sequence[str],
    stride: int,
    context: int | None = None,
    compute_dtype: str = "float32",
    resume: Path | None = None,
) -> Score:
    """Score windows of `context` tokens, one every `stride` tokens, each token in the first window.

    This is the loop of transformers' documentation ("Perplexity of fixed-length models"): the first
    token of a text is not scored, nor that of any window if the stride is the context. But all
    scored tokens are counted; the loop counts one too few in each overlapping window.

    Args:
        context: Tokens per window, None for the model's context length.
        documents, texts, compute_dtype, resume: As for `score_documents`, and so are the errors.

    Raises:
        ParameterError: for a context beyond the model's, or a stride that leaves gaps.
    """
    _check_pairs(documents, texts)
    longest = context_length(model)
    context = longest if context is None else context
    if not 2 <= context <= longest:
        needed = f"it must lie between 2 and the model's {longest:,}"
        raise ParameterError("context", context, needed)
    if not 1 <= stride <= context:
        needed = f"it must lie between 1 and the context of {context:,} tokens"
        raise ParameterError("stride", stride, needed)
    windows, lengths = strided_windows(documents, stride, context)
    nats = token_nats(model, windows, compute_dtype, resume)
    return _score(("stride", context, stride, "not scored"), windows, nats, lengths, texts)


def score_blocks(
    model: "PreTrainedModel",
    blocks: "Dataset",
    compute_dtype: str = "float32",
    resume: Path | None = None,
) -> Score:
    """Score blocks as the model is trained on them: the targets of the loss, each token alike.

    Each document in a block is a window by itself, which starts where `position_ids` do. exp(loss)
    is the guide's `exp(eval_loss)`, which is right only if all blocks have as many targets.

    `compute_dtype`, `resume` and the errors are those of `helpers.scoring.token_nats`.
    """
    windows, lengths = block_windows(blocks)
    nats = token_nats(model, windows, compute_dtype, resume)
    size = int(lengths.max())
    return _score(("blocks", size, size, "not scored"), windows, nats, lengths, [""] * len(lengths))


def _check_pairs(documents: Sequence[Sequence[int]], texts: Sequence[str]) -> None:
    if len(texts) != len(documents):
        counts = f"{len(documents)} documents of tokens and {len(texts)} texts"
        raise DataError(f"There are {counts}: they must be the same.")


def _score(
    definition: tuple[str, int, int, str],
    windows: Windows,
    nats: np.ndarray,
    lengths: np.ndarray,
    texts: Sequence[str],
) -> Score:
    """A Score from the nats of adjacent documents, `lengths` tokens long."""
    scored = ~np.isnan(nats)
    before, ends = np.concatenate([[0], np.cumsum(scored)]), np.cumsum(lengths)
    return Score(
        *definition,
        token_nats=nats[scored],
        tokens=before[ends] - before[ends - lengths],
        bytes=np.array([len(t.encode()) for t in texts]),
        words=np.array([len(t.split()) for t in texts]),
        text=windows.fingerprint(scored, lengths, texts),
    )


def bootstrap(
    nats: np.ndarray, tokens: np.ndarray, seed: int = 0, samples: int = 2000
) -> np.ndarray:
    """The losses of samples of documents, drawn with replacement (Efron 1979): (models, samples).

    Each sample draws the same documents for all models, from `nats` (models, documents) and
    `tokens` (documents,). The losses are float64, in nats per token.
    """
    rng, losses = np.random.default_rng(seed), np.empty((len(nats), samples))
    for sample in range(samples):
        drawn = rng.integers(0, len(tokens), len(tokens))
        losses[:, sample] = nats[:, drawn].sum(1) / tokens[drawn].sum()
    return losses


def interval(score: Score, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of a perplexity, by a bootstrap over documents; NaN for less than two."""
    some = score.tokens > 0
    if some.sum() < 2:
        return math.nan, math.nan
    with np.errstate(over="ignore"):
        drawn = np.exp(bootstrap(score.nats[None, some], score.tokens[some], seed))
    return tuple(np.quantile(drawn, [0.025, 0.975]).tolist())


def compare(base: Score, tuned: Score, seed: int = 0, samples: int = 2000) -> dict[str, float]:
    """Fine-tuned against base, with 95 % intervals from a bootstrap over documents.

    The bootstrap is paired: each sample draws the same documents for both.

    Returns:
        Ratio and difference of the perplexities, the ends of their intervals, and the share of
        documents that the fine-tuned model predicts better.

    Raises:
        ModelError: if the scores are not of the same definition, text, tokens and context, or of
            less than two documents.
    """
    for name in ("definition", "context", "stride", "text"):
        one, other = getattr(base, name), getattr(tuned, name)
        if one != other:
            both = f"by {name} {one} and {other}"
            both = "on different texts or tokens" if name == "text" else both
            scored = f"Base and fine-tuned model were scored {both}"
            raise ModelError(f"{scored}: their perplexities cannot be compared.")
    some = base.tokens > 0
    if some.sum() < 2:
        raise ModelError("A comparison with an interval needs two documents or more.")
    losses = bootstrap(np.stack([base.nats, tuned.nats])[:, some], base.tokens[some], seed, samples)
    with np.errstate(over="ignore", invalid="ignore"):
        ratios, differences = np.exp(losses[1] - losses[0]), np.diff(np.exp(losses), axis=0)
        ends = np.quantile([ratios, differences[0]], [0.025, 0.975], axis=1).T.flatten().tolist()
    names = [
        f"perplexity_{name}_{end}" for name in ("ratio", "difference") for end in ("low", "high")
    ]
    return {
        "perplexity_ratio": _exp(tuned.loss - base.loss),
        "perplexity_difference": tuned.perplexity - base.perplexity,
        **dict(zip(names, ends, strict=True)),
        "share_of_documents_better": float((tuned.nats < base.nats)[some].mean()),
    }
