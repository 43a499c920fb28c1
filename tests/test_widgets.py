"""The interactive pieces, moved by hand: what they show after each move."""

import ipywidgets
import pytest
from datasets import Dataset, DatasetDict

from helpers.widgets import block_size_slider, playground


@pytest.fixture
def shown(monkeypatch):
    """What the widgets print or display, in order."""
    calls = []
    monkeypatch.setattr("builtins.print", lambda *args, **kwargs: calls.append(" ".join(map(str, args))))
    monkeypatch.setattr("ipywidgets.Output.clear_output", lambda *args, **kwargs: None)
    monkeypatch.setattr("IPython.display.display", lambda *things, **kwargs: calls.extend(things))
    return calls


def test_the_slider_offers_no_block_beyond_the_context_and_draws_each_size(shown):
    tokenized = DatasetDict(train=Dataset.from_dict({"input_ids": [[5] * 100, [6] * 50]}))
    slider = block_size_slider(tokenized, 0, 64)
    size = next(w for w in slider.children if isinstance(w, ipywidgets.SelectionSlider))
    assert size.options == (16, 32, 64)
    shown.clear()
    size.value = 16
    slider.update()
    assert any("10 blocks" in str(call) for call in shown)


def test_the_slider_says_what_is_wrong_in_a_sentence(shown):
    tokenized = DatasetDict(train=Dataset.from_dict({"input_ids": [[]]}))
    slider = block_size_slider(tokenized, 0, 64)
    slider.update()
    assert any("No block comes out" in str(call) for call in shown)


def test_the_playground_writes_with_every_model_and_explains_a_mistake(shown, tokenizer):
    from helpers import load_model

    models = {"one": load_model("embedded"), "two": load_model("embedded")}
    box = playground(models, tokenizer, "The water")
    button = next(w for w in box.children if isinstance(w, ipywidgets.Button))
    length = next(w for w in box.children if getattr(w, "description", "") == "new tokens")
    length.value = 5
    shown.clear()
    button.click()
    assert [text.split("\n")[0] for text in shown] == ["one", "two"]
    assert all(text.split("\n")[1].startswith("The water") for text in shown)
    shown.clear()
    length.value = 200
    next(w for w in box.children if getattr(w, "description", "") == "prompt").value = "water " * 100
    button.click()
    assert len(shown) == 1 and "max_new_tokens is 200" in str(shown[0])
