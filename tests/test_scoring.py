"""The engine under perplexity: exact for models that do more with their logits, lean, and not to be
stopped by a full memory.
"""

import dataclasses
import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from helpers.engine import linear_loss, memory, tiled_loss
from helpers.engine.tiled_loss import full_losses, tiled_losses
from helpers.engine.windows import Windows
from helpers.errors import DataError, ModelError
from helpers.models import load_model
from helpers.scoring import probability, token_nats
from tests.test_perplexity import log_softmax

CLOSE = 1e-6
VOCABULARY, LENGTH = 300, 24
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MODELS = {
    "GPT-2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_layer=2, n_embd=32, n_head=2)
    ),
    "Llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "OPT": lambda: OPTForCausalLM(
        OPTConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            ffn_dim=64,
            num_hidden_layers=2,
            num_attention_heads=2,
        )
    ),
    "Gemma-2": lambda: Gemma2ForCausalLM(Gemma2Config(**SHAPE, final_logit_softcapping=0.5)),
    "Gemma-2, capped at 30": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SHAPE, final_logit_softcapping=30.0)
    ),
    "Cohere": lambda: CohereForCausalLM(CohereConfig(**SHAPE, logit_scale=0.25)),
    "Granite": lambda: GraniteForCausalLM(GraniteConfig(**SHAPE, logits_scaling=4.0)),
}
SLICED = {"GPT-2", "Llama", "OPT"}


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]().eval()


def windows_of(lengths, high=VOCABULARY, seed=0):
    """Documents of some lengths, all but the first token of each scored."""
    lengths = np.array(lengths)
    end = np.cumsum(lengths)
    ids = np.random.default_rng(seed).integers(0, high, end[-1]).astype(np.int32)
    return Windows(ids, end - lengths, end - lengths + 1, end, np.arange(len(lengths)))


WINDOWS = windows_of([LENGTH, 3, 17, 2, LENGTH, 9])


def slow(model, windows):
    """Window by window, from the model's own logits, in float64."""
    nats = np.full(len(windows.ids), np.nan)
    for first, start, end in zip(windows.first, windows.start, windows.end, strict=True):
        with torch.no_grad():
            logs = log_softmax(
                model(torch.from_numpy(windows.ids[None, first:end]).long())
                .logits[0]
                .float()
                .numpy()
            )
        for i in range(start, end):
            nats[i] = -logs[i - first - 1, windows.ids[i]]
    return nats


def test_any_model_against_its_own_logits(model):
    np.testing.assert_allclose(token_nats(model, WINDOWS), slow(model, WINDOWS), rtol=1e-5)


def test_any_model_with_large_logits_against_its_own(model):
    """Where a cap bites: with small logits, leaving it out would hardly show."""
    model.get_output_embeddings().weight.data *= 300
    found = token_nats(model, WINDOWS)
    np.testing.assert_allclose(found, slow(model, WINDOWS), rtol=1e-4, atol=1e-4)


def test_which_models_are_sliced(request, model):
    inputs, _ = WINDOWS.batch(np.array([0]))
    with torch.no_grad():
        assert tiled_loss.sliceable(model, inputs) == (
            request.node.callspec.params["model"] in SLICED
        )


@pytest.mark.parametrize("losses_of", [tiled_losses, full_losses])
def test_both_ways_put_losses_in_the_same_places(losses_of, small_model):
    windows = windows_of([9, 30, 4], high=64)
    inputs, targets = windows.batch(np.arange(3))
    targets[1, 7:12] = -100
    with torch.no_grad():
        found = losses_of(small_model, inputs, targets)
        logs = log_softmax(small_model(inputs).logits.numpy())
    for row, column in np.ndindex(*targets.shape):
        target = int(targets[row, column])
        expected = 0.0 if target == -100 else -logs[row, column, target]
        assert float(found[row, column]) == pytest.approx(expected, rel=1e-5)


class Largest(TorchDispatchMode):
    """The number of elements in the largest tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.elements = max(
            [self.elements, *(t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor))]
        )
        return out


def test_the_logits_of_a_batch_are_never_there_at_once(monkeypatch):
    torch.manual_seed(0)
    model = MODELS["GPT-2"]().eval()
    monkeypatch.setitem(linear_loss.TILE, "cpu", (64, 70))
    inputs, targets = windows_of([30] * 8).batch(np.arange(8))
    found = {}
    for losses_of in (tiled_losses, full_losses):
        with torch.inference_mode(), Largest() as largest:
            losses = losses_of(model, inputs, targets)
        found[losses_of] = (largest.elements, losses)
    (small, tiled), (large, whole) = found[tiled_losses], found[full_losses]
    assert large >= 8 * 29 * VOCABULARY
    assert small <= 8 * 29 * 4 * 32  # the widest layer of the model
    np.testing.assert_allclose(tiled.numpy(), whole.numpy(), rtol=1e-5)


@pytest.mark.parametrize("tile", [(1, 1), (7, 13), (1000, 1000)])
def test_tiles_of_any_size_and_a_bias(tile, monkeypatch):
    torch.manual_seed(0)
    model = MODELS["Llama"]().eval()
    model.lm_head = torch.nn.Linear(32, VOCABULARY)
    model.lm_head.weight.data *= 50
    monkeypatch.setitem(linear_loss.TILE, "cpu", tile)
    windows = windows_of([5, 9])
    np.testing.assert_allclose(token_nats(model, windows), slow(model, windows), rtol=1e-5)


class Narrow:
    """A model's forward that has memory for some tokens and no more."""

    def __init__(self, model, limit):
        self.limit, self.sizes = limit, []
        model.register_forward_pre_hook(self, with_kwargs=True)
        model.base_model.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module, args, kwargs):
        size = (args[0] if args else kwargs["input_ids"]).numel()
        if size > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate much.")
        self.sizes.append(size)


@pytest.mark.parametrize("sliced", [True, False])
def test_a_batch_that_does_not_fit_is_halved(sliced, small_model, monkeypatch):
    monkeypatch.setattr(tiled_loss, "sliceable", lambda *_: sliced)
    windows = windows_of([30] * 20 + [9] * 30, high=64)
    expected = token_nats(small_model, windows)
    narrow = Narrow(small_model, 5 * 29)
    np.testing.assert_allclose(token_nats(small_model, windows), expected, rtol=1e-5)
    assert 2 * 29 <= max(narrow.sizes) <= 5 * 29


def test_a_window_that_does_not_fit_is_said(small_model):
    Narrow(small_model, 20)
    with pytest.raises(ModelError, match="window of 30 tokens does not fit into memory"):
        token_nats(small_model, windows_of([30] * 3, high=64))


def test_other_errors_of_a_model_come_through(small_model):
    def fail(_, args):
        if args[0].shape[1] > 16:  # not yet in the trial that decides whether to slice
            raise RuntimeError("something else")

    small_model.transformer.h[0].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="something else"):
        token_nats(small_model, windows_of([30] * 3, high=64))


def count_rows(model):
    rows = []
    model.transformer.h[0].register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    return rows


def test_an_interrupted_evaluation_goes_on(small_model, monkeypatch, tmp_path):
    monkeypatch.setitem(memory.MOST, "cpu", 1)  # a window a batch
    windows = windows_of([30, 20, 25, 4, 9, 28, 2], high=64)
    whole = token_nats(small_model, windows)
    rows, original = count_rows(small_model), tiled_loss.tiled_losses

    def stops(*args):
        if len(rows) > 5:
            raise KeyboardInterrupt
        return original(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tiled_loss, "tiled_losses", stops)
        token_nats(small_model, windows, resume=tmp_path)
    done = len(rows) - 2  # two rows are of the trial that decides whether to slice
    assert 0 < done < 7
    rows.clear()
    np.testing.assert_array_equal(token_nats(small_model, windows, resume=tmp_path), whole)
    assert len(rows) - 2 == 7 - done
    rows.clear()
    np.testing.assert_array_equal(token_nats(small_model, windows, resume=tmp_path), whole)
    assert not rows


def test_what_was_kept_is_of_the_same_model_text_and_precision(small_model, tmp_path):
    windows = windows_of([30, 20], high=64)
    first = token_nats(small_model, windows, resume=tmp_path)
    other = windows_of([30, 20], high=64, seed=1)
    np.testing.assert_array_equal(
        token_nats(small_model, other, resume=tmp_path), token_nats(small_model, other)
    )
    found, scored = token_nats(small_model, windows, "bfloat16", resume=tmp_path), ~np.isnan(first)
    assert (found != first)[scored].any()
    small_model.transformer.wpe.weight.data += 0.1
    np.testing.assert_array_equal(
        token_nats(small_model, windows, resume=tmp_path), token_nats(small_model, windows)
    )
    small_model.config.layer_norm_epsilon = 0.1  # what the weights do not say
    token_nats(small_model, windows, resume=tmp_path)
    assert len(list(tmp_path.iterdir())) == 5


def test_a_model_is_left_as_it_was(small_model):
    small_model.train()
    calm = token_nats(small_model, WINDOWS_64)
    assert small_model.training
    np.testing.assert_array_equal(token_nats(small_model.eval(), WINDOWS_64), calm)
    assert not small_model.training
    small_model.transformer.wte.weight.data[:] = math.nan
    with pytest.raises(ModelError):
        token_nats(small_model.train(), WINDOWS_64)
    assert small_model.training
    assert not torch.is_inference_mode_enabled()


WINDOWS_64 = windows_of([30, 20], high=64)


@pytest.mark.parametrize("lengths", [[1], [1, 1, 1]])
def test_nothing_to_score(lengths, small_model):
    with pytest.raises(DataError, match="not one token"):
        token_nats(small_model, windows_of(lengths, high=64))
    ignored = dataclasses.replace(WINDOWS_64, ignored=np.ones(50, bool))
    with pytest.raises(DataError, match="not one token"):
        token_nats(small_model, ignored)


def test_an_output_layer_with_something_behind_it_is_not_sliced(small_model):
    small_model.lm_head.register_forward_hook(lambda module, args, output: output / 2)
    windows = windows_of([9, 5], high=64)
    np.testing.assert_allclose(
        token_nats(small_model, windows), slow(small_model, windows), rtol=1e-5
    )


def test_float32_is_float32_after_a_training_in_bfloat16(small_model):
    """accelerate leaves a forward in a model that computes in bfloat16."""
    expected = token_nats(small_model, WINDOWS_64)
    AcceleratorState._reset_state(
        reset_partial_state=True
    )  # another test may have chosen a precision
    prepared = Accelerator(mixed_precision="bf16", cpu=True).prepare(small_model)
    AcceleratorState._reset_state(reset_partial_state=True)
    patched = prepared.forward
    np.testing.assert_array_equal(token_nats(prepared, WINDOWS_64), expected)
    assert prepared.forward == patched


class Scaled(torch.nn.Linear):
    """An output layer with a factor near 1 for each token, as Dory has it."""

    def forward(self, hidden):
        return super().forward(hidden) * torch.linspace(0.9997, 1.0003, self.out_features)


def test_an_output_layer_that_does_more_than_a_product_is_not_sliced(small_model):
    head = Scaled(32, 64, bias=False)
    head.weight = small_model.lm_head.weight
    small_model.lm_head = head
    head.weight.data *= 100
    inputs, _ = WINDOWS_64.batch(np.array([0]))
    with torch.no_grad():
        assert not tiled_loss.sliceable(small_model, inputs)
    np.testing.assert_allclose(
        token_nats(small_model, WINDOWS_64), slow(small_model, WINDOWS_64), rtol=1e-5
    )


def test_a_model_whose_decoder_is_its_output_layer(small_model, monkeypatch):
    """ModernBERT's head has a layer `decoder`, which transformers takes for the model."""
    monkeypatch.setattr(small_model, "get_decoder", lambda: small_model.lm_head)
    np.testing.assert_allclose(
        token_nats(small_model, WINDOWS_64), slow(small_model, WINDOWS_64), rtol=1e-5
    )


def test_a_model_without_attention_heads():
    torch.manual_seed(0)
    model = MambaForCausalLM(
        MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, state_size=4)
    ).eval()
    model.config.use_cache = False
    np.testing.assert_allclose(token_nats(model, WINDOWS_64), slow(model, WINDOWS_64), rtol=1e-5)


def test_a_token_that_the_model_does_not_know_is_said(small_model):
    windows = windows_of([9, 5], high=64)
    windows.ids[11] = 64
    with pytest.raises(ModelError, match=r"Document 1 has token 64, and the model knows 0 to 63"):
        token_nats(small_model, windows)


def test_the_probability_of_a_continuation_is_the_product_over_its_tokens(tokenizer):
    model = load_model("embedded")
    ids = tokenizer("The same").input_ids
    product = 1.0
    for token in tokenizer(" colour scheme").input_ids:
        with torch.no_grad():
            logits = model(torch.tensor([[tokenizer.eos_token_id, *ids]])).logits[0, -1].double()
        product *= float(logits.exp()[token] / logits.exp().sum())
        ids.append(token)
    found = probability(model, tokenizer, "The same", " colour scheme")
    assert found == pytest.approx(product, rel=1e-4)
    assert found < probability(model, tokenizer, "The same", " colour")


def test_the_probability_of_no_text_is_one_and_that_of_a_long_one_is_not_zero(tokenizer):
    model = load_model("embedded")
    assert probability(model, tokenizer, "The same", "") == 1.0
    text = " colour scheme, the tenth of a vegetable" * 5
    ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer("The same" + text).input_ids]])
    with torch.no_grad():
        logs = model(ids[:, :-1]).logits[0].double().log_softmax(-1)
    count = len(tokenizer(text).input_ids)
    log = logs[range(len(logs)), ids[0, 1:]][-count:].sum().item()
    assert log < -110
    assert math.log(probability(model, tokenizer, "The same", text)) == pytest.approx(log, rel=1e-4)
