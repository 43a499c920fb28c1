"""The metrics of a run from the table of perplexities."""

from helpers.perplexity import definitions
from helpers.runs.metrics import flatten_definitions
from tests.test_perplexity import scores


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
