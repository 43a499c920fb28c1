"""The files of a model: what is found in them before it is loaded."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import (
    BartConfig,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2ForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from helpers.errors import ModelError
from helpers.models import (
    check_model,
    load_config,
    load_model,
    load_tokenizer,
)
from tests import PROJECT
from tests.small_models import BERT, word_level

T5 = {"vocab_size": 32, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}


@pytest.mark.parametrize("load", [load_model, load_config, check_model])
@pytest.mark.parametrize("damage", ["gone", "empty", "cut short", "a part is gone"])
def test_weights_that_cannot_be_read(damage, load, saved):
    weights = saved / "model.safetensors"
    if damage == "gone":
        weights.unlink()
    elif damage == "a part is gone":
        weights.rename(saved / "a.safetensors")
        names = {"one": "a.safetensors", "other": "b.safetensors"}
        (saved / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    else:
        weights.write_bytes(weights.read_bytes()[: 0 if damage == "empty" else -100])
    with pytest.raises(ModelError) as error:
        load(str(saved))
    assert str(error.value).startswith(f"model is {str(saved)!r}: ")
    assert (
        ".safetensors cannot be read" if damage in ("empty", "cut short") else "safetensors"
    ) in str(error.value)


@pytest.mark.parametrize("load", [load_model, load_config, check_model])
@pytest.mark.parametrize("other", ["pytorch_model.bin", "nothing"])
def test_weights_in_the_pickle_format_are_not_opened(other, load, small_model, saved):
    (saved / "model.safetensors").unlink()
    if other != "nothing":
        torch.save(small_model.state_dict(), saved / other)
    with pytest.raises(
        ModelError, match="has no model.safetensors, and other formats are not opened"
    ):
        load(str(saved))


@pytest.mark.parametrize(
    ("made", "config"),
    [
        (BertModel, BertConfig(**BERT)),
        (BertForMaskedLM, BertConfig(**BERT)),
        (T5ForConditionalGeneration, T5Config(**T5)),
        (
            GPT2ForSequenceClassification,
            GPT2Config(vocab_size=32, n_positions=16, n_layer=1, n_embd=16, n_head=2),
        ),
    ],
)
@pytest.mark.parametrize("load", [load_model, load_config, check_model])
def test_models_that_are_not_causal_are_refused_with_their_class(load, made, config, tmp_path):
    made(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError) as error:
        load(str(tmp_path))
    assert str(tmp_path) in str(error.value)
    assert made.__name__ in str(error.value)


@pytest.mark.parametrize("config", [BartConfig(), T5Config()])
def test_an_encoder_decoder_that_does_not_name_its_class_is_refused(config, tmp_path):
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"no causal language model but {config.model_type}"):
        load_model(str(tmp_path))


def test_the_check_imports_neither_torch_nor_transformers():
    """The runner calls it before the first step, where a second would be felt."""
    code = "import sys; from helpers.models import check_model; check_model('embedded'); "
    code += "sys.exit(bool({'torch', 'transformers'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT).returncode == 0


@pytest.mark.parametrize("load", [load_tokenizer, check_model])
@pytest.mark.parametrize(
    ("size", "added", "refused"),
    [
        (64, {}, False),
        (65, {}, True),
        (63, {"eos_token": "[END]"}, False),
        (64, {"extra_special_tokens": ["[IMAGE]"]}, False),  # as Gemma 3 has it: no text makes it
    ],
)
def test_a_tokenizer_that_is_larger_than_the_embedding(size, added, refused, load, saved):
    word_level(size, **({"eos_token": "a"} | added)).save_pretrained(saved)
    if refused:
        with pytest.raises(
            ModelError,
            match="its tokenizer makes the number 64, and the model has embeddings for 0 to 63",
        ):
            load(str(saved))
    else:
        load(str(saved))


def test_an_end_of_text_that_has_no_embedding(saved):
    word_level(64, eos_token="[END]").save_pretrained(saved)
    with pytest.raises(ModelError, match="its tokenizer makes the number 64"):
        load_tokenizer(str(saved))


@pytest.mark.parametrize("damage", ["gone", "cut short"])
def test_a_tokenizer_that_cannot_be_read_is_found_by_the_check(damage, whole):
    check_model(str(whole))
    path = whole / "tokenizer.json"
    if damage == "gone":
        path.unlink()
    else:
        path.write_text(path.read_text()[:-100])
    with pytest.raises(ModelError, match="no tokenizer could be loaded from it"):
        check_model(str(whole))
