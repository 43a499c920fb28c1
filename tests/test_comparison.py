"""Comparing runs: the order, what differs, and which differences chance explains."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from helpers import comparison
from helpers.errors import UserError
from helpers.run import begin

STEPS = {
    "load": {"dataset": "embedded"},
    "preprocess": {},
    "chunk": {"block_size": 64},
    "train": {"learning_rate": 1e-3},
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run with some nats for each test document."""
    monkeypatch.chdir(tmp_path)

    def write(name, nats, text="one", status="ok", **train):
        nats, tokens = np.asarray(nats, float), np.full(len(nats), 10)
        parameters = {**STEPS, "train": {**STEPS["train"], **train}, "evaluate": {}, "infer": {}}
        loaded = begin("load", name)
        (loaded.path / "text").write_text(text)
        loaded.finish()
        for step in ("preprocess", "chunk", "train"):
            doing = begin(step, name)
            (doing.path / "x").write_text(step)
            doing.finish()
        scored = begin("evaluate", name)
        scores = {"fine-tuned": {"nats": nats.tolist(), "tokens": tokens.tolist()}}
        (scored.path / "documents.json").write_text(json.dumps(scores))
        loss = nats.sum() / tokens.sum()
        numbers = {"perplexity_finetuned": np.exp(loss), "low_finetuned": 1.0, "high_finetuned": 9.0}
        metrics = {**numbers, "bits_per_byte_finetuned": loss, "train_tokens_per_second": 5.0}
        metrics |= {f"seconds_{step}": 10.0 for step in ("load", "preprocess", "chunk", "train", "evaluate", "infer")}
        scored.finish()
        record = {"format": 1, "status": status, "message": "no", "parameters": parameters, "metrics": metrics}
        (tmp_path / name / "run.json").write_text(json.dumps(record))
        return tmp_path / name

    return write


def test_best_first_with_what_differs_and_what_is_noise(run):
    noise = np.random.default_rng(0).normal(0, 1, 40)
    base = np.linspace(20, 40, 40)
    folders = [
        run("worse", base + 5, learning_rate=0.5),
        run("best", base, learning_rate=0.1),
        run("near", base + noise - noise.mean() + 0.05, learning_rate=0.2),
        run("other", base + 9, text="two", learning_rate=0.3),
    ]
    table = comparison.comparison(folders)
    assert table["run"].tolist() == ["best", "near", "worse", "other"]
    assert table["beside best"].tolist() == ["best", "within the noise", "worse", "other test text"]
    assert table["train.learning_rate"].tolist() == [0.1, 0.2, 0.5, 0.3]
    assert list(table.columns[:3]) == ["run", "train.learning_rate", "perplexity"] and table["minutes"][0] == 1.0


def test_a_small_difference_that_every_document_shows_is_no_noise(run):
    base = np.linspace(20, 40, 40)  # documents differ by more than the runs do, but always the same way
    table = comparison.comparison([run("a", base), run("b", base + 0.1)])
    assert table["beside best"].tolist() == ["best", "worse"]


def test_it_is_written_as_text_csv_and_html(run, tmp_path):
    folders = [run("a", [1, 2, 3], learning_rate=0.1), run("b", [2, 3, 4], learning_rate=0.001)]
    console = Console(file=io.StringIO(), width=160)
    comparison.main(folders, tmp_path / "t.csv", tmp_path / "t.html", console)
    assert "train.learning_rate" in console.file.getvalue() and "beside best" in console.file.getvalue()
    assert (tmp_path / "t.csv").read_text().count("\n") == 3
    page = (tmp_path / "t.html").read_text()
    assert "Perplexity against train.learning_rate" in page and "<td>worse" in page and "http" not in page


def test_a_run_that_did_not_end_well_and_none_at_all_are_refused(run, tmp_path):
    good = run("a", [1, 2])
    with pytest.raises(UserError, match=r"did not end well .failed: no."):
        comparison.comparison([good, run("b", [1, 2], status="failed")])
    with pytest.raises(UserError, match="is no run"):
        comparison.comparison([good, tmp_path / "none"])
