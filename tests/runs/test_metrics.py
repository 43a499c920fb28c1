"""The table of perplexities, and the metrics of a run from it."""

import math

import pytest

from helpers.perplexity import score_blocks
from helpers.runs.metrics import definitions, flatten_definitions
from tests.test_perplexity import (
    CONTEXT,
    DOCUMENTS,
    a_score,
    blocks_of,
    scored,
    scores,
    strided,
)


def test_the_metrics_of_a_table():
    base, tuned = scores()
    rows = definitions({"base": [base], "fine-tuned": [tuned]})
    found = flatten_definitions(rows)
    assert found["perplexity_finetuned"] == rows[1]["perplexity"]
    assert found["low_base"] == rows[0]["low"] < found["perplexity_base"]
    other = flatten_definitions([rows[0] | {"definition": "stride"}])
    assert other["bits_per_byte_stride_base"] == rows[0]["bits per byte"]
    assert (found["context_rolling"], found["first_token_rolling"]) == (32, "after the prefix")
    assert found["tokens_rolling"] == rows[0]["tokens"]
    assert not [name for name in found if name.startswith(("model", "definition"))]


def test_the_table_says_what_each_number_is(small_model):
    documents, stride = DOCUMENTS[:5], 8
    found = [
        scored(small_model, documents),
        strided(small_model, documents, stride),
        score_blocks(small_model, blocks_of((5, 40))),
    ]
    rows = definitions({"base": found})
    assert [(r["definition"], r["context"], r["stride"], r["first token"]) for r in rows] == [
        ("rolling", CONTEXT, CONTEXT, "after the prefix"),
        ("stride", CONTEXT, 8, "not scored"),
        ("blocks", 16, 16, "not scored"),
    ]
    for row, score in zip(rows, found, strict=True):
        assert row["model"] == "base"
        assert row["perplexity"] == pytest.approx(math.exp(score.nats.sum() / row["tokens"]))
    assert rows[2]["bits per byte"] is None


def test_what_has_no_number_is_left_empty():
    """An interval of one document, and more nats per word than exp can take."""
    assert definitions({"base": [a_score([9.0], [3])]})[0]["low"] is None
    assert definitions({"base": [a_score([5000.0], [1000])]})[0]["perplexity a word"] is None
