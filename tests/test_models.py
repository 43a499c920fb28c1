"""Loading: the precision, loss and cache that models come with, what is refused and how, and the embedded model."""

import json
import math

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    BloomConfig,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from helpers import (
    context_length,
    load_config,
    load_examples,
    load_model,
    load_tokenizer,
    prefix_token,
    score_documents,
    texts,
    tokenize,
)
from helpers.errors import ModelError
from helpers.sources import EMBEDDED

BERT = {
    "vocab_size": 32,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 16,
}
T5 = {"vocab_size": 32, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
LOADERS = (load_model, load_tokenizer, load_config)


@pytest.fixture
def saved(small_model, tmp_path):
    """The small model, stored in bfloat16."""
    small_model.to(torch.bfloat16).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture(scope="module")
def embedded():
    return load_model("embedded")


def word_level(**special):
    words = Tokenizer(WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", **special)


def test_weights_are_float32_whatever_they_were_stored_in(saved):
    assert {p.dtype for p in AutoModelForCausalLM.from_pretrained(saved).parameters()} == {torch.bfloat16}
    loaded = load_model(saved)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    stored = AutoModelForCausalLM.from_pretrained(saved).state_dict()
    assert all(torch.equal(value, stored[name].float()) for name, value in loaded.state_dict().items())


def test_loss_type_is_set_and_the_cache_is_off(saved):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"use_cache": True}))
    theirs = AutoModelForCausalLM.from_pretrained(saved)
    assert getattr(theirs, "loss_type", None) is None
    assert theirs.config.use_cache is True
    ours = load_model(saved)
    assert ours.loss_type == "ForCausalLM"
    assert ours.config.use_cache is False
    assert not ours.training


def test_a_folder_can_be_given_as_path_or_text(saved):
    ours, same = load_model(saved), load_model(str(saved))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), same.parameters(), strict=True))


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize(
    "name", ["no-such-model", "nobody/no-such-model", "three/part/name", "not a name!", "./missing"]
)
def test_no_such_model(load, name):
    with pytest.raises(ModelError, match=f"model is {name!r}: (there is no such folder|it is no folder here, and)"):
        load(name)


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("config", [None, "", "{", "{}", "[]", '{"model_type": "no_such_type"}'])
def test_a_folder_without_a_model(load, config, tmp_path):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelError) as error:
        load(str(tmp_path))
    assert str(error.value).startswith(f"model is {str(tmp_path)!r}: no ")


@pytest.mark.parametrize("damage", ["gone", "empty", "cut short", "another model's"])
def test_weights_that_cannot_be_read(damage, saved):
    weights = saved / "model.safetensors"
    if damage == "gone":
        weights.unlink()
    elif damage == "another model's":
        config = json.loads((saved / "config.json").read_text())
        (saved / "config.json").write_text(json.dumps(config | {"n_embd": 16}))
    else:
        weights.write_bytes(weights.read_bytes()[: 0 if damage == "empty" else -100])
    with pytest.raises(ModelError) as error:
        load_model(str(saved))
    assert str(saved) in str(error.value)


def test_weights_in_the_pickle_format_are_not_opened(small_model, saved):
    (saved / "model.safetensors").unlink()
    torch.save(small_model.state_dict(), saved / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no model could be loaded"):
        load_model(str(saved))


@pytest.mark.parametrize(
    ("made", "config"),
    [
        (BertModel, BertConfig(**BERT)),
        (BertForMaskedLM, BertConfig(**BERT)),
        (T5ForConditionalGeneration, T5Config(**T5)),
        (GPT2ForSequenceClassification, GPT2Config(vocab_size=32, n_positions=16, n_layer=1, n_embd=16, n_head=2)),
    ],
)
def test_models_that_are_not_causal_are_refused_with_their_class(made, config, tmp_path):
    made(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError) as error:
        load_model(str(tmp_path))
    assert str(tmp_path) in str(error.value)
    assert made.__name__ in str(error.value)


@pytest.mark.parametrize("config", [BartConfig(), T5Config()])
def test_an_encoder_decoder_that_does_not_name_its_class_is_refused(config, tmp_path):
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"no causal language model but {config.model_type}"):
        load_model(str(tmp_path))


def test_a_tokenizer_needs_an_end_of_text_token(tmp_path):
    word_level().save_pretrained(tmp_path / "without")
    with pytest.raises(ModelError) as error:
        load_tokenizer(str(tmp_path / "without"))
    assert str(tmp_path / "without") in str(error.value)
    assert "eos_token" in str(error.value)
    word_level(eos_token="[END]").save_pretrained(tmp_path / "with")
    assert load_tokenizer(str(tmp_path / "with")).eos_token == "[END]"


def test_context_length():
    assert context_length(GPT2Config(n_positions=48)) == 48
    assert context_length(LlamaConfig(max_position_embeddings=72)) == 72


def test_a_configuration_that_states_no_context_length_is_refused():
    with pytest.raises(ModelError, match="bloom"):
        context_length(BloomConfig())


def test_context_length_of_a_model_and_its_configuration(saved, small_model):
    assert (
        context_length(small_model)
        == context_length(load_model(saved))
        == context_length(load_config(str(saved)))
        == 32
    )


def test_the_embedded_model_is_a_small_gpt2(embedded):
    assert type(embedded) is GPT2LMHeadModel
    assert {p.dtype for p in embedded.parameters()} == {torch.float32}
    assert 0 < sum(f.stat().st_size for f in EMBEDDED["model"].glob("*.safetensors")) <= 14e6
    assert context_length(embedded) >= 256


def test_the_embedded_tokenizer_fits_its_model(tokenizer, embedded):
    assert tokenizer.eos_token == "<|endoftext|>"
    assert tokenizer("<|endoftext|>").input_ids == [tokenizer.eos_token_id] == [embedded.config.eos_token_id]
    assert len(tokenizer) == embedded.config.vocab_size == embedded.get_output_embeddings().out_features


def test_the_embedded_model_has_learned(tokenizer, embedded):
    examples = load_examples("embedded", "train[:12]")
    documents, ids = texts(examples, "answers.text"), tokenize(examples, "answers.text", tokenizer)["input_ids"][:]
    loss = score_documents(embedded, ids, documents, tokenizer.eos_token_id).loss
    assert 1 < loss < math.log(len(tokenizer)) - 2.5


@pytest.mark.parametrize(("tokens", "expected"), [({"bos_token": "[BEGIN]"}, "[BEGIN]"), ({}, "[END]")])
def test_the_prefix_is_the_begin_of_text_or_else_its_end(tokens, expected):
    tokenizer = word_level(eos_token="[END]", **tokens)
    assert prefix_token(tokenizer) == tokenizer.convert_tokens_to_ids(expected)
