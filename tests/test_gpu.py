"""On a CUDA device: the same numbers as on the processor, and the whole run there. `make test-gpu`
runs it, nothing else does.

Without such a device, what can be tried on the processor runs there, and the rest is skipped.
"""

import gc
import json
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import TrainingArguments

import helpers.engine.tiled_loss
from helpers.collation import collate
from helpers.engine.speed import choose_dtype
from helpers.engine.tiled_loss import use_tiled_loss
from helpers.engine.trainer import runtime_arguments
from helpers.figures import losses_of
from helpers.generation import continue_text
from helpers.hub.sources import PROJECT
from helpers.models import load_model
from helpers.perplexity import score_documents
from helpers.training import BlockTrainer, check_separable
from tests.small_models import llama, small
from tests.small_training import blocks_of, trained, weights
from tests.test_whole import SMALL, command

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CLOSE = 1e-3  # TF32 has 10 bits of fraction, and some sums are in no fixed order

pytestmark = pytest.mark.gpu
needs_cuda = pytest.mark.skipif(DEVICE == "cpu", reason="torch sees no CUDA device")


@needs_cuda
def test_the_gpu_gives_the_processors_perplexity(tokenizer):
    texts = ["Water boils at 100 degrees.", "The moon pulls at the sea, and the sea follows. " * 20]
    ids = [tokenizer(text).input_ids for text in texts]
    on_gpu = load_model("embedded")
    assert on_gpu.device.type == "cuda"
    there = score_documents(on_gpu, ids, texts, tokenizer.eos_token_id)
    here = score_documents(load_model("embedded").to("cpu"), ids, texts, tokenizer.eos_token_id)
    assert there.nats == pytest.approx(here.nats, rel=1e-3)


@needs_cuda
def test_the_whole_run_uses_the_gpu(tmp_path):
    done = command(tmp_path / "run", *SMALL)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["device"] == "cuda"
    assert metrics["dtype"] == choose_dtype()
    assert metrics["perplexity_finetuned"] < metrics["perplexity_base"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_tiled_loss_on_a_gpu_is_that_of_the_model(dtype, monkeypatch):
    """In float32 to 1e-3 (TF32), in bfloat16 to its rounding."""
    monkeypatch.setattr(helpers.engine.tiled_loss, "SMALL", 0)
    model, batch = (
        small().to(DEVICE),
        {k: v.to(DEVICE) for k, v in collate(list(blocks_of([15, 3, 9]))).items()},
    )

    def gradients():
        model.zero_grad()
        with torch.autocast(DEVICE, dtype, enabled=dtype == torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])

    loss, right = gradients()
    assert use_tiled_loss(model)
    ours, found = gradients()
    assert ours == pytest.approx(loss, rel=1e-3 if dtype == torch.float32 else 1e-2)
    assert (found - right).norm() < (1e-3 if dtype == torch.float32 else 3e-2) * right.norm()


def start(folder, **settings):
    """tests.small_training as a process of its own, on the device that is there."""
    folder.mkdir(exist_ok=True)
    program = [sys.executable, "-m", "tests.small_training", str(folder), json.dumps(settings)]
    return subprocess.Popen(program, cwd=PROJECT, stdout=subprocess.DEVNULL)


def test_a_training_that_is_killed_there_ends_with_the_same_losses(tmp_path):
    settings = {"dropout": 0.1, "device": DEVICE}
    assert start(tmp_path / "whole", **settings).wait(600) == 0
    process = start(tmp_path / "killed", **settings, save_every=0, slow=0.05)
    step = tmp_path / "killed" / "step"
    while process.poll() is None and int((step.exists() and step.read_text()) or 0) < 7:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "killed" / "losses.json").exists()
    assert list((tmp_path / "killed" / "checkpoints").glob("checkpoint-*"))
    assert start(tmp_path / "killed", **settings, save_every=0).wait(600) == 0
    whole, killed = (
        json.loads((tmp_path / name / "losses.json").read_text()) for name in ("whole", "killed")
    )
    assert [list(entry) for entry in killed] == [list(entry) for entry in whole]
    for found, right in zip(killed, whole, strict=True):
        assert found == pytest.approx(right, rel=CLOSE)


def wide(folder):
    """Two steps of 32 blocks with logits of 33 MB, and the losses, weights, memory and pieces."""
    gc.collect()  # an earlier trainer, whose objects refer to each other
    model = small(vocab_size=8192).to(DEVICE)
    before = torch.cuda.memory_allocated() if DEVICE == "cuda" else 0
    ids = np.random.default_rng(0).integers(1, 8192, (64, 32)).tolist()
    blocks = Dataset.from_dict({"input_ids": ids})
    settings = {"max_steps": 2, "per_device_train_batch_size": 32, "optim": "sgd"}
    arguments = runtime_arguments(folder, model, "float32") | {"logging_steps": 1}
    arguments |= {"save_strategy": "no", "learning_rate": 0.1}
    trainer = BlockTrainer(model, TrainingArguments(**arguments, **settings), collate, blocks)
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    peak = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else 0
    losses = [e["train_loss"] for e in losses_of(trainer.state) if "train_loss" in e]
    assert len(losses) == 2
    return losses, weights(model), (before, peak), trainer.pieces


@needs_cuda
def test_a_batch_that_does_not_fit_there_is_cut_with_the_same_result(tmp_path, capsys):
    """The process gets a share of the GPU's memory that the whole batch exceeds."""
    wide(tmp_path / "first")  # what the library allocates once
    losses, right, (before, peak), pieces = wide(tmp_path / "whole")
    assert pieces == 1
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((before + 0.6 * (peak - before)) / total)
    try:
        found_losses, found, (_, less), pieces = wide(tmp_path / "cut")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert pieces > 1 and f"cut into {pieces} parts" in capsys.readouterr().out
    assert less < peak
    assert found_losses == pytest.approx(losses, rel=CLOSE)
    moved = (right - weights(small(vocab_size=8192).to(DEVICE))).norm()
    assert (found - right).norm() < 1e-2 * moved


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [small, lambda: llama(True)], ids=["gpt2", "llama"])
def test_documents_in_a_block_stay_apart_there(make, dtype):
    """Whatever the first document says, the second gets the same logits, by sdpa with a mask."""
    model, blocks = make().to(DEVICE).eval(), blocks_of([9, 6] * 4, strategy="pack")
    assert model.config._attn_implementation == "sdpa"
    block = next(b for b in blocks if b["position_ids"].count(0) > 1)
    border = block["position_ids"].index(0, 1)
    ids = torch.tensor([block["input_ids"]], device=DEVICE)
    other, positions = ids.clone(), torch.tensor([block["position_ids"]], device=DEVICE)
    other[0, :border] = other[0, :border] % 62 + 1

    def second(ids, **inputs):
        with torch.no_grad(), torch.autocast(DEVICE, dtype, enabled=dtype == torch.bfloat16):
            return model(input_ids=ids, use_cache=False, **inputs).logits[0, border:].float()

    apart = second(ids, position_ids=positions)
    assert torch.equal(apart, second(other, position_ids=positions))
    assert not torch.allclose(second(ids), second(other), atol=1e-3)  # without positions
    check_separable(model, blocks)


def test_a_text_is_the_same_under_a_seed_there(tokenizer):
    model = load_model("embedded")
    torch.manual_seed(3)
    before = torch.get_rng_state(), torch.rand(1, device=DEVICE)
    torch.manual_seed(3)
    texts = [continue_text(model, tokenizer, "The sky", 24, seed=seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert torch.equal(torch.get_rng_state(), before[0])  # the global random state is left alone
    assert torch.equal(torch.rand(1, device=DEVICE), before[1])


def test_a_compiled_training_there_has_the_same_losses(tmp_path, monkeypatch):
    """Blocks of changing lengths, the loss tile by tile."""
    monkeypatch.setattr(helpers.engine.tiled_loss, "SMALL", 0)
    settings = {"max_steps": 4, "logging_steps": 1}
    losses = []
    for compiled in (False, True):
        folder = tmp_path / str(compiled)
        trainer = trained(folder, small().to(DEVICE), **settings, torch_compile=compiled)
        losses.append([e["train_loss"] for e in losses_of(trainer.state) if "train_loss" in e])
    assert len(losses[0]) == 4 and losses[1] == pytest.approx(losses[0], rel=CLOSE)
