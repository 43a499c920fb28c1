"""What the pages of blocks and documents hold, against the blocks and logits themselves."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset

from helpers.chunking import chunk
from helpers.engine import page_data
from helpers.engine.page_data import (
    MOST,
    block_data,
    document_data,
    frequent_first,
    sizes_near,
)
from helpers.models import load_model
from helpers.perplexity import score_documents


@pytest.fixture(scope="module")
def documents():
    """Documents of 0 to 899 tokens, far more than a page shows."""
    random, lengths = np.random.default_rng(3), (300, 0, 5, 899, 64, 1, *range(30, 70), *[400] * 99)
    rows = [random.integers(1, 4000, length).tolist() for length in lengths]
    return Dataset.from_dict({"input_ids": rows})


def blocks_of(data, way):
    """The ids and positions of the blocks of a way to cut, from what the page holds."""
    ids = [data["ids"][place] for place in data["tokens"]]
    for row in way["rows"]:
        parts = [row[i : i + 4] for i in range(0, len(row), 4)]
        block = [ids[first : first + length] for first, length, _, _ in parts]
        yield sum(block, []), [n for _, length, _, _ in parts for n in range(length)]


@pytest.mark.parametrize("ends", [True, False])
def test_the_page_of_blocks_holds_what_chunk_makes(documents, tokenizer, ends):
    end = tokenizer.eos_token_id if ends else None
    coder = SimpleNamespace(eos_token_id=end, decode=tokenizer.decode)
    data = block_data(chunk, documents, coder, 256, (48, "pack"))
    assert {way["size"] for way in data["ways"]} == {16, 32, 48, 64, 128}
    for way in data["ways"]:
        blocks, account = chunk(documents, way["size"], end, way["strategy"])
        assert (way["blocks"], way["cut"]) == (account.blocks, account.documents_cut)
        assert way["filled"] == pytest.approx(account.places_filled, abs=1e-4)
        shown = list(blocks_of(data, way))
        assert len(shown) == len(blocks) or MOST - way["size"] < sum(len(ids) for ids, _ in shown)
        columns = zip(blocks["input_ids"], blocks["position_ids"], strict=True)
        assert shown == [both for both, _ in zip(columns, shown, strict=False)]


def test_the_parts_of_a_block_name_their_documents(documents, tokenizer):
    data = block_data(chunk, documents, tokenizer, 256, (256, "concat"))
    (way,) = (w for w in data["ways"] if (w["size"], w["strategy"]) == (256, "concat"))
    # 300 tokens and an end, an empty document with its end, 5 tokens and an end, 899 tokens
    expected = [[256, 0, 1], [45, 0, 0, 1, 1, 1, 6, 2, 1, 204, 3, 1], [256, 3, 0]]
    assert [[n for i, n in enumerate(row) if i % 4] for row in way["rows"][:3]] == expected


def test_a_block_longer_than_the_page_is_cut_short(tokenizer):
    long = Dataset.from_dict({"input_ids": [[7] * 5000]})
    data = block_data(chunk, long, tokenizer, 4096, (4096, "concat"))
    assert [len(ids) for ids, _ in blocks_of(data, data["ways"][-1])] == [MOST]


def test_five_sizes_near_the_own_one():
    assert sizes_near(256, 256) == [16, 32, 64, 128, 256]
    assert sizes_near(256, 1024) == [64, 128, 256, 512, 1024]
    assert sizes_near(100, 1024) == [32, 64, 100, 128, 256]
    assert sizes_near(4, 4) == [4]


def test_the_most_frequent_token_has_the_shortest_number():
    rows = [[9, 5, 9], [5, 9, 7]]
    assert (frequent_first(rows), rows) == ([9, 5, 7], [[0, 1, 0], [1, 0, 2]])


@pytest.fixture(scope="module")
def models():
    models = {"base": load_model("embedded"), "other": load_model("embedded")}
    models["other"].get_output_embeddings().weight.data[::3] *= 1.3
    return models


def test_the_page_of_documents_holds_the_models_nats_and_guesses(models, tokenizer):
    texts, prefix = ["Water boils at 100 °C. " * 30, "The sea is"], tokenizer.eos_token_id
    documents = tokenizer(texts).input_ids
    scores = [score_documents(model, documents, texts, prefix) for model in models.values()]
    data = document_data(models, tokenizer, prefix, documents, scores)
    assert data["models"] == ["base", "other"] and len(documents[0]) > 256
    for number, (row, ids) in enumerate(zip(data["documents"], documents, strict=True)):
        shown = ids[:256]  # the models' context
        assert [data["words"][i] for i in row["tokens"]] == [tokenizer.decode([i]) for i in shown]
        assert row["count"] == len(ids)
        for place, model in enumerate(models.values()):
            with torch.no_grad():
                logits = model(torch.tensor([[prefix, *shown[:-1]]])).logits[0].double()
            logs = logits - logits.exp().sum(1, keepdim=True).log()
            nats = -logs[range(len(shown)), shown]
            assert row["nats"][place] == pytest.approx((100 * nats).tolist(), abs=0.51)
            assert row["loss"][place] == pytest.approx(
                scores[place].nats[number] / len(ids), abs=1e-4
            )
            shares = np.array(row["shares"][place]).reshape(-1, 5)
            best = logs.exp().sort(descending=True)
            np.testing.assert_allclose(shares, 100 * best.values[:, :5], atol=0.51)
            words = [data["words"][i] for i in row["likeliest"][place]]
            assert words == [tokenizer.decode([i]) for i in best.indices[:, :5].flatten()]


def test_of_many_documents_less_is_shown(models, tokenizer, monkeypatch):
    monkeypatch.setattr(page_data, "SHOWN", 20)
    documents = [[5] * 9] * 4
    scores = [score_documents(model, documents, [""] * 4, 0) for model in models.values()]
    rows = document_data(models, tokenizer, 0, documents, scores)["documents"]
    assert [len(row["tokens"]) for row in rows] == [5] * 4
