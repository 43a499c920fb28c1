"""Causal attention without a mask: the same logits, and no mask under torch.compile."""

import pytest
import torch
from transformers import FalconConfig, FalconForCausalLM, MistralConfig, MistralForCausalLM

from helpers.engine.attention import NAME, causal_without_mask
from tests.small_models import SHAPE, llama, small


@pytest.mark.parametrize("make", [small, lambda: llama(True)], ids=["GPT-2", "Llama"])
def test_a_compiled_model_gets_no_mask_and_the_same_logits(make, monkeypatch):
    model, ids = make().eval(), torch.arange(30).reshape(2, 15)
    product, masks = torch.nn.functional.scaled_dot_product_attention, []

    def noted(*args, attn_mask=None, **rest):
        masks.append(attn_mask is not None)
        return product(*args, attn_mask=attn_mask, **rest)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)

    def compiled():
        masks.clear()
        torch.compiler.reset()
        with torch.no_grad():
            return torch.compile(lambda: model(ids, use_cache=False).logits, backend="eager")()

    right = compiled()
    assert any(masks)
    with causal_without_mask(model, 15):
        torch.testing.assert_close(compiled(), right, rtol=1e-4, atol=1e-5)
        assert masks and not any(masks)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("length, name", [(4, NAME), (5, "sdpa")])
def test_a_model_with_a_window_is_left_alone_where_rows_are_longer(length, name):
    model = MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=4)).eval()
    with causal_without_mask(model, length):
        assert model.config._attn_implementation == name
    assert model.config._attn_implementation == "sdpa"


def test_a_model_that_looks_at_the_name_of_its_attention_is_left_alone():
    model = FalconForCausalLM(
        FalconConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    ).train()
    with causal_without_mask(model, 8):
        assert model.config._attn_implementation == "sdpa" and model.training
