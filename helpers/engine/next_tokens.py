"""What may come next, and after each likely token again: a small tree, computed beforehand."""

from typing import TYPE_CHECKING

from helpers.engine.page import few_numbers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SHOWN, GOES_ON = 15, 5  # of the likeliest tokens


def next_tokens(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    rows: list[list[int]],
    depth: int,
) -> list[dict[str, object]]:
    """The likeliest tokens after each row of ids, all logits in few numbers, and what follows.

    Args:
        rows: Token ids, of one length.
        depth: How many more tokens can be chosen, one after the other.

    Returns:
        For each row `tokens`, `logits` and `rest`; in `next` the same after the 5 likeliest tokens,
        unless the depth is 0. Nothing (None) is known of what follows the end of a text.
    """
    import torch

    ids = torch.tensor(rows, device=model.device)
    options = {"max_new_tokens": 1, "do_sample": False, "use_cache": True}
    shown = {"output_logits": True, "return_dict_in_generate": True}
    options |= shown | {"pad_token_id": tokenizer.eos_token_id}
    mask = torch.ones_like(ids)
    logits = model.generate(ids, attention_mask=mask, **options).logits[0].float().cpu()
    likeliest = logits.argsort(descending=True)[:, :SHOWN].tolist()
    found = []
    for order, numbers in zip(likeliest, logits.numpy(), strict=True):
        found.append({"tokens": [tokenizer.decode([i]) for i in order], **few_numbers(numbers)})
    if depth:
        chosen = [order[:GOES_ON] for order in likeliest]
        longer = [[*row, i] for row, order in zip(rows, chosen, strict=True) for i in order]
        after = iter(next_tokens(model, tokenizer, longer, depth - 1))
        for node, order in zip(found, chosen, strict=True):
            node["next"] = [
                one if i != tokenizer.eos_token_id else None
                for i, one in zip(order, after, strict=False)
            ]
    return found
