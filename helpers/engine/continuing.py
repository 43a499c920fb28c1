"""One batch of prompts continued: padding on the left, the random state, what ended each text."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Written(NamedTuple):
    """A prompt continued: the whole `text`, how many `tokens` were added, and what ended it.

    `ended_by` is `end of text` or `max_new_tokens`; `seed` is that of the batch.
    """

    prompt: str
    seed: int
    text: str
    tokens: int
    ended_by: str


def continue_batch(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: list[str],
    seed: int,
    **options: object,
) -> list[Written]:
    """Continue prompts together; the model's mode and the global random state are restored.

    Padding stands on the left, so that each new token comes right after its prompt. It is masked,
    and positions are counted without it.

    Args:
        options: What `generate` takes, `max_new_tokens` among it.
    """
    import torch

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
                **options,
                do_sample=True,
                use_cache=True,
                pad_token_id=end,
            )
    finally:
        model.train(training)
    stated = model.generation_config.eos_token_id
    ends = set(stated if isinstance(stated, list) else [stated])
    texts = tokenizer.batch_decode(output, skip_special_tokens=True)
    found = []
    for prompt, text, row in zip(prompts, texts, output[:, len(ids[0]) :].tolist(), strict=True):
        tokens = next((place for place, token in enumerate(row) if token in ends), len(row))
        ended_by = "end of text" if tokens < len(row) else "max_new_tokens"
        found.append(Written(prompt, seed, text, tokens, ended_by))
    return found
