"""The report: values as they are, links that lead somewhere, nothing stale."""

import json
from urllib.parse import unquote

import pandas as pd
import pytest
from bs4 import BeautifulSoup

from helpers.errors import UserError
from helpers.figures import heat_map
from helpers.runs.folder import NEEDS, Run
from helpers.runs.rendering import write_text
from helpers.runs.report import write_comparison, write_report
from helpers.runs.step import start_step

HOSTILE = "<i>&\"'|# a"
BOTH = ("base", "finetuned")
NUMBERS = {
    **{
        f"{name}_{model}": 2.0
        for name in ("perplexity", "low", "high", "bits_per_byte")
        for model in BOTH
    },
    **{f"perplexity_ratio{end}": 0.5 for end in ("", "_low", "_high")},
    "share_of_documents_better": 0.9,
    "tokens_rolling": 1000,
    "context_rolling": 256,
}
METRICS = {
    "load": {"examples_train": 8, "examples_test": 2},
    "chunk": {f"tokens_{name}": 5 for name in ("in", "kept", "dropped")},
    "evaluate": NUMBERS,
}
HISTORY = [{"step": 1, "train_loss": 2.0}, {"step": 1, "validation_loss": 2.0}]
FILES = {
    "train": {
        "losses.json": json.dumps({"part": "validation", "base_loss": 3.0, "history": HISTORY})
    },
    "evaluate": {
        "perplexity.json": json.dumps(
            [{"model": HOSTILE, "perplexity": 2.0, "tokens": 1000, "low": None}]
        ),
        "heat_maps.html": heat_map("a b", [(0, 1), (2, 3)], {HOSTILE: [1.0, 2.0]}).data,
    },
    "infer": {"texts.json": json.dumps([{"model": HOSTILE, "text": HOSTILE}])},
}
PARAMETERS = {"infer": {"prompt": HOSTILE}}


def do(folder, step, **parameters):
    doing = start_step(step, str(folder), **PARAMETERS.get(step, {}), **parameters)
    for name, content in {**FILES.get(step, {}), "x": step + str(parameters)}.items():
        (doing.path / name).write_text(content)
    doing.finish(**METRICS.get(step, {}))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A complete run in a folder whose name is hard to link to."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "a#1 ?<b>"
    for step in NEEDS:
        do(folder, step)
    return folder


def test_values_are_text_in_the_report(run):
    page = BeautifulSoup(write_report(Run(run)).read_text(), "html.parser")
    assert page.h1.text == "Run a#1 ?<b>" and page.h3.text == page.blockquote.text == HOSTILE
    assert HOSTILE in [cell.text for cell in page.find_all("td")]
    assert f"prompt = {HOSTILE}" in [cell.text for cell in page.find_all("td")]
    assert HOSTILE in [name.text for name in page.find_all("b")] and not page.find_all("i")
    assert [cell.text for cell in page.find_all("td", "number")][:2] == ["2", "1,000"]


def test_links_lead_to_what_they_name(run, tmp_path):
    table = pd.DataFrame([{"run": HOSTILE, HOSTILE: x, "perplexity": x} for x in (1.0, 2.0)])
    pages = [write_report(Run(run)), write_comparison(table, "", [run], tmp_path / "c.html")]
    for path in pages:
        page = BeautifulSoup(path.read_text(), "html.parser")
        links = [
            unquote(link["href"].partition("#")[0].partition("?")[0]) for link in page.find_all("a")
        ]
        (run / "01_load" / "01_load.ipynb").touch()
        assert links and (path.parent / links[0]).is_file()
    [figure] = page.find_all("svg")
    assert (
        figure["aria-label"] == f"Perplexity against {HOSTILE}; the best run has {HOSTILE} = 1.0."
    )


def test_a_stale_run_is_not_reported(run):
    do(run, "chunk", block_size=32)
    with pytest.raises(
        UserError, match=r"step 'train' .* was made from another 'chunk'.* --from train` makes them"
    ):
        write_report(Run(run))


def test_a_link_stays_a_link_and_leads_to_what_was_written(tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "file")
    (tmp_path / "file").write_text("old and longer")
    write_text(tmp_path / "out", "new")
    assert (tmp_path / "out").is_symlink() and (tmp_path / "file").read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("part", ["validation", "test"])
def test_the_report_says_when_the_epoch_was_chosen_on_the_test_part(run, part, monkeypatch):
    losses = {"part": part, "base_loss": 3.0, "history": [{"step": 1, f"{part}_loss": 2.0}]}
    losses["history"].append({"step": 1, "train_loss": 2.0})
    monkeypatch.setitem(FILES, "train", {"losses.json": json.dumps(losses)})
    for step in ("train", "evaluate", "infer"):
        do(run, step)
    assert ("flatters the result" in write_report(Run(run)).read_text()) == (part == "test")
