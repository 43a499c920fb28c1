"""The interactive pieces, moved by hand: what they show after each move."""

import html
import json
import re
import time

import ipywidgets
import pytest
import torch
from datasets import Dataset

from helpers.engine.quiz import quiz
from helpers.errors import ParameterError
from helpers.widgets import block_size_slider, next_token, playground, typed_tokens


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


def wait_for(button, name):
    """Wait until a button has a name again."""
    for _ in range(1200):
        if button.description == name:
            return
        time.sleep(0.05)
    raise AssertionError(f"the button is still {button.description!r}")


def words_of(column):
    """The text of a column without its marks and its head."""
    text = column.value.split("</b>", 1)[1]
    return html.unescape(re.sub("<[^>]+>", "", text))


def test_the_playground_writes_what_continue_text_writes_with_every_model(tokenizer):
    from helpers.generation import continue_text
    from helpers.models import load_model

    model = load_model("embedded")
    start = {"max_new_tokens": 12, "temperature": 1.3, "top_k": 0, "top_p": 1.0, "seed": 3}
    box = playground({"one": model, "<two>": model}, tokenizer, "The <water", **start)
    button, (said, columns) = only(box, ipywidgets.Button), box.children[-2:]
    button.click()
    assert button.description in ("Stop", "Continue")  # the click does not wait for the text
    wait_for(button, "Continue")
    expected = continue_text(model, tokenizer, "The <water", **start)
    assert [words_of(column) for column in columns.children] == [expected, expected]
    assert "<b>&lt;two&gt;</b>" in columns.children[1].value and "Done." in said.value


def test_the_playground_explains_a_mistake(tokenizer):
    from helpers.models import load_model

    box = playground({"one": load_model("embedded")}, tokenizer, "water " * 100)
    button, said = only(box, ipywidgets.Button), box.children[-2]
    only(box, ipywidgets.IntSlider, "max_new_tokens").value = 200
    button.click()
    wait_for(button, "Continue")
    assert "max_new_tokens is 200" in said.value
    only(box, ipywidgets.IntText).value = -1
    only(box, ipywidgets.Textarea).value = "water"
    button.click()
    wait_for(button, "Continue")
    assert "seed is -1" in said.value


def test_what_is_typed_is_shown_as_tokens_with_ids(tokenizer):
    box = typed_tokens(tokenizer, "Water")
    line, boxes = box.children
    line.value = "Water <b> boils"
    ids = tokenizer("Water <b> boils").input_ids
    assert re.findall(r"<small>(\d+)</small>", boxes.value) == [str(i) for i in ids]
    assert f"{len(ids)} tokens" in boxes.value and "<b>" not in boxes.value
    line.value = ""
    assert "0 tokens" in boxes.value


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
        lambda t: typed_tokens(t, "a"),
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
