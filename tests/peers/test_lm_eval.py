"""Rolling perplexity against lm-evaluation-harness 0.4.13 itself, in float32."""

import importlib.metadata
import math
import re

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from helpers.data import load_examples, texts
from helpers.models import load_model, load_tokenizer, prefix_token
from helpers.perplexity import score_documents

pytestmark = pytest.mark.peers
CLOSE = 1e-4


@pytest.fixture(
    scope="module", params=["embedded", "Llama, whose texts begin with a token of their own"]
)
def both(request):
    """A model and its tokenizer."""
    tokenizer = load_tokenizer("embedded")
    if request.param == "embedded":
        return load_model("embedded"), tokenizer
    tokenizer.bos_token = " the"  # any token but the end of text
    torch.manual_seed(0)
    shape = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=96, **shape)
    model = LlamaForCausalLM(config).eval()
    model.lm_head.weight.data *= 20  # far from guessing
    return model, tokenizer


def documents():
    """Short and long ones, with characters of several bytes, and one longer than the context."""
    some = texts(load_examples("embedded", "train"), "answers.text")[:12]
    return ["Why?", "naïve 雪 🙂 – “so”", *some, " ".join(some)]


def test_each_document_and_the_three_numbers(both):
    from lm_eval.api.instance import Instance
    from lm_eval.api.metrics import bits_per_byte, weighted_perplexity
    from lm_eval.models.huggingface import HFLM

    assert importlib.metadata.version("lm_eval") == "0.4.13"
    model, tokenizer = both
    texts_ = documents()
    peer = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4)
    assert peer.prefix_token_id == prefix_token(tokenizer)
    theirs = peer.loglikelihood_rolling(
        [Instance("loglikelihood_rolling", {}, (t,), 0) for t in texts_], True
    )
    ids = [tokenizer(t, add_special_tokens=False).input_ids for t in texts_]
    ours = score_documents(model, ids, texts_, prefix_token(tokenizer))
    np.testing.assert_allclose(ours.nats, [-x for x in theirs], rtol=CLOSE)
    by_word = [(x, len(re.split(r"\s+", t))) for x, t in zip(theirs, texts_, strict=True)]
    by_byte = [(x, len(t.encode())) for x, t in zip(theirs, texts_, strict=True)]
    byte_perplexity = math.exp(ours.nats.sum() / ours.bytes.sum())
    assert ours.word_perplexity == pytest.approx(weighted_perplexity(by_word), rel=CLOSE)
    assert byte_perplexity == pytest.approx(weighted_perplexity(by_byte), rel=CLOSE)
    assert ours.bits_per_byte == pytest.approx(bits_per_byte(by_byte), rel=CLOSE)
