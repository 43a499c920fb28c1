"""A loaded model: what is missing or misshapen in its checkpoint, and what it attends to."""

import pytest
import torch
from transformers import (
    BertConfig,
    BertLMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
)

from helpers.errors import ModelError
from helpers.models import (
    load_model,
)
from tests.small_models import BERT
from tests.test_models import altered


@pytest.mark.parametrize("name", ["transformer.h.1.mlp.c_fc.bias", "transformer.wpe.weight"])
def test_a_checkpoint_with_a_missing_tensor_is_refused(name, saved):
    altered(saved, lambda weights: weights.pop(name))
    with pytest.raises(ModelError) as error:
        load_model(str(saved))
    assert (
        str(error.value)
        == f"model is {str(saved)!r}: its checkpoint lacks {name}: it is incomplete, fetch or "
        "save it anew."
    )


def test_many_missing_tensors_are_counted(saved):
    altered(saved, lambda weights: [weights.pop(n) for n in list(weights) if ".h.1." in n])
    with pytest.raises(
        ModelError, match=r"lacks transformer\.h\.1\.attn.*, and 9 more: it is incomplete"
    ):
        load_model(str(saved))


def test_a_checkpoint_with_tensors_of_another_shape_is_refused(saved):
    altered(saved, lambda weights: weights.update({"transformer.ln_f.bias": torch.zeros(5)}))
    with pytest.raises(
        ModelError,
        match=r"transformer\.ln_f\.bias is \(5,\) in its checkpoint and \(32,\) by its con",
    ):
        load_model(str(saved))


def test_tied_tensors_and_buffers_of_old_checkpoints_are_no_concern(saved):
    def change(weights):
        assert "lm_head.weight" not in weights
        weights["transformer.h.0.attn.bias"] = torch.ones(1, 1, 32, 32)

    altered(saved, change)
    load_model(str(saved))


def test_an_output_layer_that_is_not_tied_is_needed(tmp_path):
    shape = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = GPTNeoXConfig(**shape, intermediate_size=16, max_position_embeddings=16)
    GPTNeoXForCausalLM(config).save_pretrained(tmp_path)
    load_model(str(tmp_path))
    altered(tmp_path, lambda weights: weights.pop("embed_out.weight"))
    with pytest.raises(ModelError, match=r"its checkpoint lacks lm_head\.weight"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("decoder", [True, False])
def test_a_model_that_sees_what_is_to_come_is_refused(decoder, tmp_path):
    BertLMHeadModel(BertConfig(**BERT, is_decoder=decoder)).save_pretrained(tmp_path)
    if decoder:
        load_model(str(tmp_path))
    else:
        with pytest.raises(ModelError, match="its predictions depend on the tokens after them"):
            load_model(str(tmp_path))
