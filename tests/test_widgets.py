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
from helpers.errors import DataError, ParameterError
from helpers.models import load_model
from helpers.perplexity import score_documents
from helpers.widgets import blocks_page, documents_page, next_token, playground, typed_tokens


def only(box, kind, description=""):
    """The one widget of a kind in a box."""
    [found] = [
        w
        for w in box.children
        if type(w) is kind and (not description or w.description == description)
    ]
    return found


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


def data_of(text):
    """What a page shows, from its HTML."""
    return json.loads(text.split('<script type="application/json">')[1].split("</script>")[0])


def still_of(text):
    """The text that stands there where no script runs."""
    return html.unescape(re.sub("<[^>]+>", "", text.split("<style>")[0]))


def test_the_page_of_blocks_starts_as_it_was_asked(tokenizer):
    documents = Dataset.from_dict({"input_ids": [tokenizer("Salt <b> &").input_ids, [5] * 90]})
    text = blocks_page(documents, tokenizer, 64, (32, "pack")).data
    assert data_of(text)["start"] == [32, "pack"] and len(data_of(text)["ways"]) == 9
    assert "begin: Salt <b> &<|endoftext|>" in still_of(text)


def test_the_page_of_documents_scores_texts_of_your_own(tokenizer):
    models = {"base": load_model("embedded"), "fine-tuned": load_model("embedded")}
    texts = ["", "Salt <b> & water", "Stars"]
    text = documents_page(models, tokenizer, texts).data
    [salt, stars] = data_of(text)["documents"]  # nothing of the empty one
    score = score_documents(models["base"], tokenizer(texts).input_ids, texts, 0)
    assert salt["loss"][0] == pytest.approx(score.nats[1] / score.tokens[1], abs=1e-4)
    assert stars["count"] == score.tokens[2]
    assert "baseSalt <b> & water" in still_of(text) and "Stars" in still_of(text)
    with pytest.raises(DataError, match="texts are empty"):
        documents_page(models, tokenizer, ["", ""])


def test_the_next_token_page_holds_the_models_logits(tokenizer):
    model = load_model("embedded")
    text = next_token(model, tokenizer, "The <b> water", top_k=7).data
    assert len(text.encode()) < 120_000
    data = data_of(text)
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer("The <b> water").input_ids])).logits[0, -1]
    assert data["tree"]["logits"] == pytest.approx(logits.topk(200).values.tolist(), abs=1e-3)
    assert data["settings"] == {"temperature": 1.0, "top_k": 7, "top_p": 1.0, "min_p": 0.0}
    with pytest.raises(ParameterError, match="prompt is ''"):
        next_token(model, tokenizer, "")


def test_the_next_token_page_goes_no_further_than_the_context(tokenizer):
    from helpers.models import load_model

    text = next_token(load_model("embedded"), tokenizer, " a" * 255).data
    data = json.loads(text.split('<script type="application/json">')[1].split("</script>")[0])
    assert len(data["tree"]["next"]) == 5
    assert not any("next" in node for node in data["tree"]["next"])


def test_a_second_tokenizer_stands_beside_the_first(tokenizer):
    single = tokenizer.train_new_from_iterator([], 257)  # bytes, and the end of a text
    line, boxes = typed_tokens(tokenizer, "Water", single).children
    for sentence in ("Water", "é <b>"):
        line.value = sentence
        counts = [len(tokenizer(sentence).input_ids), len(sentence.encode())]
        said = re.findall(r"(\d+) tokens, from a vocabulary of ([\d,]+)", boxes.value)
        assert said == [(str(counts[0]), "4,096"), (str(counts[1]), "257")]
        assert boxes.value.count("<small>") == sum(counts) and "<b>" not in boxes.value
