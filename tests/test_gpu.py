"""On a CUDA device: the same numbers as on the processor, and the whole run there. `make test-gpu` runs it, nothing else does."""

import json

import pytest
import torch

from helpers import load_model, score_documents
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
