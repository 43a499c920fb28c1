"""Texts that are shown while they are written: stopped at once, coloured by the model's chances."""

import html
import re
import threading

import ipywidgets
import pytest
import torch

from helpers.engine.writing import Background, Column, knobs
from helpers.generation import continue_texts
from helpers.models import load_model


def test_no_token_is_drawn_after_stop(tokenizer):
    stop, place = threading.Event(), ipywidgets.HTML()
    stop.set()
    column = Column(place, "base", tokenizer, stop)
    [text] = continue_texts(load_model("embedded"), tokenizer, ["Water is"], 50, **column.options())
    assert len(tokenizer(text).input_ids) == len(tokenizer("Water is").input_ids) + 1


def test_the_chance_of_a_token_is_the_models_whatever_the_knobs(tokenizer):
    model, place = load_model("embedded"), ipywidgets.HTML()
    column = Column(place, "base", tokenizer, threading.Event())
    continue_texts(model, tokenizer, ["Water is"], 1, top_k=1, temperature=0.2, **column.options())
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer("Water is").input_ids])).logits[0, -1]
    assert f'title="{logits.softmax(-1).max():.1%}"' in place.value


def test_a_character_of_several_tokens_is_shown_when_it_is_whole(tokenizer):
    place = ipywidgets.HTML()
    column = Column(place, "base", tokenizer, threading.Event())
    options = column.options()
    [before], [after] = options["logits_processor"], options["stopping_criteria"]
    ids = torch.tensor([tokenizer("It is").input_ids])
    for token in tokenizer(" 🙂!", add_special_tokens=False).input_ids:
        before(ids, torch.zeros(1, len(tokenizer)))
        ids = torch.cat([ids, torch.tensor([[token]])], 1)
        after(ids, None)
        assert "\ufffd" not in place.value
    assert html.unescape(re.sub("<[^>]+>", "", place.value)) == "baseIt is 🙂!"


def test_a_second_press_stops_and_an_error_is_said():
    button, said = ipywidgets.Button(description="Continue"), ipywidgets.HTML()
    background, going = Background(button, said), threading.Event()

    def work():
        going.set()
        assert background.stop.wait(60)

    background.start_or_stop(work)
    assert going.wait(60) and button.description == "Stop"
    background.start_or_stop(work)
    background.join()
    assert "Stopped." in said.value and button.description == "Continue"
    background.start_or_stop(lambda: 1 / 0)
    background.join()
    assert "ZeroDivisionError" in said.value and button.description == "Continue"


@pytest.mark.parametrize("start", [{}, {"top_k": 500, "temperature": 3.0, "max_new_tokens": 1}])
def test_the_controls_start_from_what_is_given(start):
    usual = {"max_new_tokens": 60, "temperature": 0.8, "top_k": 50, "top_p": 0.95, "seed": 0}
    assert {name: control.value for name, control in knobs(start).items()} == usual | start
