"""What many written texts are like: how varied, how repetitive, how likely to a model."""

from collections.abc import Sequence

import numpy as np

from helpers.engine.shingles import first_in_document, shingles_of, words_of
from helpers.engine.windows import Windows


def distinct(texts: Sequence[str], n: int = 2) -> float:
    """The share of different runs of n words among all those of the texts; NaN without any.

    It falls as more is written, so that only sets of about equal size can be compared.

    Source: Li et al., "A diversity-promoting objective function for neural conversation models"
    (2016), where the divisor is the number of words.
    """
    _, value, _ = _runs(texts, n)
    return len(np.unique(value)) / len(value) if len(value) else float("nan")


def repeated(texts: Sequence[str], n: int = 4) -> float:
    """The share of a text's runs of n words that came before in it, as a mean over the texts.

    Texts of fewer than n words are left out; NaN if all are.

    Source: seq-rep-n of Welleck et al., "Neural text generation with unlikelihood training" (2020).
    """
    owner, _, first = _runs(texts, n)
    total = np.bincount(owner)
    again = np.bincount(owner, ~first)[total > 0] / total[total > 0]
    return float(again.mean()) if len(again) else float("nan")


def _runs(texts: Sequence[str], n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The text and the hash of each run of n words, and whether it is the first such in its text.

    Words are what lies between white space, upper and lower case alike.
    """
    words, lengths = words_of(texts, r"\S+")
    _, owner, value = shingles_of(words, lengths, n)
    whole = lengths[owner] >= n
    owner, value = owner[whole], value[whole]
    return owner, value, first_in_document(owner, value)


def continuation_windows(
    prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]], prefix: int
) -> Windows:
    """Windows in which each text is scored, given the prompt before it.

    Args:
        prompts, texts: Token ids, a text for each prompt.
        prefix: The token put before each prompt, see `helpers.models.prefix_token`.
    """
    rows = [[prefix, *p, *text] for p, text in zip(prompts, texts, strict=True)]
    end = np.cumsum([len(row) for row in rows])
    first, start = end - [len(row) for row in rows], end - [len(text) for text in texts]
    return Windows(np.concatenate(rows).astype(np.int32), first, start, end, np.arange(len(rows)))
