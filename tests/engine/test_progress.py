"""Progress of a step: in a file for a runner, as HTML for a person, as text in a terminal."""

import json

import datasets
import pytest
from bs4 import BeautifulSoup
from transformers.utils import logging

from helpers.engine import progress
from helpers.engine.progress import Progress, no_bars


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_person_sees_one_bar_that_leaves_nothing_behind(clock, monkeypatch):
    pages = []

    class Display:
        def update(self, page):
            pages.append(page.data)

    def display(page, display_id):
        pages.append(page.data)
        return Display()

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(progress, "is_watched", lambda: True)
    monkeypatch.delenv(progress.FILE, raising=False)
    bar = Progress(1000, "rows & more")
    bar.resume(200)
    clock[0] += 1
    bar.advance(100)
    assert not pages, "what takes less than three seconds shows no bar"
    clock[0] += 4
    bar.advance(100, "fast")
    clock[0] += 0.1
    bar.advance(100)
    assert len(pages) == 1, "at most five times a second"
    page = BeautifulSoup(pages[0], "html.parser")
    assert page.progress["value"] == "400" and page.progress["max"] == "1000"
    assert page.text.strip() == "400 of 1,000 rows & more, 40 per second fast"
    bar.close()
    assert pages[1:] == [""]


def test_a_runner_gets_a_file(clock, monkeypatch, tmp_path):
    monkeypatch.setenv(progress.FILE, str(tmp_path / "progress"))
    bar = Progress(10, "steps")
    clock[0] += 2
    bar.advance(4, "note")
    found = json.loads((tmp_path / "progress").read_text())
    assert found == pytest.approx(
        {"done": 4, "total": 10, "what": "steps", "rate": 2.0, "note": "note"}
    )


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.delenv(progress.FILE, raising=False)
    monkeypatch.setattr(progress, "DELAY", 0.0)
    bar = Progress(10, "steps")
    bar.advance(10)
    bar.close()
    assert "0/10" in capsys.readouterr().err


@pytest.mark.parametrize("before", [True, False])
def test_the_bars_of_libraries_are_off_for_a_while(before):
    def states():
        return not datasets.are_progress_bars_disabled(), logging.is_progress_bar_enabled()

    kept = states()
    try:
        (datasets.enable_progress_bars if before else datasets.disable_progress_bars)()
        (logging.enable_progress_bar if before else logging.disable_progress_bar)()
        entered = states()  # those of datasets stay off where a variable says so
        assert entered[1] == before
        with pytest.raises(KeyError), no_bars():
            assert states() == (False, False)
            raise KeyError
        assert states() == entered
    finally:
        (datasets.enable_progress_bars if kept[0] else datasets.disable_progress_bars)()
        (logging.enable_progress_bar if kept[1] else logging.disable_progress_bar)()
