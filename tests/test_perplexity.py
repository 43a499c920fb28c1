"""Perplexity against slow float64 formulas, document by document, window by window, without a
batch; and what follows from it.
"""

import math
import random

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

from helpers.chunking import chunk
from helpers.collation import collate
from helpers.engine import memory
from helpers.errors import DataError, ModelError, ParameterError
from helpers.models import load_model
from helpers.perplexity import (
    Score,
    compare,
    interval,
    score_blocks,
    score_documents,
    score_stride,
)

CLOSE = 1e-6  # logits are float32 numbers, whose eps is 1.2e-7
VOCABULARY, CONTEXT, PREFIX = 64, 32, 0
LENGTHS = (5, 0, 1, CONTEXT - 1, 12, CONTEXT, CONTEXT + 1, 2 * CONTEXT, 20 * CONTEXT + 7, 3)


def documents_of(lengths, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.integers(1, VOCABULARY, n).tolist() for n in lengths]


DOCUMENTS = documents_of(LENGTHS)


BUDGETS = (1, 3 * CONTEXT, 100 * CONTEXT)  # tokens in a batch


def scored(model, documents, **more):
    return score_documents(model, documents, [""] * len(documents), PREFIX, **more)


def strided(model, documents, stride, **more):
    return score_stride(model, documents, [""] * len(documents), stride, **more)


@pytest.fixture(params=BUDGETS, ids=[f"{n} tokens at once" for n in BUDGETS])
def budget(request, monkeypatch):
    """The tests that ask for it run with batches of one window, of a few, and of all."""
    monkeypatch.setitem(memory.MOST, "cpu", request.param)


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    top = logits.max(-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))


def log_likelihoods(model, seen):
    with torch.no_grad():
        return log_softmax(model(torch.tensor([seen])).logits[0].numpy())


def rolling(model, ids):
    """lm-evaluation-harness: the tokens are cut into pieces as long as the context; a piece is
    predicted from the tokens before its last one, as many as the context holds, where a prefix
    stands before the first token of all.
    """
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
    model.lm_head.weight = torch.nn.Parameter(
        -torch.tensor(nats, dtype=torch.float32)[:, None].repeat(1, 8)
    )
    return model


def blocks_of(lengths, block_size=16, strategy="concat"):
    tokens = DatasetDict(test=Dataset.from_dict({"input_ids": documents_of(lengths)}))
    return chunk(tokens, block_size, PREFIX, strategy)[0]["test"]


@pytest.mark.parametrize("number", range(len(LENGTHS)), ids=[f"{n} tokens" for n in LENGTHS])
def test_a_document_against_the_rolling_log_likelihood(number, small_model, budget):
    ours = scored(small_model, DOCUMENTS)
    assert ours.nats[number] == pytest.approx(rolling(small_model, DOCUMENTS[number]), rel=CLOSE)
    assert ours.tokens[number] == LENGTHS[number]
    assert ours.nats.dtype == np.float64


def test_dropout_is_off_while_a_model_is_scored(small_model):
    blocks = blocks_of((5, 40, 9))
    calm = scored(small_model, DOCUMENTS).loss, score_blocks(small_model, blocks).loss
    assert scored(small_model.train(), DOCUMENTS).loss == calm[0]
    assert score_blocks(small_model.train(), blocks).loss == calm[1]


probabilities = np.random.default_rng(0).dirichlet(np.ones(16)).clip(1e-3)
SURPRISE = -np.log(probabilities / probabilities.sum())
UNIGRAM = constant(SURPRISE)


@given(
    documents=st.lists(st.lists(st.integers(0, 15), max_size=40), min_size=1, max_size=5).filter(
        any
    )
)
def test_every_token_is_scored_exactly_once(documents):
    found = score_documents(UNIGRAM, documents, [""] * len(documents), 3)
    assert found.tokens.tolist() == [len(ids) for ids in documents]
    np.testing.assert_allclose(
        found.nats, [sum(SURPRISE[i] for i in ids) for ids in documents], rtol=CLOSE
    )


@pytest.mark.parametrize("documents", [[], [[]], [[], [], []]])
def test_nothing_to_score_is_an_error(documents, small_model):
    with pytest.raises(DataError, match="not one token"):
        scored(small_model, documents)


def test_weights_that_are_not_numbers_stop_with_the_document(small_model, budget):
    small_model.lm_head.weight = torch.nn.Parameter(small_model.lm_head.weight.detach().clone())
    small_model.transformer.wte.weight.data[63] = math.nan
    documents = [[1, 2], [4] * 40, [5], [6, 63, 7], [8] * 3]
    with pytest.raises(ModelError, match="document 3 a loss of nan"):
        scored(small_model, documents)
    assert np.isfinite(scored(small_model, documents[:3]).nats).all()


def test_blocks_that_are_not_numbers_stop_with_the_block(small_model, budget):
    small_model.transformer.wpe.weight.data[9] = math.nan
    blocks = blocks_of((5, 4, 14, 3), strategy="document")
    with pytest.raises(ModelError, match=r"block 2 .*not a number"):
        score_blocks(small_model, blocks)


@pytest.mark.parametrize("strategy", ["concat", "document"])
def test_blocks_against_each_document_by_itself(strategy, small_model, budget):
    blocks = blocks_of((5, 0, 1, 15, 16, 40, 2, 7, 31, 3), 16, strategy)
    nats, tokens = [], []
    for ids, positions in zip(blocks["input_ids"][:], blocks["position_ids"][:], strict=True):
        starts = [i for i, p in enumerate(positions) if p == 0]
        pieces = [ids[a:b] for a, b in zip(starts, [*starts[1:], len(ids)], strict=True)]
        logs = [log_likelihoods(small_model, piece) for piece in pieces]
        nats.append(
            -sum(
                log[i - 1, p[i]]
                for p, log in zip(pieces, logs, strict=True)
                for i in range(1, len(p))
            )
        )
        tokens.append(len(ids) - len(pieces))
    found = score_blocks(small_model, blocks)
    np.testing.assert_allclose(found.nats, nats, rtol=CLOSE)
    assert found.tokens.tolist() == tokens
    assert found.perplexity == pytest.approx(
        math.exp(sum(nats) / sum(tokens)), rel=10 * CLOSE
    )  # exp of a loss of about 4


@pytest.mark.parametrize("ways", [{"remainder": "pad"}, {"strategy": "document", "overlap": 5}])
def test_tokens_that_are_only_seen_are_not_scored(ways, small_model):
    """With padding and overlap, each token of a document but its first is scored once."""
    lengths = (5, 40, 9, 1)
    tokens = DatasetDict(test=Dataset.from_dict({"input_ids": documents_of(lengths)}))
    blocks, account = chunk(tokens, 16, PREFIX, ways.pop("strategy", "concat"), **ways)
    found = score_blocks(small_model, blocks["test"])
    scored = sum(
        (labels != -100).sum() for labels in (collate([b])["labels"][:, 1:] for b in blocks["test"])
    )
    assert found.tokens.sum() == scored == account["test"].tokens_scored
    nats = 0.0
    for block in blocks["test"]:
        batch = collate([block])
        with torch.no_grad():
            logs = log_softmax(
                small_model(batch["input_ids"], position_ids=batch["position_ids"])
                .logits[0]
                .numpy()
            )
        nats -= sum(logs[i - 1, t] for i, t in enumerate(batch["labels"][0].tolist()) if t != -100)
    assert found.nats.sum() == pytest.approx(nats, rel=1e-5)


def test_documents_in_a_block_do_not_see_each_other_where_a_model_takes_no_notice_of_positions():
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=64, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2
    )
    model = OPTForCausalLM(config).eval()
    together = score_blocks(model, blocks_of((9, 6), 32))
    apart = [
        score_blocks(model, blocks_of((9,), 32)),
        strided(model, [[*documents_of((9, 6))[1], PREFIX]], 32),
    ]
    assert together.nats.sum() == pytest.approx(sum(score.nats.sum() for score in apart), rel=1e-5)


def test_guessing_has_the_perplexity_of_the_vocabulary(small_model):
    small_model.lm_head.weight = torch.nn.Parameter(torch.zeros(VOCABULARY, 32))
    assert scored(small_model, DOCUMENTS).perplexity == pytest.approx(VOCABULARY, rel=CLOSE)
    assert score_blocks(small_model, blocks_of((5, 40, 9))).perplexity == pytest.approx(
        VOCABULARY, rel=CLOSE
    )


def test_certainty_has_perplexity_1():
    model = constant([1000.0] * 5 + [0.0] + [1000.0] * 10)
    assert scored(model, [[5] * 30, [5]]).perplexity == 1
    assert scored(model, [[5] * 30, [4]]).loss == pytest.approx(1000 / 31, rel=CLOSE)


@given(documents=st.lists(st.text(), min_size=1, max_size=5))
def test_bits_per_byte_and_word_perplexity(documents):
    tokens = [[1, 2, 3] for _ in documents]
    found = score_documents(UNIGRAM, tokens, documents, 0)
    octets = sum(
        1 if ord(c) < 0x80 else 2 if ord(c) < 0x800 else 3 if ord(c) < 0x10000 else 4
        for t in documents
        for c in t
    )
    words = sum(len("".join(" " if c.isspace() else "x" for c in t).split()) for t in documents)
    assert (found.bytes.sum(), found.words.sum()) == (octets, words)
    if octets and words:
        total = sum(SURPRISE[1:4]) * len(documents)
        assert found.bits_per_byte == pytest.approx(total / math.log(2) / octets, rel=CLOSE)
        assert math.log(found.word_perplexity) == pytest.approx(total / words, rel=CLOSE)


def test_bits_and_words_of_a_known_text():
    found = score_documents(UNIGRAM, [[1, 2], [3]], ["naïve 雪 🙂", "one\ntwo"], 0)
    assert (found.bytes.tolist(), found.words.tolist()) == ([6 + 1 + 3 + 1 + 4, 7], [3, 2])


def test_text_without_spaces_has_a_word_perplexity_too():
    """A text of one long 'word': more nats than exp can take."""
    found = a_score([5000.0], [1000])
    assert found.word_perplexity == math.inf


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


def a_score(nats, tokens, **changes):
    """A score of documents with so many nats and tokens, the nats spread evenly over the tokens."""
    spread = np.concatenate(
        [np.full(n, total / max(n, 1)) for total, n in zip(nats, tokens, strict=True)]
    )
    ones = np.ones(len(tokens), np.int64)
    facts = {
        "definition": "rolling",
        "context": 32,
        "stride": 32,
        "first_token": "after the prefix",
        "text": "a hash",
    }
    return Score(
        token_nats=spread, tokens=np.array(tokens), bytes=ones, words=ones, **(facts | changes)
    )


def scores(count=12, seed=3):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 50, count)
    base = rng.normal(4, 0.5, count) * tokens
    return a_score(base, tokens), a_score(base - rng.normal(0.1, 0.2, count) * tokens, tokens)


def quantile(values, share):
    values = sorted(values)
    place = share * (len(values) - 1)
    below = int(place)
    return values[below] + (place - below) * (values[below + 1] - values[below])


def test_compare_against_a_slow_bootstrap():
    base, tuned = scores()
    found = compare(base, tuned, seed=5, samples=300)
    assert found["perplexity_ratio"] == pytest.approx(math.exp(tuned.loss - base.loss), rel=1e-12)
    assert found["perplexity_ratio"] == pytest.approx(tuned.perplexity / base.perplexity, rel=1e-12)
    assert (
        found["share_of_documents_better"]
        == sum(t < b for t, b in zip(tuned.nats, base.nats, strict=True)) / 12
    )
    ratios, differences = [], []
    for drawn in np.random.default_rng(5).integers(0, 12, (300, 12)).tolist():
        losses = [
            sum(s.nats[i] for i in drawn) / sum(s.tokens[i] for i in drawn) for s in (base, tuned)
        ]
        ratios.append(math.exp(losses[1] - losses[0]))
        differences.append(math.exp(losses[1]) - math.exp(losses[0]))
    assert found["perplexity_difference"] == pytest.approx(tuned.perplexity - base.perplexity)
    for name, share in (("low", 0.025), ("high", 0.975)):
        assert found[f"perplexity_ratio_{name}"] == pytest.approx(quantile(ratios, share), rel=1e-9)
        assert found[f"perplexity_difference_{name}"] == pytest.approx(
            quantile(differences, share), rel=1e-9
        )


def test_the_interval_is_that_of_any_other_bootstrap():
    base, tuned = scores(200)
    random.seed(0)
    ratios = []
    for _ in range(1000):
        drawn = random.choices(range(200), k=200)
        ratios.append(
            math.exp(
                sum(tuned.nats[i] - base.nats[i] for i in drawn)
                / sum(base.tokens[i] for i in drawn)
            )
        )
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
        "perplexity_difference": 0,
        "perplexity_difference_low": 0,
        "perplexity_difference_high": 0,
        "share_of_documents_better": 0,
    }


def test_a_model_that_has_gone_wrong_and_a_single_document():
    base = a_score([9.0, 8.0], [3, 2])
    wrong = a_score([9000.0, 8000.0], [3, 2])
    assert compare(base, wrong)["perplexity_ratio"] == math.inf
    with pytest.raises(ModelError, match="two documents"):
        compare(a_score([9.0], [3]), a_score([8.0], [3]))


def test_compare_is_seeded():
    base, tuned = scores()
    assert compare(base, tuned, seed=1) == compare(base, tuned, seed=1)
    assert (
        compare(base, tuned, seed=1)["perplexity_ratio_low"]
        != compare(base, tuned, seed=2)["perplexity_ratio_low"]
    )


def test_empty_documents_do_not_count():
    base, tuned = scores()
    padded = [a_score([*s.nats, 0], [*s.tokens, 0]) for s in (base, tuned)]
    assert compare(*padded) == pytest.approx(compare(base, tuned))
    assert interval(padded[0]) == pytest.approx(interval(base))


def test_the_interval_of_one_model_against_a_slow_bootstrap():
    score = scores()[0]
    drawn = np.random.default_rng(9).integers(0, 12, (2000, 12)).tolist()
    values = [
        math.exp(sum(score.nats[i] for i in d) / sum(score.tokens[i] for i in d)) for d in drawn
    ]
    assert interval(score, seed=9) == pytest.approx(
        (quantile(values, 0.025), quantile(values, 0.975)), rel=1e-9
    )
    assert interval(score)[0] < score.perplexity < interval(score)[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text": "another"}, "different texts or tokens"),
        ({"context": 16}, "context 32 and 16"),
        ({"stride": 16}, "stride 32 and 16"),
        ({"definition": "stride"}, "definition rolling and stride"),
    ],
)
def test_what_was_scored_otherwise_is_not_compared(change, words):
    base, tuned = scores()
    with pytest.raises(ModelError, match=words):
        compare(base, a_score(tuned.nats, tuned.tokens, **change))


def test_another_text_another_order_other_tokens_are_told_apart(small_model):
    ids, texts = [[1, 2, 3], [4, 5]], ["one two", "three"]
    base = score_documents(small_model, ids, texts, PREFIX)
    compare(base, score_documents(small_model, ids, texts, PREFIX))
    others = [
        (ids[::-1], texts),
        (ids, texts[::-1]),
        ([[1, 2], [3, 4, 5]], texts),
        ([[1, 2, 3], [4, 6]], texts),
    ]
    for other in others:
        with pytest.raises(ModelError, match="different texts"):
            compare(base, score_documents(small_model, *other, PREFIX))


def documentations_loop(model, ids, context, stride):
    """The loop of "Perplexity of fixed-length models", window by window, but that it adds up nats
    where labels are.
    """
    nats, tokens, previous = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + context, len(ids))
        logs = log_likelihoods(model, ids[begin:end])
        for i in range(max(previous, begin + 1), end):
            nats -= logs[i - begin - 1, ids[i]]
            tokens += 1
        previous = end
        if end == len(ids):
            break
    return nats, tokens


@pytest.mark.parametrize("stride", [1, 5, CONTEXT // 2, CONTEXT - 1, CONTEXT])
def test_stride_against_the_documentations_loop(stride, small_model, budget):
    found = strided(small_model, DOCUMENTS, stride)
    for number, ids in enumerate(DOCUMENTS):
        nats, tokens = documentations_loop(small_model, ids, CONTEXT, stride)
        assert found.tokens[number] == tokens
        assert found.nats[number] == pytest.approx(nats, rel=1e-5)


@given(
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=4),
    context=st.integers(2, 8),
    data=st.data(),
)
def test_stride_scores_each_token_once_and_says_how_many(lengths, context, data):
    stride = data.draw(st.integers(1, context))
    rng = np.random.default_rng(0)
    documents = [rng.integers(0, 16, n).tolist() for n in lengths]
    counts = [documentations_loop(UNIGRAM, ids, context, stride) for ids in documents]
    if not sum(tokens for _, tokens in counts):
        return
    found = strided(UNIGRAM, documents, stride, context=context)
    assert found.tokens.tolist() == [tokens for _, tokens in counts]
    np.testing.assert_allclose(found.nats, [nats for nats, _ in counts], rtol=1e-5)
    if stride < context:
        assert found.tokens.tolist() == [max(0, n - 1) for n in lengths]


def test_a_stride_as_long_as_the_context_gives_the_blocks_of_one_long_text(small_model):
    ids = DOCUMENTS[8]
    blocks, _ = chunk(
        DatasetDict(test=Dataset.from_dict({"input_ids": [ids]})), 16, None, position_ids=False
    )
    one, other = (
        strided(small_model, [ids], 16, context=16),
        score_blocks(small_model, blocks["test"]),
    )
    assert one.tokens.sum() == other.tokens.sum()
    assert one.loss == pytest.approx(other.loss, rel=CLOSE)


@pytest.mark.parametrize(
    ("stride", "context", "name"),
    [(0, 16, "stride"), (17, 16, "stride"), (4, 1, "context"), (4, 33, "context")],
)
def test_windows_that_cannot_be(stride, context, name, small_model):
    with pytest.raises(ParameterError, match=f"{name} is"):
        strided(small_model, DOCUMENTS, stride, context=context)


def test_texts_and_tokens_that_do_not_belong_together(small_model):
    with pytest.raises(DataError, match="2 documents of tokens and 1 texts"):
        score_documents(small_model, [[1], [2]], ["one"], PREFIX)


def test_by_document_and_by_token(small_model):
    found = scored(small_model, DOCUMENTS)
    assert len(found.token_nats) == sum(LENGTHS)
    place = sum(LENGTHS[:4])
    logs = log_likelihoods(small_model, [PREFIX, *DOCUMENTS[4]])
    slow = [-logs[i, token] for i, token in enumerate(DOCUMENTS[4])]
    np.testing.assert_allclose(found.token_nats[place : place + 12], slow, rtol=1e-5)
    assert found.document_perplexities[4] == pytest.approx(math.exp(sum(slow) / 12), rel=1e-5)
    assert np.isnan(found.document_perplexities[1])


def test_one_document_has_no_interval():
    assert np.isnan(interval(a_score([9.0], [3]))).all()


def test_bfloat16_is_within_two_per_mille_on_the_embedded_model(tokenizer):
    model = load_model("embedded")
    texts = [
        "The sky is blue because air scatters short waves of light more than long ones.",
        "Bread rises. " * 60,
    ]
    ids = [tokenizer(text).input_ids for text in texts]
    exact, fast = (
        score_documents(model, ids, texts, 0, dtype) for dtype in ("float32", "bfloat16")
    )
    assert fast.perplexity != exact.perplexity
    assert fast.perplexity == pytest.approx(exact.perplexity, rel=2e-3)
