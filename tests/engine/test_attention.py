"""Causal attention without a mask: the same logits, and no mask under torch.compile."""

import pytest
import torch

from helpers.engine.attention import causal_without_mask
from tests.small_models import llama, small


@pytest.mark.parametrize("make", [small, lambda: llama(True)], ids=["GPT-2", "Llama"])
def test_a_compiled_model_gets_no_mask_and_the_same_logits(make, monkeypatch):
    model, ids = make().eval(), torch.arange(30).reshape(2, 15)
    product, masks = torch.nn.functional.scaled_dot_product_attention, []

    def noted(*args, attn_mask=None, **rest):
        masks.append(attn_mask is not None)
        return product(*args, attn_mask=attn_mask, **rest)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    right = model(ids, use_cache=False).logits
    assert not any(masks) and masks
    found = {}
    for wanted in (False, True):
        masks.clear()
        torch.compiler.reset()
        with causal_without_mask(model, wanted), torch.no_grad():
            compiled = torch.compile(lambda: model(ids, use_cache=False).logits, backend="eager")
            torch.testing.assert_close(compiled(), right, rtol=1e-4, atol=1e-5)
        found[wanted] = any(masks)
    assert found == {False: True, True: False}
    assert model.config._attn_implementation == "sdpa"
