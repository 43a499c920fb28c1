"""The table of perplexities, and the same as metrics of a run."""

import math

import numpy as np

from helpers.perplexity import Score, interval


def definitions(scores: dict[str, list[Score]]) -> list[dict[str, object]]:
    """The perplexities of some models as rows of a table, each with what defines it.

    Lengths are in tokens; None stands for an undefined or infinite number.
    """
    rows = []
    for model, score in [(name, score) for name in scores for score in scores[name]]:
        row = {"model": model, "definition": score.definition, "first token": score.first_token}
        row |= {"context": score.context, "stride": score.stride, "tokens": int(score.tokens.sum())}
        row |= {"perplexity": score.perplexity}
        row |= zip(("low", "high"), interval(score), strict=True)
        row |= {"bits per byte": score.bits_per_byte, "perplexity a word": score.word_perplexity}
        documents = score.document_perplexities[score.tokens > 0]
        row |= {"mean": float(documents.mean()), "median": float(np.median(documents))}
        undefined = [k for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)]
        rows.append(row | dict.fromkeys(undefined))
    return rows


def flatten_definitions(rows: list[dict[str, object]]) -> dict[str, object]:
    """The rows of `definitions` under one name for each value.

    `perplexity_base` is the rolling one; others are named, such as `perplexity_stride_base`. What
    is the same for all models has no model in its name: `context_rolling`, `tokens_stride`.
    """
    metrics = {}
    for row in rows:
        definition, model = row["definition"], row["model"].replace("-", "")
        for name in row.keys() - {"model", "definition"}:
            shared = name in ("first token", "context", "stride", "tokens")
            key = "_".join([name, definition] if shared else [name, definition, model])
            key = key.replace(" ", "_").replace(f"_rolling_{model}", f"_{model}")
            if row[name] is not None:
                metrics[key] = row[name]
    return dict(sorted(metrics.items()))
