"""Loading: the precision, loss and cache of models, refusals, the embedded model."""

import json
import math
import os
import shutil
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    MambaConfig,
    MambaForCausalLM,
    MptConfig,
    RobertaConfig,
    RwkvConfig,
    XLNetConfig,
)

from helpers.data import load_examples, texts
from helpers.errors import ModelError, ParameterError
from helpers.hub.sources import EMBEDDED
from helpers.models import (
    check_model,
    context_length,
    load_config,
    load_model,
    load_tokenizer,
    prefix_token,
)
from helpers.perplexity import score_documents
from helpers.runs.origins import sources
from helpers.tokenization import tokenize
from tests import PROJECT
from tests.small_models import word_level

LOADERS = (load_model, load_tokenizer, load_config, check_model)


@pytest.fixture(scope="module")
def embedded():
    return load_model("embedded")


def test_weights_are_float32_whatever_they_were_stored_in(saved):
    assert {p.dtype for p in AutoModelForCausalLM.from_pretrained(saved).parameters()} == {
        torch.bfloat16
    }
    loaded = load_model(saved)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    stored = AutoModelForCausalLM.from_pretrained(saved).state_dict()
    assert all(
        torch.equal(value, stored[name].float()) for name, value in loaded.state_dict().items()
    )


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
    with pytest.raises(
        ModelError, match=f"model is {name!r}: (there is no such folder|it is no folder here, and)"
    ):
        load(name)


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("config", [None, "", "{", "{}", "[]", '{"model_type": "no_such_type"}'])
def test_a_folder_without_a_model(load, config, tmp_path):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelError) as error:
        load(str(tmp_path))
    assert str(error.value).startswith(f"model is {str(tmp_path)!r}: ")


def altered(folder, change):
    """The weights of a checkpoint changed in place."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


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
    assert context_length(BloomConfig(seq_length=56)) == 56
    assert context_length(MptConfig(max_seq_len=40)) == 40
    assert context_length(RwkvConfig(context_length=24)) == 24
    assert context_length(RobertaConfig(max_position_embeddings=514, pad_token_id=1)) == 512


@pytest.mark.parametrize("config", [BloomConfig(), MambaConfig(), XLNetConfig()])
@pytest.mark.parametrize("context", [0, 512])
def test_a_configuration_that_states_no_context_length(
    context, config, small_model, tmp_path, capsys
):
    small_model.save_pretrained(tmp_path)
    config.save_pretrained(tmp_path)
    loaded = load_config(str(tmp_path), context)
    assert context_length(loaded) == (context or 1024)
    said = capsys.readouterr().out
    assert (
        not said
        if context
        else "states no context length: 1,024 tokens are taken, set context for another" in said
    )
    with pytest.raises(ModelError, match=config.model_type):
        context_length(config)


def test_the_context_length_of_a_model_goes_with_it(tmp_path, capsys):
    config = MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, state_size=4)
    MambaForCausalLM(config).save_pretrained(tmp_path / "base")
    model = load_model(str(tmp_path / "base"), 300)
    assert context_length(model) == 300
    model.save_pretrained(tmp_path / "tuned")
    assert context_length(load_model(str(tmp_path / "tuned"))) == 300
    assert not capsys.readouterr().out


def test_a_context_length_that_is_stated_stays(saved):
    assert context_length(load_config(str(saved), 32)) == 32
    with pytest.raises(
        ParameterError, match="context is 31: the configuration of .* states 32, leave it at 0"
    ):
        load_config(str(saved), 31)


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
    assert (
        tokenizer("<|endoftext|>").input_ids
        == [tokenizer.eos_token_id]
        == [embedded.config.eos_token_id]
    )
    assert (
        len(tokenizer)
        == embedded.config.vocab_size
        == embedded.get_output_embeddings().out_features
    )


def test_the_embedded_model_has_learned(tokenizer, embedded):
    examples = load_examples("embedded", "train[:12]")
    documents, ids = (
        texts(examples, "answers.text"),
        tokenize(examples, "answers.text", tokenizer)["input_ids"][:],
    )
    loss = score_documents(embedded, ids, documents, tokenizer.eos_token_id).loss
    assert 1 < loss < math.log(len(tokenizer)) - 2.5


@pytest.mark.parametrize(
    ("tokens", "expected"), [({"bos_token": "[BEGIN]"}, "[BEGIN]"), ({}, "[END]")]
)
def test_the_prefix_is_the_begin_of_text_or_else_its_end(tokens, expected):
    tokenizer = word_level(eos_token="[END]", **tokens)
    assert prefix_token(tokenizer) == tokenizer.convert_tokens_to_ids(expected)


@pytest.fixture
def adapters(whole, tmp_path):
    """Adapters of the small model as `peft` saves them, that is without configuration and
    tokenizer, and the model that has them merged.
    """
    torch.manual_seed(1)
    config = LoraConfig(
        r=2, target_modules="all-linear", init_lora_weights=False, fan_in_fan_out=True
    )
    model = get_peft_model(load_model(str(whole)), config)
    model.peft_config["default"].base_model_name_or_path = str(whole)
    model.save_pretrained(tmp_path / "adapters")
    assert not (tmp_path / "adapters" / "config.json").exists()
    return tmp_path / "adapters", model.merge_and_unload()


def edited(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_folder_with_adapters_is_a_model(adapters, whole, small_model):
    folder, merged = adapters
    check_model(str(folder))
    assert load_tokenizer(str(folder)).get_vocab() == load_tokenizer(str(whole)).get_vocab()
    assert context_length(load_config(str(folder))) == 32
    loaded, ids = load_model(str(folder)), torch.arange(20)[None]
    assert torch.allclose(loaded(ids).logits, merged(ids).logits, atol=1e-6)
    assert not torch.allclose(loaded(ids).logits, small_model.float()(ids).logits, atol=1e-2)
    assert loaded.loss_type == "ForCausalLM" and not hasattr(loaded, "peft_config")
    assert all(p.requires_grad for p in loaded.parameters())  # peft leaves them frozen


def test_adapters_of_adapters(adapters, tmp_path):
    folder, _ = adapters
    shutil.copytree(folder, tmp_path / "more")
    edited(tmp_path / "more" / "adapter_config.json", base_model_name_or_path=str(folder))
    once, twice, ids = (
        load_model(str(folder)),
        load_model(str(tmp_path / "more")),
        torch.arange(20)[None],
    )
    assert not torch.allclose(once(ids).logits, twice(ids).logits, atol=1e-2)
    edited(folder / "adapter_config.json", base_model_name_or_path=str(tmp_path / "more"))
    with pytest.raises(ModelError, match="its adapters belong to themselves"):
        check_model(str(folder))


def test_another_base_model_makes_other_adapters(adapters, whole):
    folder = str(adapters[0])
    before = sources({"model": folder})
    assert sources({"model": folder}) == before
    altered(whole, lambda weights: weights["transformer.ln_f.bias"].add_(1))
    assert sources({"model": folder}) != before


@pytest.mark.parametrize("load", [load_model, load_config, check_model])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("pickle", "has no adapter_model.safetensors, and other formats are not opened"),
        ("corrupt", "adapter_model.safetensors cannot be read"),
        ("no base", "names no base model"),
        ("base is gone", "there is no such folder"),
        ("no JSON", "adapter_config.json"),
        ("prefix tuning", "PREFIX_TUNING"),
        ("for classes", "SEQ_CLS"),
    ],
)
def test_adapters_that_cannot_be_used(damage, said, load, adapters, tmp_path):
    folder, _ = adapters
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    if damage == "pickle":
        torch.save(load_file(weights), folder / "adapter_model.bin")
        weights.unlink()
    elif damage == "corrupt":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif damage == "no base":
        edited(config, base_model_name_or_path=None)
    elif damage == "base is gone":
        edited(config, base_model_name_or_path=str(tmp_path / "nowhere"))
    elif damage == "no JSON":
        config.write_text("{")
    elif damage == "prefix tuning":
        config.write_text(
            json.dumps({"peft_type": "PREFIX_TUNING", "base_model_name_or_path": "embedded"})
        )
    else:
        edited(config, task_type="SEQ_CLS")
    with pytest.raises(ModelError, match=said):
        load(str(folder))


@pytest.mark.parametrize("change", ["missing", "unknown", "another shape"])
def test_adapters_that_do_not_fit_their_base_model(change, adapters):
    path = adapters[0] / "adapter_model.safetensors"
    weights = load_file(path)
    name = next(iter(weights))
    value = weights.pop(name)
    if change != "missing":
        weights[name if change != "unknown" else name.replace(".h.0.", ".h.7.")] = torch.zeros(7, 7)
        weights |= {name: value} if change == "unknown" else {}
    save_file(weights, path)
    with pytest.raises(ModelError, match=f"model is {str(adapters[0])!r}: "):
        load_model(str(adapters[0]))


@pytest.mark.parametrize("damage", ["encoder", "corrupt"])
def test_a_run_says_what_is_wrong_with_its_model_before_the_first_step(damage, whole, tmp_path):
    if damage == "encoder":
        edited(whole / "config.json", architectures=["BertModel"])
    else:
        (whole / "model.safetensors").write_bytes(b"no weights")
    command = [sys.executable, "-m", "helpers", "run", "--run-dir", str(tmp_path / "run")]
    command += ["-p", f"model={whole}"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"model is {str(whole)!r}: " in done.stderr and done.stderr.count("\n") == 1
    assert not list((tmp_path / "run").glob("0*"))
