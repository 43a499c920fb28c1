"""The tree of next tokens: each of its numbers is what the model gives for the whole text."""

import pytest
import torch

from helpers.engine.next_tokens import next_tokens
from helpers.models import load_model


def check(node, model, tokenizer, ids, depth):
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1]
    order = logits.argsort(descending=True)[:15].tolist()
    assert node["tokens"] == [tokenizer.decode([i]) for i in order]
    assert node["logits"] == pytest.approx(logits.topk(200).values.tolist(), abs=1e-3)
    assert ("next" in node) == (depth > 0)
    for token, after in zip(order, node.get("next", []), strict=False):
        if token == tokenizer.eos_token_id:
            assert after is None
        else:
            check(after, model, tokenizer, [*ids, token], depth - 1)
    return 1 + sum(after is not None for after in node.get("next", []))


def test_after_every_choice_it_holds_what_the_model_gives(tokenizer):
    model, ids = load_model("embedded"), tokenizer("Bread rises because").input_ids
    [tree] = next_tokens(model, tokenizer, [ids], 2)
    assert check(tree, model, tokenizer, ids, 2) == 6


def test_nothing_comes_after_the_end_of_a_text(tokenizer):
    model = load_model("embedded")
    with torch.no_grad():  # the end is the likeliest token everywhere
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
        [first] = next_tokens(model, tokenizer, [[5, 6]], 0)
        row = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(first["tokens"][0]))[0]
        model.lm_head.weight[tokenizer.eos_token_id] = 2 * model.lm_head.weight[row]
    [tree] = next_tokens(model, tokenizer, [[5, 6]], 1)
    assert tree["tokens"][0] == tokenizer.eos_token and tree["next"][0] is None
    assert check(tree, model, tokenizer, [5, 6], 1) == 5
