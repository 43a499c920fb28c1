"""The negative log likelihood of each token under a model; the probability of a continuation.

Windows of many documents are sorted by length and scored together, see `helpers.engine.batches`.
"""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from helpers.engine.batches import losses_in_batches, ready_to_score
from helpers.engine.progress import Progress
from helpers.engine.resume import unfinished_array
from helpers.engine.windows import Windows
from helpers.errors import DataError
from helpers.models import prefix_token

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def token_nats(
    model: "PreTrainedModel",
    windows: Windows,
    compute_dtype: str = "float32",
    resume: Path | None = None,
) -> np.ndarray:
    """The negative log likelihood of each token.

    Args:
        compute_dtype: `float32` or `bfloat16`, for the model; the loss is float32 in either case.
        resume: A folder that keeps the nats scored so far, so that an interrupted call can be
            repeated; those of another model, precision or text are not used.

    Returns:
        Nats, NaN where a token is not scored: (tokens,), float32.

    Raises:
        ModelError: for a token that is not in the model's vocabulary, a loss that is not a number,
            or a window that does not fit into memory.
        DataError: if there is nothing to score.
    """
    windows.check_vocabulary(model.config.get_text_config().vocab_size)
    arrays = [windows.ids, windows.first, windows.start, windows.end, windows.ignored]
    nats = unfinished_array(resume, len(windows.ids), model, compute_dtype, arrays)
    width, scored = windows.end - windows.first, windows.end - windows.start
    left = np.flatnonzero(np.isnan(nats[windows.end - 1]) & (scored > 0))
    left = left[np.argsort(-width[left], kind="stable")]
    with ready_to_score(model), closing(Progress(int(scored.sum()), "tokens")) as bar:
        bar.resume(int(scored.sum() - scored[left].sum()))
        for chosen, losses in losses_in_batches(model, windows, left, compute_dtype):
            for w, row in zip(chosen, losses, strict=True):
                loss = row[width[w] - scored[w] - 1 : width[w] - 1]
                nats[windows.start[w] : windows.end[w]] = loss
            bar.advance(int(scored[chosen].sum()))
    nats = np.array(nats)
    if windows.ignored is not None:
        nats[windows.ignored] = np.nan
    if np.isnan(nats).all():
        raise DataError("There is not one token to score: the texts are empty.")
    return nats


def probability(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", prompt: str, text: str
) -> float:
    """The probability that `text` comes next after `prompt`: the product of those of its tokens.

    That of an empty text is 1.
    """
    import torch

    before, after = (tokenizer(t, add_special_tokens=False).input_ids for t in (prompt, text))
    if not after:
        return 1.0
    ids = torch.tensor([[prefix_token(tokenizer), *before, *after]], device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=ids[:, :-1]).logits[0, -len(after) :].float()
    logs = logits.log_softmax(-1).gather(1, ids[0, -len(after) :, None])
    return logs.double().sum().exp().item()  # float32 has no numbers below exp(-104)
