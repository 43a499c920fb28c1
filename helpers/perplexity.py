"""Perplexity, one definition at a time, from sums in float64: nats are added up, tokens are counted, and divided once.

Three ways to cut a text into windows are in use, and their numbers differ: `score_documents` is the rolling log likelihood of
lm-evaluation-harness, `score_stride` the overlapping windows of the documentation of transformers, `score_blocks` the evaluation loss
of the guide. A `Score` says which of them it is.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from helpers.chunking import IGNORED
from helpers.errors import DataError, ModelError, ParameterError
from helpers.models import context_length
from helpers.scoring import Windows, token_nats

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Score:
    """What a model makes of some texts, document by document (or block by block).

    `definition`, `context`, `stride` (tokens) and `first_token` say how the windows were cut. `token_nats` (float32) are the negative log
    likelihoods of all tokens that were scored, one document after another, and `tokens` how many each document has of them.
    `bytes` and `words` are those of each document's text, 0 where blocks were scored, which have no text of their own.
    `text` is a hash of what was scored.
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
        """Mean negative log likelihood, in nats a token."""
        return float(self.nats.sum() / self.tokens.sum())

    @property
    def perplexity(self) -> float:
        """exp(loss): among how many equally likely tokens the model is in doubt, as a geometric mean."""
        return _exp(self.loss)

    def document(self, number: int) -> np.ndarray:
        """The nats of the tokens of one document."""
        end = int(self.tokens[: number + 1].sum())
        return self.token_nats[end - int(self.tokens[number]) : end]

    @property
    def bits_per_byte(self) -> float:
        """Bits for a byte of UTF-8 text, NaN without text: independent of the tokenizer, so that models with different ones compare."""
        return (
            float(self.nats.sum() / math.log(2) / self.bytes.sum())
            if self.bytes.any()
            else math.nan
        )

    @property
    def word_perplexity(self) -> float:
        """exp(nats a word), NaN without words, words being what lies between white space."""
        return _exp(float(self.nats.sum() / self.words.sum())) if self.words.any() else math.nan

    @property
    def document_perplexities(self) -> np.ndarray:
        """The perplexity of each document, NaN where it has no token: (documents,), float64."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.exp(self.nats / self.tokens)


def _exp(nats: float) -> float:
    """exp, infinite where a float64 cannot hold it."""
    return math.inf if nats >= 709 else math.exp(nats)


def score_documents(
    model: "PreTrainedModel",
    documents: Sequence[Sequence[int]],
    texts: Sequence[str],
    prefix: int,
    compute_dtype: str = "float32",
    resume: Path | None = None,
) -> Score:
    """Each token of each document once, in windows as long as the model's context.

    `documents` are token ids, `texts` the same documents as text. The first token is predicted from `prefix` (see `prefix_token`), the
    first token of a later window from the one before it; the last window, which is shorter, sees what came before it as far as
    the context reaches. It is the rolling log likelihood of lm-evaluation-harness for tokens without added ones. `compute_dtype` and `resume` are those of
    `token_nats`, and so are the errors.
    """
    _check_pairs(documents, texts)
    context = context_length(model)
    lengths = np.array([len(ids) for ids in documents], np.int64)
    ids = _flat([part for document in documents for part in ([prefix], document)])
    before = np.cumsum(lengths + 1) - lengths - 1  # where the prefix of each document stands
    owners, start = _cut(lengths, context)
    start += 1
    end = np.minimum(start + context, lengths[owners] + 1)
    windows = Windows(
        ids, *(before[owners] + n for n in (np.maximum(0, end - context - 1), start, end)), owners
    )
    nats = token_nats(model, windows, compute_dtype, resume)
    return _score(
        ("rolling", context, context, "after the prefix"), windows, nats, lengths + 1, texts
    )


def score_stride(
    model: "PreTrainedModel",
    documents: Sequence[Sequence[int]],
    texts: Sequence[str],
    stride: int,
    context: int | None = None,
    compute_dtype: str = "float32",
    resume: Path | None = None,
) -> Score:
    """Windows of `context` tokens (None: the model's own), one every `stride` tokens, each scoring what no window before it has scored.

    It is the loop of transformers' documentation ("Perplexity of fixed-length models"), where nothing stands before a
    text and its first token is not scored, nor the first of any window if the stride is the context; but the tokens are counted
    that were scored, where the loop counts one too few in each window that overlaps. Bytes and words are those of the whole text. Parameters and errors are those of `score_documents`; ParameterError for a stride that leaves gaps.
    """
    _check_pairs(documents, texts)
    context = context_length(model) if context is None else context
    if not 2 <= context <= context_length(model):
        raise ParameterError(
            "context", context, f"it must lie between 2 and the model's {context_length(model):,}"
        )
    if not 1 <= stride <= context:
        raise ParameterError(
            "stride", stride, f"it must lie between 1 and the context of {context:,} tokens"
        )
    lengths = np.array([len(ids) for ids in documents], np.int64)
    ids, before = _flat(documents), np.cumsum(lengths) - lengths
    owners, first = _cut(
        np.where(lengths > context, lengths - context + stride, np.minimum(lengths, 1)), stride
    )
    end = np.minimum(first + context, lengths[owners])
    start = np.maximum(first + 1, np.where(first > 0, first + context - stride, 0))
    windows = Windows(ids, *(before[owners] + n for n in (first, start, end)), owners)
    nats = token_nats(model, windows, compute_dtype, resume)
    return _score(("stride", context, stride, "not scored"), windows, nats, lengths, texts)


def score_blocks(
    model: "PreTrainedModel",
    blocks: "Dataset",
    compute_dtype: str = "float32",
    resume: Path | None = None,
) -> Score:
    """The blocks as the model is trained on them: the targets of the loss, each token with the same weight.

    Each document in a block is a window by itself, which starts where `position_ids` do. exp(loss) is the guide's
    `exp(eval_loss)`, which is right only where all blocks have the same number of targets.
    """
    import pyarrow.compute as pc

    columns = blocks.with_format("arrow")
    flat = {
        name: pc.list_flatten(columns[name][:]).to_numpy()
        for name in ("input_ids", "position_ids", "labels")
        if name in blocks.column_names
    }
    lengths = pc.list_value_length(columns["input_ids"][:]).to_numpy().astype(np.int64)
    begins, ids = np.zeros(lengths.sum(), bool), flat["input_ids"]
    begins[(np.cumsum(lengths) - lengths)[lengths > 0]] = True
    begins |= flat.get("position_ids", np.ones(1, np.int64)) == 0
    first = np.flatnonzero(begins)
    owners = np.repeat(np.arange(len(lengths)), lengths)[first]
    ignored = flat["labels"] == IGNORED if "labels" in flat else None
    windows = Windows(
        ids, first, first + 1, np.append(first[1:], len(ids)), owners, "block", ignored
    )
    nats = token_nats(model, windows, compute_dtype, resume)
    size = int(lengths.max())
    return _score(("blocks", size, size, "not scored"), windows, nats, lengths, [""] * len(lengths))


def _check_pairs(documents: Sequence[Sequence[int]], texts: Sequence[str]) -> None:
    if len(texts) != len(documents):
        raise DataError(
            f"There are {len(documents)} documents of tokens and {len(texts)} texts: they must be the same."
        )


def _flat(rows: Sequence[Sequence[int]]) -> np.ndarray:
    return (
        np.concatenate([np.asarray(row, np.int32) for row in rows])
        if len(rows)
        else np.zeros(0, np.int32)
    )


def _cut(lengths: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """For each piece of `step` tokens of each document, the number of the document and where in it the piece starts."""
    pieces = -(-lengths // step)
    owners = np.repeat(np.arange(len(lengths)), pieces)
    return owners, (np.arange(len(owners)) - (np.cumsum(pieces) - pieces)[owners]) * step


def _score(
    what: tuple[str, int, int, str],
    windows: Windows,
    nats: np.ndarray,
    lengths: np.ndarray,
    texts: Sequence[str],
) -> Score:
    """A Score from the nats of documents that follow each other, of some lengths in tokens; `what` are its first four fields."""
    scored = ~np.isnan(nats)
    before, ends = np.concatenate([[0], np.cumsum(scored)]), np.cumsum(lengths)
    digest = hashlib.blake2b(
        windows.ids.tobytes() + scored.tobytes() + lengths.tobytes(), digest_size=16
    )
    for text in texts:
        digest.update(text.encode() + b"\0")
    return Score(
        *what,
        token_nats=nats[scored],
        tokens=before[ends] - before[ends - lengths],
        bytes=np.array([len(t.encode()) for t in texts]),
        words=np.array([len(t.split()) for t in texts]),
        text=digest.hexdigest(),
    )


def bootstrap(
    nats: np.ndarray, tokens: np.ndarray, seed: int = 0, samples: int = 2000
) -> np.ndarray:
    """The losses of samples of documents, drawn with replacement (Efron 1979): (models, samples), float64, in nats a token.

    `nats` (models, documents) of the same `tokens` (documents,): each sample draws documents, the same ones for all models.
    """
    rng, found = np.random.default_rng(seed), np.empty((len(nats), samples))
    for sample in range(samples):
        drawn = rng.integers(0, len(tokens), len(tokens))
        found[:, sample] = nats[:, drawn].sum(1) / tokens[drawn].sum()
    return found


def interval(score: Score, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of a perplexity, from a bootstrap over documents; NaN where there are not two of them."""
    some = score.tokens > 0
    if some.sum() < 2:
        return math.nan, math.nan
    with np.errstate(over="ignore"):
        drawn = np.exp(bootstrap(score.nats[None, some], score.tokens[some], seed))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def definitions(scores: dict[str, list[Score]]) -> list[dict[str, object]]:
    """The perplexities of some models as rows of a table, each with what defines it; lengths in tokens, None where it has no meaning."""
    rows = []
    for model, found in scores.items():
        for score in found:
            low, high = interval(score)
            row = {"model": model, "definition": score.definition, "first token": score.first_token}
            row |= {
                "context": score.context,
                "stride": score.stride,
                "tokens": int(score.tokens.sum()),
            }
            row |= {"perplexity": score.perplexity, "low": low, "high": high}
            row |= {
                "bits per byte": score.bits_per_byte,
                "perplexity a word": score.word_perplexity,
            }
            documents = score.document_perplexities[score.tokens > 0]
            row |= {"mean": float(documents.mean()), "median": float(np.median(documents))}
            rows.append(
                {
                    k: None if isinstance(v, float) and not math.isfinite(v) else v
                    for k, v in row.items()
                }
            )
    return rows


def flat(rows: list[dict[str, object]]) -> dict[str, object]:
    """The rows of `definitions` as metrics of a run.

    `perplexity_base` is the rolling one, the others are named: `perplexity_stride_base`. What is the same for all models
    has no model in its name: `context_rolling`, `tokens_stride`.
    """
    found = {}
    for row in rows:
        model = row["model"].replace("-", "")
        for name in row.keys() - {"model", "definition"}:
            of = (
                [row["definition"]]
                if name in ("first token", "context", "stride", "tokens")
                else [row["definition"], model]
            )
            key = "_".join([name, *of]).replace(" ", "_").replace(f"_rolling_{model}", f"_{model}")
            if row[name] is not None:
                found[key] = row[name]
    return dict(sorted(found.items()))


def compare(base: Score, tuned: Score, seed: int = 0, samples: int = 2000) -> dict[str, float]:
    """Fine-tuned against base on the same documents: ratio and difference of their perplexities with 95 % intervals, and who got better.

    The intervals come from a bootstrap over documents, paired: each sample draws documents, the same ones for both.
    Raises ModelError where the two were not scored by the same definition on the same text, tokens and context.
    """
    for name in ("definition", "context", "stride", "text"):
        one, other = getattr(base, name), getattr(tuned, name)
        if one != other:
            what = "different texts or tokens" if name == "text" else f"{name} {one} and {other}"
            raise ModelError(
                f"Base and fine-tuned model were scored on {what}: their perplexities cannot be compared."
            )
    some = base.tokens > 0
    if some.sum() < 2:
        raise ModelError(
            "Perplexities of one document cannot be compared with an interval: score two documents or more."
        )
    losses = bootstrap(np.stack([base.nats, tuned.nats])[:, some], base.tokens[some], seed, samples)
    found = {
        "perplexity_ratio": _exp(tuned.loss - base.loss),
        "perplexity_difference": tuned.perplexity - base.perplexity,
    }
    with np.errstate(over="ignore", invalid="ignore"):
        drawn = {
            "ratio": np.exp(losses[1] - losses[0]),
            "difference": np.exp(losses[1]) - np.exp(losses[0]),
        }
        for name, values in drawn.items():
            low, high = np.quantile(values, [0.025, 0.975])
            found |= {f"perplexity_{name}_low": float(low), f"perplexity_{name}_high": float(high)}
    return found | {"share_of_documents_better": float((tuned.nats < base.nats)[some].mean())}
