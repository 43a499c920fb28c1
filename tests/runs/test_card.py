"""The model card: no folder of this machine, values as they are, names on the Hub in full."""

from types import SimpleNamespace

import pytest
from bs4 import BeautifulSoup
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from helpers.runs.card import model_card
from helpers.runs.folder import NEEDS
from tests.runs.test_report import METRICS, NUMBERS


@pytest.fixture
def card(tmp_path):
    """The model card of a run with a local file and a local model."""

    def write(sources, **changed):
        records = {
            step: {"parameters": {}, "sources": {}, "metrics": METRICS.get(step, {})}
            for step in NEEDS
        }
        records["load"]["parameters"] = {
            "dataset": f"{tmp_path}/mine|2_a.jsonl",
            "split": "train",
            "text_column": "a\n\nb",
            "validation_size": 0.1,
        }
        records["preprocess"]["parameters"] = {"model": str(tmp_path / "net")}
        records["chunk"]["parameters"] = {"block_size": 64}
        records["train"]["parameters"] = {
            "model": str(tmp_path / "net"),
            "sample_prompt": "a | `b`\n<i>_c_",
        }
        records["train"]["versions"] = {"torch": "2"}
        for step, values in changed.items():
            records[step]["parameters"] |= values
            records[step]["sources"] = sources
        return model_card(SimpleNamespace(records=records), NUMBERS)

    return write


def test_the_card_names_no_folder_of_this_machine(card, tmp_path):
    text = card({})
    assert str(tmp_path) not in text
    assert (
        ModelCard(text).data.to_dict()["model-index"][0]["name"]
        == "net fine-tuned on mine|2_a.jsonl"
    )


def test_the_card_shows_values_as_they_are(card):
    page = BeautifulSoup(
        MarkdownIt().enable("table").render(card({}).split("---\n", 2)[2]), "html.parser"
    )
    assert page.h1.text == "net fine-tuned on mine|2_a.jsonl" and not page.find_all(["i", "em"])
    rows = dict(
        tuple(cell.text for cell in row.find_all("td"))
        for row in page.find_all("table")[1].tbody.find_all("tr")
    )
    assert (
        rows["train.sample_prompt"] == repr("a | `b`\n<i>_c_")
        and rows["load.dataset"] == "'mine|2_a.jsonl'"
    )
    assert rows["train.model"] == rows["preprocess.model"] == "'net'"


def test_the_card_names_what_is_on_the_hub_in_full(card):
    text = card({"model": "user/net@c0ffee"}, train={"model": "user/net"})
    assert "user/net (commit `c0ffee`)" in text and ModelCard(text).data.base_model == "user/net"


@pytest.mark.parametrize("validation_size", [0.1, 0])
def test_the_card_says_when_the_epoch_was_chosen_on_the_test_part(card, validation_size):
    text = card({}, load={"validation_size": validation_size})
    assert ("flatters the result" in text) == (validation_size == 0)
