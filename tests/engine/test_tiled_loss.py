"""The loss in tiles, and its gradients, against the model's own."""

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
)

import helpers.engine.linear_loss
import helpers.engine.tiled_loss
from helpers.collation import collate
from helpers.engine.tiled_loss import use_tiled_loss
from tests.small_models import SHAPE, llama, small
from tests.small_training import blocks_of


def gradients(model, batch, items):
    model.zero_grad()
    loss = model(**batch, num_items_in_batch=items).loss
    loss.backward()
    return loss.item(), {
        n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize("tile", [(1024, 63), (5, 7), (7, 2**20)])
@pytest.mark.parametrize(
    "make",
    [small, lambda: small(vocab_size=70), lambda: llama(True), lambda: llama(False)],
    ids=["GPT-2", "of 70 words", "tied Llama", "Llama"],
)
@pytest.mark.parametrize("items", [None, torch.tensor(41)])
def test_the_tiled_loss_and_its_gradients_are_those_of_the_model(make, tile, items, monkeypatch):
    monkeypatch.setattr(helpers.engine.tiled_loss, "SMALL", 0)
    monkeypatch.setattr(helpers.engine.linear_loss, "TILE", {"cpu": tile})
    model = make()
    model.loss_type = "ForCausalLM"
    batch = collate([blocks_of([15, 3, 9, 20])[i] for i in range(3)])
    loss, found = gradients(model, batch, items)
    assert use_tiled_loss(model)
    ours, mine = gradients(model, batch, items)
    assert model(**batch).logits is None  # it was the other way
    assert ours == pytest.approx(loss, rel=1e-6)
    assert mine.keys() == found.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(mine[name], gradient, rtol=1e-4, atol=1e-7, msg=name)


@pytest.mark.parametrize("tile", [(5, 7), (7, 2**20)])
def test_the_tiled_loss_of_a_head_with_a_bias_and_of_a_frozen_one(tile, monkeypatch):
    monkeypatch.setattr(helpers.engine.tiled_loss, "SMALL", 0)
    monkeypatch.setattr(helpers.engine.linear_loss, "TILE", {"cpu": tile})
    model, batch = llama(False), collate([blocks_of([15, 3])[0]])
    model.loss_type, model.lm_head.bias = (
        "ForCausalLM",
        torch.nn.Parameter(torch.linspace(-1, 1, 64)),
    )
    for frozen in (False, True):
        model.__dict__.pop("forward", None)
        model.lm_head.requires_grad_(not frozen)
        _, found = gradients(model, batch, None)
        assert use_tiled_loss(model)
        _, mine = gradients(model, batch, None)
        assert mine.keys() == found.keys() and ("lm_head.bias" in mine) is not frozen
        for name, gradient in found.items():
            torch.testing.assert_close(mine[name], gradient, rtol=1e-4, atol=1e-7, msg=name)


def test_a_model_that_does_more_with_its_logits_keeps_its_own_loss():
    gemma = Gemma2ForCausalLM(Gemma2Config(**SHAPE, final_logit_softcapping=2.0, use_cache=False))
    cohere = CohereForCausalLM(CohereConfig(**SHAPE, logit_scale=0.25, use_cache=False))
    assert not use_tiled_loss(gemma) and not use_tiled_loss(cohere)
    assert "forward" not in gemma.__dict__
