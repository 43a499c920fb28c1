"""A prompt continued by a model: within the context, and the same text for the same seed."""

from typing import TYPE_CHECKING

from helpers.errors import ParameterError
from helpers.models import context_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def check_prompt(
    prompt: str, max_new_tokens: int, tokenizer: "PreTrainedTokenizerBase", context: int
) -> None:
    """ParameterError if the prompt is empty, or leaves too little of the context (tokens)."""
    length = len(tokenizer(prompt).input_ids)
    if not length:
        needed = "it must have at least one token; use the end-of-text token for an empty prompt"
        raise ParameterError("prompt", prompt, needed)
    if length + max_new_tokens > context:
        room = f"at most {max(context - length, 0)} more"
        needed = f"with a prompt of {length} tokens the model has room for {room}"
        raise ParameterError("max_new_tokens", max_new_tokens, needed)


def check_seed(seed: int) -> None:
    """ParameterError if not every library takes the seed."""
    if not 0 <= seed < 2**32:
        raise ParameterError("seed", seed, f"it must be from 0 to {2**32 - 1:,}")


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
    max_new_tokens: int = 100,
    seed: int = 0,
    **sampling: object,
) -> list[str]:
    """The same for several prompts at once, as one batch, padded on the left.

    Args:
        sampling: `temperature`, `top_k` and `top_p`, and what else `generate` takes.
    """
    import torch

    check_seed(seed)
    for prompt in prompts:
        check_prompt(prompt, max_new_tokens, tokenizer, context_length(model))
    rows, end = tokenizer(prompts).input_ids, tokenizer.eos_token_id
    padding = [max(map(len, rows)) - len(row) for row in rows]
    ids = [[end] * n + row for n, row in zip(padding, rows, strict=True)]
    mask = [[0] * n + [1] * len(row) for n, row in zip(padding, rows, strict=True)]
    training = model.training
    model.eval()
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            output = model.generate(
                input_ids=torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                **sampling,
                max_new_tokens=max_new_tokens,
                do_sample=True,
                use_cache=True,
                pad_token_id=end,
            )
    finally:
        model.train(training)
    return tokenizer.batch_decode(output, skip_special_tokens=True)
