"""The panel of a training: what it shows at its start, on its way, resumed, stopped, done."""

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

import helpers.engine.panel
from helpers.engine import chart, panel, progress
from helpers.training import Samples
from tests.small_training import made

HOSTILE = "<script>alert('&')</script>"


class Display:
    """Takes the place of IPython's display, and keeps each page that was shown."""

    def __init__(self):
        self.pages, self.displayed = [], 0

    def __call__(self, page, display_id):
        assert display_id
        self.displayed += 1
        return self.update(page)

    def update(self, page):
        self.pages.append(BeautifulSoup(page.data, "html.parser"))
        return self


@pytest.fixture
def shown(monkeypatch):
    display = Display()
    monkeypatch.setattr("IPython.display.display", display)
    for module in ("helpers.engine.watch", "helpers.training"):
        monkeypatch.setattr(f"{module}.is_watched", lambda: True)
    return display


def state(step, log=(), total=100):
    return SimpleNamespace(
        global_step=step, max_steps=total, epoch=step / 50, log_history=list(log)
    )


def entries(losses):
    return [
        {"step": 10 * n, "epoch": n / 5, "loss": loss, "learning_rate": 1e-3}
        for n, loss in enumerate(losses, 1)
    ]


def points(page, number):
    """The places of one of the four lines: rate, raw, smoothed, evaluated."""
    line = page.find_all("polyline")[number]["points"]
    return np.array([place.split(",") for place in line.split()], float).reshape(-1, 2)


def test_the_axis_spans_all_steps_from_the_first_drawing_on(shown):
    live = panel.Panel(3.0, "validation")
    live.begin(state(0), epochs=2)
    log = entries([4.0, 3.5])
    live.show(state(20, log))
    first, later = shown.pages
    assert (
        shown.displayed == 1 and first.progress["max"] == "100" and first.progress["value"] == "0"
    )
    assert points(later, 1)[:, 0] == pytest.approx([48 + 700 * 0.1, 48 + 700 * 0.2])
    [epoch] = {tag["x1"] for tag in later.find_all("line") if tag["x1"] == tag["x2"]}
    assert float(epoch) == 48 + 700 / 2
    assert "epoch 1 ends" in later.text and "loss 3.50" in later.text and "20 of 100" in later.text


def test_the_smoothed_loss_is_the_corrected_moving_average_of_pandas(shown):
    losses = np.random.default_rng(0).normal(3, 0.5, 30)
    live = panel.Panel(3.0, "validation")
    live.begin(state(0, total=300), epochs=2)
    live.show(state(300, entries(losses), total=300))
    expected = pd.Series(losses).ewm(alpha=panel.SMOOTHING).mean()
    assert f"smoothed {expected.iloc[-1]:.2f}" in shown.pages[-1].text
    raw, smoothed = points(shown.pages[-1], 1)[:, 1], points(shown.pages[-1], 2)[:, 1]
    slope, start = np.polyfit(losses, raw, 1)  # pixels of a nat
    assert smoothed == pytest.approx(start + slope * expected, abs=0.2)


def test_a_long_log_is_read_once_and_drawn_in_few_points(shown):
    class Log(list):
        read = 0

        def __getitem__(self, part):
            found = super().__getitem__(part)
            self.read += len(found)
            return found

    log = Log(entries(np.linspace(4, 3, 5000)))
    live = panel.Panel(3.0, "validation")
    now = state(50_000, total=50_000)
    now.log_history = log
    live.begin(now, epochs=2)
    for _ in range(3):
        live.show(now)
    assert log.read == 5000
    drawn = points(shown.pages[-1], 1)
    assert 100 < len(drawn) <= panel.MOST and (np.diff(drawn[:, 0]) >= 0).all()


def test_the_time_left_is_that_of_this_attempt(shown, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(helpers.engine.panel.time, "monotonic", lambda: clock[0])
    live = panel.Panel(3.0, "validation")
    log = entries([4.0, 3.5, 3.2, 3.1])
    live.begin(state(42, log), epochs=2)
    assert "Going on from step 42" in shown.pages[0].text
    assert len(points(shown.pages[0], 1)) == 4 and "left" not in shown.pages[0].text
    clock[0] += 4
    live.show(state(44, log))  # 2 seconds for each of 56 steps
    assert "about 2 min left" in shown.pages[1].text and panel.STOP in shown.pages[1].text
    clock[0] += 20
    live.show(state(50, log), end="Stopped")
    assert "took 24 s" in shown.pages[2].text and "left" not in shown.pages[2].text
    assert panel.STOP not in shown.pages[2].text


def test_texts_are_text_and_all_but_the_latest_are_folded_up(shown):
    texts = [{"step": n, "epoch": n, "sample": f"{HOSTILE} {n}"} for n in range(10)]
    live = panel.Panel(3.0, HOSTILE)
    live.begin(state(9, texts), epochs=10)
    page = shown.pages[0]
    assert not page.find_all("script") and page.text.count(HOSTILE) == 11
    assert [int(n) for n in re.findall(r"step (\d) <script", page.details.text)] == list(
        range(1, 6)
    )
    assert page.svg["aria-label"] == page.img["alt"] and HOSTILE in page.svg["aria-label"]


def test_a_training_shows_its_panel_and_its_end(
    shown, tmp_path, small_model, tokenizer, monkeypatch
):
    monkeypatch.setattr(panel, "EVERY", 0.0)
    trainer = made(tmp_path)
    trainer.watch.show_panel(4.0, "validation")
    trainer.train()
    assert (
        shown.displayed == 1 and "took" in shown.pages[-1].text and "Done." in shown.pages[-1].text
    )
    assert shown.pages[-1].progress["value"] == shown.pages[-1].progress["max"]
    assert "tokens/s" in shown.pages[-1].text and "GB" in shown.pages[-1].text


def test_an_interrupted_training_is_shown_with_its_past(shown, tmp_path, monkeypatch):
    """Stopped after 3 steps, and gone on with by a trainer that was made anew."""
    monkeypatch.setattr(panel, "EVERY", 0.0)
    first = made(tmp_path)
    first.watch.show_panel(4.0, "validation")
    advance = first.watch.on_step_end

    def stop(args, state, control, **kwargs):
        first.watch.stop = state.global_step == 3
        advance(args, state, control, **kwargs)

    first.watch.on_step_end = stop
    with pytest.raises(KeyboardInterrupt) as stopped:
        first.train()
    [line] = stopped.value._render_traceback_()  # in JupyterLab, no more than this
    assert line == "Stopped: saved at step 3; the same cell or command goes on from there"
    assert "Stopped and saved at step 3: run the cell again to go on." in shown.pages[-1].text
    before = points(shown.pages[-1], 1)
    seen = len(shown.pages)
    again = made(tmp_path)
    again.watch.show_panel(4.0, "validation")
    again.train()
    page = shown.pages[seen]
    assert "Going on from step 3." in page.text and len(before) == 3
    assert points(page, 1)[:, 0].tolist() == before[:, 0].tolist()


def test_samples_are_in_the_log_and_printed_where_nobody_watches(
    shown, tmp_path, tokenizer, capsys, monkeypatch
):
    from helpers.models import load_model

    for watched in (True, False):
        for module in ("helpers.engine.watch", "helpers.training"):
            monkeypatch.setattr(f"{module}.is_watched", lambda: watched)  # noqa: B023
        trainer = made(tmp_path / str(watched), load_model("embedded"), max_steps=1)
        trainer.add_callback(Samples(tokenizer, "The sky", 2))
        trainer.train()
        texts = [e["sample"] for e in trainer.state.log_history if "sample" in e]
        assert texts and all(text.startswith("The sky") for text in texts)
        assert ("The sky" in capsys.readouterr().out) != watched


@pytest.mark.parametrize("allowed", [True, False, None])
def test_a_person_watches_where_the_front_end_could_answer(allowed, monkeypatch):
    parent = {"content": {} if allowed is None else {"allow_stdin": allowed}}
    kernel = SimpleNamespace(get_parent=lambda: parent)
    ipython = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=kernel))
    monkeypatch.setitem(progress.sys.modules, "IPython", ipython)
    assert progress.is_watched() == bool(allowed)


def test_nobody_watches_a_script():
    assert not progress.is_watched()


@pytest.mark.parametrize(
    ("low", "high"), [(2.93, 4.05), (0, 113), (3.0, 3.0), (0.0, 0.0), (-5, 1e6), (1e-9, 2e-9)]
)
def test_round_values_hold_the_range_and_are_round(low, high):
    values = chart.round_values(low, high)
    assert values[0] <= low and values[-1] >= high and 2 <= len(values) <= 7
    assert np.diff(values) == pytest.approx(values[1] - values[0])
