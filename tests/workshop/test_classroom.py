"""The class as an experiment, with results of real small trainings, and with broken files."""

import json
import re
import shutil

import pytest
from bs4 import BeautifulSoup

from helpers.errors import RunError, UserError
from helpers.perplexity import interval, score_blocks
from helpers.runs.parameters import RULES
from helpers.runs.step import start_step
from helpers.workshop.classroom import (
    FORMAT,
    RATES,
    assign,
    draw,
    read_results,
    save_result,
    write_page,
)
from tests.small_models import small
from tests.small_training import LENGTHS, blocks_of, trained

NAMES = [f"{first} {last}" for first in ("Ada", "Bo", "Çelik", "Dörte", "Ève") for last in "ABCDEF"]


def finish(step, folder, files=None, metrics=None, **changed):
    parameters = {name: rule.default for name, rule in RULES[step].items()} | changed
    doing = start_step(step, str(folder), **parameters)
    for name, content in (files or {"content": step}).items():
        (doing.path / name).write_text(content)
    doing.finish(**(metrics or {}))


def real_run(folder, rate, seed=42):
    """Train a small model with this rate, score it, and leave the records of a run."""
    model, blocks = small(), blocks_of(LENGTHS)
    base = score_blocks(model, blocks, "float32")
    trained(folder / "work", model, learning_rate=rate, num_train_epochs=4, seed=seed)
    tuned = score_blocks(model, blocks, "float32")
    low, high = interval(tuned)
    shutil.rmtree(folder / "work")
    for step in ("load", "preprocess", "chunk"):
        finish(step, folder / "run")
    finish("train", folder / "run", metrics={"loss_finetuned": tuned.loss}, learning_rate=rate)
    scores = {
        name: {"nats": score.nats.tolist(), "tokens": score.tokens.tolist()}
        for name, score in (("base", base), ("fine-tuned", tuned))
    }
    metrics = {"perplexity_base": base.perplexity, "perplexity_finetuned": tuned.perplexity}
    metrics |= {"low_finetuned": low, "high_finetuned": high}
    finish("evaluate", folder / "run", {"documents.json": json.dumps(scores)}, metrics)
    return folder / "run"


def classroom(folder, names):
    """The collected results of a class."""
    for name in names:
        save_result(name, str(real_run(folder / "runs" / name, assign(name))), folder / "results")
    return folder / "results"


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Results of three rates: the first in the grid, one in its middle, and the last."""
    folder = tmp_path_factory.mktemp("class")
    for name, rate in (("Ada", RATES[0]), ("Bo", RATES[-3]), ("Çelik", RATES[-1])):
        save_result(name, str(real_run(folder / name, rate)), folder / "results")
    return folder / "results"


@pytest.fixture
def results(three, tmp_path):
    """A copy of the three, to be changed."""
    return shutil.copytree(three, tmp_path / "results")


def edit(path, **changed):
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changed))


def test_a_rate_for_each_name(capsys):
    rates = [assign(name) for name in NAMES]
    assert set(rates) <= set(RATES) and len(set(rates)) >= 7
    assert f"-p train.learning_rate={rates[-1]:g}`" in capsys.readouterr().out
    assert assign("  ada lovelace") == assign("Ada Lovelace") == assign("Ada\u00a0Lovelace ")
    with pytest.raises(UserError, match="letters or digits"):
        assign(" / ")


def test_a_result_is_small_and_names_no_machine(three):
    path = three / "result-ada.json"
    content = json.loads(path.read_text())
    assert content["format"] == FORMAT and content["learning_rate"] == RATES[0]
    assert content["low"] < content["perplexity"] < content["high"]
    assert path.stat().st_size < 500 and str(three.parent) not in path.read_text()
    assert (three / "result-çelik.json").exists()


def test_a_run_that_is_not_done_has_no_result(tmp_path):
    with pytest.raises(RunError, match=r"There is no result yet: .*'load' has not been done"):
        save_result("Ada", str(tmp_path / "run"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_page_shows_the_best_and_every_rate(results):
    said = write_page(results)
    page = BeautifulSoup((results / "classroom.html").read_text(encoding="utf-8"), "html.parser")
    found, notes = read_results(results)
    best = min(found, key=lambda one: one.loss)
    assert not notes and f"The learning rate {best.learning_rate:g} is the best" in page.text
    assert f"is {best.perplexity:.2f} ({best.low:.2f} to {best.high:.2f})" in page.text
    rows = [[cell.text for cell in row.select("td")] for row in page.select("tr")[1:]]
    assert [row[:2] for row in rows] == [[f"{one.learning_rate:g}", "1"] for one in found]
    assert [float(row[2]) for row in rows] == pytest.approx([r.perplexity for r in found], 1e-4)
    assert "Perplexity against learning rate" in page.svg["aria-label"]
    assert not re.search(r"(src|href)=.?https?://", str(page)) and "classroom.html" in said[-1]
    assert best.learning_rate in RATES[-3:]  # the lowest rate learns next to nothing in 4 epochs


def test_the_best_is_chosen_on_the_validation_documents(results):
    """Not by its perplexity on the test documents."""
    edit(results / "result-ada.json", loss=0.01)
    assert f"The learning rate {RATES[0]:g} is the best" in write_page(results)[-2]


def test_the_figure_has_each_result_with_its_interval(results):
    found, _ = read_results(results)
    (ax,) = draw(found).axes
    bars = [container for container in ax.containers]
    assert len(bars) == 3
    for one, bar in zip(found, bars, strict=True):
        (segment,) = bar.lines[2][0].get_segments()
        assert segment[:, 1].tolist() == pytest.approx([one.low, one.high])


def test_damaged_double_older_and_other_files_are_said(results):
    (results / "result-dora.json").write_text('{"format": 1, "name": "Dor')
    (results / "result-emil.json").write_text("[]")
    shutil.copy(results / "result-ada.json", results / "result-ada (1).json")
    shutil.copy(results / "result-ada.json", results / "result-frida.json")
    edit(results / "result-frida.json", name="Frida", format=0)
    shutil.copy(results / "result-ada.json", results / "result-gil.json")
    edit(results / "result-gil.json", name="Gil", experiment="another")
    for name, value in (("hal", float("nan")), ("ida", "12"), ("jo", None), ("kim", True)):
        shutil.copy(results / "result-ada.json", results / f"result-{name}.json")
        edit(results / f"result-{name}.json", name=name, perplexity=value)
    found, notes = read_results(results)
    assert sorted(one.name for one in found) == ["Ada", "Bo", "Çelik"]
    for name in ("dora", "emil", "hal", "ida", "jo", "kim"):
        assert f"result-{name}.json is damaged: it is left out." in notes
    assert "result-frida.json was written by an older version: it is left out." in notes
    assert any("is an earlier result or a copy of Ada's" in note for note in notes)
    assert "Gil has other test documents or parameters than most: left out." in notes
    assert len(notes) == 9
    page = BeautifulSoup("".join(write_page(results)), "html.parser")
    assert page and "result-dora.json" in (results / "classroom.html").read_text(encoding="utf-8")


def test_of_two_results_of_a_name_the_later_counts(results):
    shutil.copy(results / "result-ada.json", results / "result-ADA 2.json")
    edit(results / "result-ADA 2.json", name="ADA", perplexity=99.0, written=4e9)
    found, notes = read_results(results)
    assert next(one for one in found if one.name == "ADA").perplexity == 99.0
    assert notes == ["result-ada.json is an earlier result or a copy of Ada's: left out."]


def test_a_folder_without_results(tmp_path):
    with pytest.raises(UserError, match="has no result: collect the files"):
        write_page(tmp_path)


@pytest.mark.full
def test_thirty_laptops(tmp_path):
    folder = classroom(tmp_path, NAMES)
    said = write_page(folder)
    found, notes = read_results(folder)
    assert len(found) == 30 and not notes and said[0].startswith("30 results.")
    by_rate = {}
    for one in found:
        by_rate.setdefault(one.learning_rate, []).append(one.perplexity)
    for values in by_rate.values():  # the same rate, seed and data give the same
        assert max(values) - min(values) < 1e-3
    lowest, highest = min(by_rate), max(by_rate)
    assert min(by_rate[highest]) < min(by_rate[lowest])
