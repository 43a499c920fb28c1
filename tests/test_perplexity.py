"""Perplexity against slow float64 formulas, document by document, window by window, without a batch."""

import math
import random

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from helpers import chunk, compare, score_blocks, score_documents
from helpers.errors import DataError, ModelError
from helpers.perplexity import Score, row_nats

CLOSE = 1e-6  # logits are float32 numbers, whose eps is 1.2e-7
VOCABULARY, CONTEXT, PREFIX = 64, 32, 0
LENGTHS = (5, 0, 1, CONTEXT - 1, 12, CONTEXT, CONTEXT + 1, 2 * CONTEXT, 20 * CONTEXT + 7, 3)


def documents_of(lengths, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.integers(1, VOCABULARY, n).tolist() for n in lengths]


DOCUMENTS = documents_of(LENGTHS)


def scored(model, documents, batch_size=7):
    return score_documents(model, documents, [""] * len(documents), PREFIX, batch_size)


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    top = logits.max(-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))


def log_likelihoods(model, seen):
    with torch.no_grad():
        return log_softmax(model(torch.tensor([seen])).logits[0].numpy())


def rolling(model, ids):
    """lm-evaluation-harness: the tokens are cut into pieces as long as the context; a piece is predicted from the tokens
    before its last one, as many as the context holds, where a prefix stands before the first token of all."""
    stream, total = [PREFIX, *ids], 0.0
    for first in range(1, len(stream), CONTEXT):
        last = min(first + CONTEXT - 1, len(stream) - 1)
        seen = stream[max(0, last - CONTEXT) : last]
        logs = log_likelihoods(model, seen)
        total -= sum(logs[len(seen) - 1 - (last - i), stream[i]] for i in range(first, last + 1))
    return total


def constant(nats):
    """A model that gives token i the log probability -nats[i], whatever came before."""
    config = GPT2Config(vocab_size=len(nats), n_positions=8, n_layer=1, n_embd=8, n_head=1)
    model = GPT2LMHeadModel(config).eval()
    model.transformer.ln_f.weight.data.zero_()
    model.transformer.ln_f.bias.data.fill_(1 / 8)
    model.lm_head.weight = torch.nn.Parameter(-torch.tensor(nats, dtype=torch.float32)[:, None].repeat(1, 8))
    return model


def blocks_of(lengths, block_size=16, strategy="concat"):
    tokens = DatasetDict(test=Dataset.from_dict({"input_ids": documents_of(lengths)}))
    return chunk(tokens, block_size, PREFIX, strategy)[0]["test"]


@pytest.mark.parametrize("number", range(len(LENGTHS)), ids=[f"{n} tokens" for n in LENGTHS])
def test_a_document_against_the_rolling_log_likelihood(number, small_model):
    ours = scored(small_model, DOCUMENTS)
    assert ours.nats[number] == pytest.approx(rolling(small_model, DOCUMENTS[number]), rel=CLOSE)
    assert ours.tokens[number] == LENGTHS[number]
    assert ours.nats.dtype == np.float64


def test_document_scores_do_not_depend_on_the_batch_size(small_model):
    one, *others = (scored(small_model, DOCUMENTS, size) for size in (1, 2, 7, 100))
    for other in others:
        np.testing.assert_allclose(other.nats, one.nats, rtol=CLOSE)
        np.testing.assert_array_equal(other.tokens, one.tokens)


def test_dropout_is_off_while_a_model_is_scored(small_model):
    blocks = blocks_of((5, 40, 9))
    calm = scored(small_model, DOCUMENTS).loss, score_blocks(small_model, blocks).loss
    assert scored(small_model.train(), DOCUMENTS).loss == calm[0]
    assert score_blocks(small_model.train(), blocks).loss == calm[1]


probabilities = np.random.default_rng(0).dirichlet(np.ones(16)).clip(1e-3)
SURPRISE = -np.log(probabilities / probabilities.sum())
UNIGRAM = constant(SURPRISE)


@given(documents=st.lists(st.lists(st.integers(0, 15), max_size=40), min_size=1, max_size=5), size=st.integers(1, 9))
def test_every_token_is_scored_exactly_once(documents, size):
    if not any(documents):
        return
    found = score_documents(UNIGRAM, documents, [""] * len(documents), 3, size)
    assert found.tokens.tolist() == [len(ids) for ids in documents]
    np.testing.assert_allclose(found.nats, [sum(SURPRISE[i] for i in ids) for ids in documents], rtol=CLOSE)


@pytest.mark.parametrize("documents", [[], [[]], [[], [], []]])
def test_nothing_to_score_is_an_error(documents, small_model):
    with pytest.raises(DataError, match="not one token"):
        scored(small_model, documents)


def test_weights_that_are_not_numbers_stop_with_the_document(small_model):
    small_model.lm_head.weight = torch.nn.Parameter(small_model.lm_head.weight.detach().clone())
    small_model.transformer.wte.weight.data[63] = math.nan
    documents = [[1, 2], [4] * 40, [5], [6, 63, 7], [8] * 3]
    for size in (1, 2, 7):
        with pytest.raises(ModelError, match="document 3 a loss of nan"):
            scored(small_model, documents, size)
    assert np.isfinite(scored(small_model, documents[:3]).nats).all()


def test_blocks_that_are_not_numbers_stop_with_the_block(small_model):
    small_model.transformer.wpe.weight.data[9] = math.nan
    blocks = blocks_of((5, 4, 14, 3), strategy="document")
    for size in (1, 2, 7):
        with pytest.raises(ModelError, match=r"block 2 .*not a number"):
            score_blocks(small_model, blocks, size)


@pytest.mark.parametrize("strategy", ["concat", "document"])
@pytest.mark.parametrize("size", [1, 2, 7])
def test_blocks_against_each_document_by_itself(size, strategy, small_model):
    blocks = blocks_of((5, 0, 1, 15, 16, 40, 2, 7, 31, 3), 16, strategy)
    nats, tokens = [], []
    for ids, positions in zip(blocks["input_ids"][:], blocks["position_ids"][:], strict=True):
        starts = [i for i, p in enumerate(positions) if p == 0]
        pieces = [ids[a:b] for a, b in zip(starts, [*starts[1:], len(ids)], strict=True)]
        logs = [log_likelihoods(small_model, piece) for piece in pieces]
        nats.append(-sum(log[i - 1, p[i]] for p, log in zip(pieces, logs, strict=True) for i in range(1, len(p))))
        tokens.append(len(ids) - len(pieces))
    found = score_blocks(small_model, blocks, size)
    np.testing.assert_allclose(found.nats, nats, rtol=CLOSE)
    assert found.tokens.tolist() == tokens
    assert found.perplexity == pytest.approx(
        math.exp(sum(nats) / sum(tokens)), rel=10 * CLOSE
    )  # exp of a loss of about 4


def test_guessing_has_the_perplexity_of_the_vocabulary(small_model):
    small_model.lm_head.weight = torch.nn.Parameter(torch.zeros(VOCABULARY, 32))
    assert scored(small_model, DOCUMENTS).perplexity == pytest.approx(VOCABULARY, rel=CLOSE)
    assert score_blocks(small_model, blocks_of((5, 40, 9))).perplexity == pytest.approx(VOCABULARY, rel=CLOSE)


def test_certainty_has_perplexity_1():
    model = constant([1000.0] * 5 + [0.0] + [1000.0] * 10)
    assert scored(model, [[5] * 30, [5]]).perplexity == 1
    assert scored(model, [[5] * 30, [4]]).loss == pytest.approx(1000 / 31, rel=CLOSE)


@given(documents=st.lists(st.text(), min_size=1, max_size=5))
def test_bits_per_byte_and_word_perplexity(documents):
    tokens = [[1, 2, 3] for _ in documents]
    found = score_documents(UNIGRAM, tokens, documents, 0)
    octets = sum(
        1 if ord(c) < 0x80 else 2 if ord(c) < 0x800 else 3 if ord(c) < 0x10000 else 4 for t in documents for c in t
    )
    words = sum(len("".join(" " if c.isspace() else "x" for c in t).split()) for t in documents)
    assert (found.bytes, found.words) == (octets, words)
    if octets and words:
        total = sum(SURPRISE[1:4]) * len(documents)
        assert found.bits_per_byte == pytest.approx(total / math.log(2) / octets, rel=CLOSE)
        assert math.log(found.word_perplexity) == pytest.approx(total / words, rel=CLOSE)


def test_bits_and_words_of_a_known_text():
    found = score_documents(UNIGRAM, [[1, 2], [3]], ["naïve 雪 🙂", "one\ntwo"], 0)
    assert (found.bytes, found.words) == (6 + 1 + 3 + 1 + 4 + 7, 5)


def test_text_without_spaces_has_a_word_perplexity_too():
    """A text of one long 'word': more nats than exp can take."""
    assert Score(np.array([5000.0]), np.array([1000]), bytes=3000, words=1).word_perplexity == math.inf


def test_averages_of_batch_averages_are_something_else(small_model):
    small_model.transformer.wte.weight.data *= 20  # documents are hard and easy now
    ours = scored(small_model, DOCUMENTS)
    kept = ours.tokens > 0
    nats, tokens = ours.nats[kept], ours.tokens[kept]

    def averaged(size):
        batches = [slice(i, i + size) for i in range(0, len(nats), size)]
        return np.mean([nats[b].sum() / tokens[b].sum() for b in batches])

    assert ours.loss == pytest.approx(sum(nats.tolist()) / sum(tokens.tolist()), rel=1e-12)
    assert len({round(averaged(size), 3) for size in (1, 2, 7)} | {round(ours.loss, 3)}) == 4
    assert averaged(len(nats)) == pytest.approx(ours.loss, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_row_nats(dtype):
    torch.manual_seed(0)
    logits = (10 * torch.randn(4, 50, 70)).to(dtype)
    labels = torch.randint(0, 70, (4, 50))
    labels[1, 20:] = -100
    labels[2] = -100
    found = row_nats(logits, labels)
    logs = log_softmax(logits.float().numpy())
    slow = [
        -sum(logs[r, i, label] for i, label in enumerate(row) if label != -100) for r, row in enumerate(labels.tolist())
    ]
    assert found.dtype == torch.float64
    assert found[2] == 0
    np.testing.assert_allclose(found.numpy(), slow, rtol=CLOSE)


def test_nats_are_added_up_in_float64():
    """In float32, 2 ** 25 and a few nats are 2 ** 25 again."""
    logits = torch.zeros(1, 9, 4)
    logits[0, 0, 1] = 2.0**25
    assert row_nats(logits, torch.zeros(1, 9, dtype=torch.int64)).item() - 2**25 == pytest.approx(
        8 * math.log(4), rel=CLOSE
    )


def scores(count=12, seed=3):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 50, count)
    base = rng.normal(4, 0.5, count) * tokens
    return Score(base, tokens, 1000, 200), Score(base - rng.normal(0.1, 0.2, count) * tokens, tokens, 1000, 200)


def test_compare_against_a_slow_bootstrap():
    base, tuned = scores()
    found = compare(base, tuned, seed=5, samples=300)
    assert found["perplexity_ratio"] == pytest.approx(math.exp(tuned.loss - base.loss), rel=1e-12)
    assert found["perplexity_ratio"] == pytest.approx(tuned.perplexity / base.perplexity, rel=1e-12)
    assert found["share_of_documents_better"] == sum(t < b for t, b in zip(tuned.nats, base.nats, strict=True)) / 12
    ratios = []
    for drawn in np.random.default_rng(5).integers(0, 12, (300, 12)).tolist():
        losses = [sum(s.nats[i] for i in drawn) / sum(s.tokens[i] for i in drawn) for s in (base, tuned)]
        ratios.append(math.exp(losses[1] - losses[0]))
    ratios.sort()
    for name, share in (("low", 0.025), ("high", 0.975)):
        place = share * 299
        below = int(place)
        value = ratios[below] + (place - below) * (ratios[below + 1] - ratios[below])
        assert found[f"perplexity_ratio_{name}"] == pytest.approx(value, rel=1e-9)


def test_the_interval_is_that_of_any_other_bootstrap():
    base, tuned = scores(200)
    random.seed(0)
    ratios = []
    for _ in range(1000):
        drawn = random.choices(range(200), k=200)
        ratios.append(math.exp(sum(tuned.nats[i] - base.nats[i] for i in drawn) / sum(base.tokens[i] for i in drawn)))
    ratios.sort()
    found = compare(base, tuned)
    spread = ratios[975] - ratios[25]
    assert found["perplexity_ratio_low"] == pytest.approx(
        ratios[25], abs=0.1 * spread
    )  # 4 standard errors of a quantile
    assert found["perplexity_ratio_high"] == pytest.approx(ratios[975], abs=0.1 * spread)


def test_a_model_compared_with_itself():
    base, _ = scores()
    assert compare(base, base) == {
        "perplexity_ratio": 1,
        "perplexity_ratio_low": 1,
        "perplexity_ratio_high": 1,
        "share_of_documents_better": 0,
    }


def test_compare_is_seeded():
    base, tuned = scores()
    assert compare(base, tuned, seed=1) == compare(base, tuned, seed=1)
    assert compare(base, tuned, seed=1)["perplexity_ratio_low"] != compare(base, tuned, seed=2)["perplexity_ratio_low"]


def test_empty_documents_do_not_count_in_a_comparison():
    base, tuned = scores()
    padded = [Score(np.append(s.nats, 0), np.append(s.tokens, 0), s.bytes, s.words) for s in (base, tuned)]
    assert compare(*padded) == compare(base, tuned)


@pytest.mark.parametrize("change", ["tokens", "order", "count", "bytes"])
def test_different_texts_are_not_compared(change):
    base, tuned = scores()
    tokens = {"tokens": tuned.tokens + 1, "order": tuned.tokens[::-1], "count": tuned.tokens[:-1]}.get(
        change, tuned.tokens
    )
    other = Score(tuned.nats[: len(tokens)], tokens, tuned.bytes + (change == "bytes"), tuned.words)
    with pytest.raises(ModelError, match="different tokens"):
        compare(base, other)
