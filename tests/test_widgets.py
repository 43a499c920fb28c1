"""The interactive pieces, moved by hand: what they show after each move."""

import json

import ipywidgets
import pytest
import torch
from datasets import Dataset

from helpers.errors import ParameterError
from helpers.widgets import block_size_slider, next_token, playground, quiz


def only(box, kind, description=""):
    """The one widget of a kind in a box."""
    [found] = [
        w
        for w in box.children
        if type(w) is kind and (not description or w.description == description)
    ]
    return found


def test_the_slider_offers_no_block_beyond_the_context_and_draws_each_size(tokenizer):
    documents = Dataset.from_dict({"input_ids": [[5] * 100, [6] * 50]})
    box = block_size_slider(documents, tokenizer, 64)
    size, (said, picture) = only(box, ipywidgets.SelectionSlider), box.children[2:]
    assert size.options == (16, 32, 64) and size.value == 64
    assert picture.value.count("monospace") == 100 + 50 + 2 and "3 blocks" in said.value
    size.value = 16
    assert picture.value.count("monospace") == 3 * 16 and "10 blocks" in said.value
    only(box, ipywidgets.Dropdown).value = "document"
    assert "11 blocks" in said.value


def test_the_slider_says_what_is_wrong_in_a_sentence(tokenizer):
    box = block_size_slider(Dataset.from_dict({"input_ids": [[]]}), tokenizer, 64)
    assert "No block comes out" in box.children[2].value


def test_the_playground_writes_with_every_model_and_explains_a_mistake(tokenizer):
    from helpers.models import load_model

    models = {"one": load_model("embedded"), "<two>": load_model("embedded")}
    box = playground(models, tokenizer, "The water")
    button, output = only(box, ipywidgets.Button), only(box, ipywidgets.HTML)
    length = only(box, ipywidgets.IntSlider, "new tokens")
    length.value = 5
    button.click()
    assert (
        output.value.count("The water") == 2
        and "<b>one</b>" in output.value
        and "&lt;two&gt;" in output.value
    )
    length.value = 200
    only(box, ipywidgets.Textarea).value = "water " * 100
    button.click()
    assert "max_new_tokens is 200" in output.value and "<b>" not in output.value


def test_the_quiz_counts_what_was_guessed_right():
    box = quiz(["A", "B", "B"])
    guesses = [w for w in box.children if type(w) is ipywidgets.ToggleButtons]
    button, output = only(box, ipywidgets.Button), only(box, ipywidgets.HTML)
    guesses[0].value, guesses[1].value = "A", "A"
    button.click()
    assert output.value == "1 to go"  # nothing of the key before all are guessed
    guesses[2].value = "B"
    button.click()
    assert output.value == "2 of 3 right"


@pytest.mark.parametrize(
    "make",
    [
        lambda t: block_size_slider(Dataset.from_dict({"input_ids": [[1] * 99]}), t, 64),
        lambda t: playground({}, t, ""),
        lambda t: quiz(["A"]),
    ],
)
def test_no_widget_makes_a_batch_run_wait(make, tokenizer):
    """nbclient answers an Output on the channel on which it waits for the end, and may miss it."""
    before = set(ipywidgets.Widget.get_manager_state()["state"])
    make(tokenizer)
    state = ipywidgets.Widget.get_manager_state()["state"]
    assert not [
        w for key, w in state.items() if key not in before and w["model_name"] == "OutputModel"
    ]


def test_the_next_token_page_holds_the_models_logits(tokenizer):
    from helpers.models import load_model

    model = load_model("embedded")
    text = next_token(model, tokenizer, "The <b> water", top_k=7).data
    data = json.loads(text.split('<script type="application/json">')[1].split("</script>")[0])
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer("The <b> water").input_ids])).logits[0, -1]
    assert data["logits"] == pytest.approx(logits.topk(300).values.tolist(), abs=1e-3)
    assert data["tokens"][0] == tokenizer.decode([int(logits.argmax())])
    assert data["settings"] == {"temperature": 1.0, "top_k": 7, "top_p": 1.0, "min_p": 0.0}
    with pytest.raises(ParameterError, match="prompt is ''"):
        next_token(model, tokenizer, "")
