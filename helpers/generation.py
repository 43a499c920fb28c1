"""A prompt continued by a model: within the context, and the same text for the same seed."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from helpers.engine.continuing import Written, continue_batch
from helpers.errors import ParameterError
from helpers.models import context_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 32  # prompts


def check_prompt(
    prompt: str, max_new_tokens: int, tokenizer: "PreTrainedTokenizerBase", context: int
) -> None:
    """ParameterError if the prompt is empty, or leaves too little of the context (tokens)."""
    length = len(tokenizer(prompt).input_ids)
    if not length:
        needed = "it must have at least one token; use the end-of-text token for an empty prompt"
        raise ParameterError("prompt", prompt, needed)
    if length + max_new_tokens > context:
        room = f"at most {max(context - length, 0)} more after {prompt[:30]!r} …"
        needed = f"with a prompt of {length} tokens the model has room for {room}"
        raise ParameterError("max_new_tokens", max_new_tokens, needed)


def continue_text(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompt: str,
    max_new_tokens: int = 100,
    temperature: float = 1.0,
    top_k: int = 50,
    top_p: float = 0.95,
    seed: int = 0,
) -> str:
    """The prompt and a sampled continuation, without dropout.

    The model's mode and the global random state are restored afterwards.

    Args:
        max_new_tokens: The most tokens to add; an end-of-text token ends the text before.
        temperature, top_k, top_p: How to sample; 1, 0 and 1 leave the distribution as it is.
        seed: The random state to start from.

    Raises:
        ParameterError: for a seed that cannot be, or a text that would not fit into the context.
    """
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    return continue_texts(model, tokenizer, [prompt], max_new_tokens, seed, **sampling)[0]


def continue_texts(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: list[str],
    *settings: int,
    **sampling: object,
) -> list[str]:
    """The texts alone of `continuations`, which has the same arguments."""
    return [one.text for one in continuations(model, tokenizer, prompts, *settings, **sampling)]


def continuations(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: list[str],
    max_new_tokens: int = 100,
    seed: int = 0,
    **sampling: object,
) -> Iterator[Written]:
    """Continue any number of prompts, one batch after the other, padded on the left.

    What is drawn depends on the whole batch, and each has a seed of its own: `seed` and the place
    of its first prompt, added up.

    Args:
        sampling: `temperature`, `top_k` and `top_p`, and what else `generate` takes.
    """
    if not 0 <= seed < 2**32:  # what every library takes
        raise ParameterError("seed", seed, f"it must be from 0 to {2**32 - 1:,}")
    for prompt in prompts:
        check_prompt(prompt, max_new_tokens, tokenizer, context_length(model))
    sampling["max_new_tokens"] = max_new_tokens
    for first in range(0, len(prompts), BATCH):
        batch, own_seed = prompts[first : first + BATCH], (seed + first) % 2**32
        yield from continue_batch(model, tokenizer, batch, own_seed, **sampling)
