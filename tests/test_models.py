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
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    BertModel,
    BloomConfig,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    MambaConfig,
    MambaForCausalLM,
    MptConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RwkvConfig,
    T5Config,
    T5ForConditionalGeneration,
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

BERT = {
    "vocab_size": 32,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 16,
}
T5 = {"vocab_size": 32, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
LOADERS = (load_model, load_tokenizer, load_config, check_model)


@pytest.fixture
def saved(small_model, tmp_path):
    """The small model, stored in bfloat16."""
    small_model.to(torch.bfloat16).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture(scope="module")
def embedded():
    return load_model("embedded")


@pytest.fixture
def whole(saved):
    """The small model with a tokenizer of three words."""
    word_level(eos_token="[UNK]").save_pretrained(saved)
    return saved


def word_level(size=3, **special):
    words = {"[UNK]": 0, "a": 1, "b": 2} | {f"w{i}": i for i in range(3, size)}
    words = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", **special)


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


def altered(folder, change):
    """The weights of a checkpoint changed in place."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


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
