"""On a CUDA device: the same numbers as on the processor, and the whole run there. `make test-gpu`
runs it, nothing else does.
"""

import json

import pytest
import torch

import helpers.engine.tiled_loss
from helpers.collation import collate
from helpers.engine.tiled_loss import use_tiled_loss
from helpers.models import load_model
from helpers.perplexity import score_documents
from tests.small_models import small
from tests.small_training import blocks_of
from tests.test_whole import SMALL, command

pytestmark = pytest.mark.gpu


def test_the_gpu_gives_the_processors_perplexity(tokenizer):
    texts = ["Water boils at 100 degrees.", "The moon pulls at the sea, and the sea follows. " * 20]
    ids = [tokenizer(text).input_ids for text in texts]
    on_gpu = load_model("embedded")
    assert on_gpu.device.type == "cuda"
    there = score_documents(on_gpu, ids, texts, tokenizer.eos_token_id)
    here = score_documents(load_model("embedded").to("cpu"), ids, texts, tokenizer.eos_token_id)
    assert there.nats == pytest.approx(here.nats, rel=1e-3)


def test_the_whole_run_uses_the_gpu(tmp_path):
    done = command(tmp_path / "run", *SMALL)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["device"] == "cuda"
    assert metrics["dtype"] == ("bfloat16" if torch.cuda.is_bf16_supported() else "float32")
    assert metrics["perplexity_finetuned"] < metrics["perplexity_base"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_use_tiled_loss_on_a_gpu_is_that_of_the_model(dtype, monkeypatch):
    """In float32 to 1e-3 (TF32), in bfloat16 to its rounding."""
    monkeypatch.setattr(helpers.engine.tiled_loss, "SMALL", 0)
    model, batch = (
        small().cuda(),
        {k: v.cuda() for k, v in collate(list(blocks_of([15, 3, 9]))).items()},
    )

    def gradients():
        model.zero_grad()
        with torch.autocast("cuda", dtype, enabled=dtype == torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])

    loss, right = gradients()
    assert use_tiled_loss(model)
    ours, found = gradients()
    assert ours == pytest.approx(loss, rel=1e-3 if dtype == torch.float32 else 1e-2)
    assert (found - right).norm() < (1e-3 if dtype == torch.float32 else 3e-2) * right.norm()
