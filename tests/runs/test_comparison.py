"""Comparing runs: the order, what differs, and which differences chance explains."""

import errno
import io
import json
import math
import os
from unittest.mock import Mock

import numpy as np
import pytest
from bs4 import BeautifulSoup
from rich.console import Console

from helpers.errors import UserError
from helpers.runs import comparison
from helpers.runs.board import TEST, VALIDATION
from helpers.runs.folder import NEEDS, Run
from helpers.runs.step import start_step

HISTORY = [{"step": 8, "train_loss": 3.8}, {"step": 9, "validation_loss": 3.5}]
METRICS = {"perplexity_finetuned", "low_finetuned", "high_finetuned", "bits_per_byte_finetuned"}


def do(folder, step, content="", parameters=None, **metrics):
    doing = start_step(step, str(folder), **(parameters or {}))
    (doing.path / "documents.json").write_text(content)
    losses = {"part": "validation", "base_loss": 4.0, "history": HISTORY}
    (doing.path / "losses.json").write_text(json.dumps(losses))
    doing.finish(**metrics)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run with some nats for each test document."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("helpers.hub.sources.PROJECT", tmp_path)

    def write(name, nats, text="one", status="ok", validation=None, **train):
        """`validation` is the perplexity on the validation part, None where there is none."""
        scored_in, cut = train.pop("scored_in", "float32"), train.pop("bytes_per_token", 3.0)
        nats, tokens = np.asarray(nats, float), np.full(len(nats), 10)
        loss = nats.sum() / max(tokens.sum(), 1)
        scores = {"fine-tuned": {"nats": nats.tolist(), "tokens": tokens.tolist()}}
        numbers = dict.fromkeys(METRICS, float(loss)) | {"scored_in": scored_in}
        do(tmp_path / name, "load", text, {"dataset": "embedded"})
        do(tmp_path / name, "preprocess", text, bytes_per_token=cut)
        do(tmp_path / name, "chunk", text, {"block_size": 64})
        do(
            tmp_path / name,
            "train",
            json.dumps(train),
            {"learning_rate": 1e-3, **train},
            train_tokens_per_second=5.0,
            **({} if validation is None else {"perplexity_validation": validation}),
        )
        if len(nats):
            do(tmp_path / name, "evaluate", json.dumps(scores), **numbers)
            do(tmp_path / name, "infer")
        old = {
            "parameters": {},
            "metrics": dict.fromkeys(METRICS, 99.0),
        }  # what counts is in the steps' records
        (tmp_path / name / "run.json").write_text(
            json.dumps({"format": 1, "status": status, "message": "no", **old})
        )
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
    assert (
        list(table.columns[:4]) == ["run", "train.learning_rate", VALIDATION, TEST]
        and table[TEST].iloc[0] == table["bits per byte"].iloc[0]
    )
    seconds = [Run(folders[1]).record(step)["seconds"] for step in NEEDS]
    assert table["minutes"].iloc[0] == pytest.approx(sum(seconds) / 60) and "scored in" not in table


def test_a_small_difference_that_every_document_shows_is_no_noise(run):
    base = np.linspace(
        20, 40, 40
    )  # documents differ by more than the runs do, but always the same way
    table = comparison.comparison([run("a", base), run("b", base + 0.1)])
    assert table["beside best"].tolist() == ["best", "worse"]


def test_the_best_is_chosen_on_the_validation_part(run):
    """Even if another one is better on the test part; that is what the last column is for."""
    base = np.linspace(20, 40, 40)
    folders = [
        run("lucky", base - 1, validation=50.0),
        run("best", base, validation=40.0),
        run("poor", base + 1, validation=60.0),
        run("early", [], validation=45.0),  # not tested yet
    ]
    table = comparison.comparison(folders)
    assert table["run"].tolist() == ["best", "early", "lucky", "poor"]
    assert table["beside best"].tolist() == ["best", "not tested", "better", "worse"]
    assert table[VALIDATION].tolist() == [40.0, 45.0, 50.0, 60.0]
    assert table[TEST].isna().tolist() == [False, True, False, False]
    assert table[TEST].iloc[2] < table[TEST].iloc[0]
    text = comparison.explanation(table)
    assert "perplexity on the validation documents" in text and "other runs, 2 (" in text


def test_chosen_beforehand_the_best_is_compared_with_each_other_run_only(run):
    """Three runs make three pairs; of these, two are with the best."""
    draw = np.random.default_rng(0).normal(0, 1, 40)
    three, two = (comparison.t_quantile(0.05 / pairs, 39) for pairs in (3, 2))
    error = draw.std(ddof=1) / np.sqrt(40)
    moved = draw - draw.mean() + (three + two) / 2 * error  # between the two bounds
    base = np.linspace(20, 40, 40)
    for validation, found in (((1.0, 2.0, 3.0), "worse"), ((None,) * 3, "within the noise")):
        runs = zip("abc", (base, base + moved, base + 9), validation, strict=True)
        name = found[:3]
        table = comparison.comparison([run(name + n, x, validation=v) for n, x, v in runs])
        assert table["beside best"].tolist() == ["best", found, "worse"]


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"bytes_per_token": 4.0}, "their tokenizers differ"),
        ({"text": "two"}, "different validation documents"),
        ({"validation": None}, "not all runs have a validation part"),
    ],
)
def test_where_validation_compares_nothing_bits_per_byte_ranks_and_it_is_said(run, other, why):
    folders = [
        run("a", [2, 3, 4], validation=1.0),
        run("b", [1, 2, 3], **{"validation": 9} | other),
    ]
    table = comparison.comparison(folders)
    assert table["run"].tolist() == ["b", "a"]
    text = comparison.explanation(table)
    assert text.startswith("Best first, by bits per byte of the test documents") and why in text


def test_a_board_of_all_runs_of_a_folder(run, tmp_path):
    run("runs/one", [1, 2, 3], validation=5.0)
    run("runs/sweep/0", [], validation=4.0)
    do(run("runs/stale", [1, 2], validation=3.0), "train", "other", {"learning_rate": 0.9})
    do(tmp_path / "runs/begun", "load")
    page = BeautifulSoup(comparison.board("runs").data, "html.parser")
    rows = page.tbody.find_all("tr")
    assert [row.td.text.strip() for row in rows] == ["sweep/0", "one"]
    assert "runs/stale" in page.p.text and "runs/begun" not in page.text
    with pytest.raises(UserError, match=r"folder is 'none': no run in it has a trained model"):
        comparison.board("none")


def test_runs_that_are_equally_good_are_rarely_called_worse():
    """The best of ten is the luckiest, yet another may be called worse in 5 % of cases."""
    draw, wrong = np.random.default_rng(0), 0
    for _ in range(200):
        nats = draw.normal(30, 3, (10, 40))
        best = nats[nats.sum(1).argmin()]
        others = (one - best for one in nats if one is not best)
        wrong += any(comparison.verdict(one, math.comb(10, 2)) == "worse" for one in others)
    assert wrong <= 15


@pytest.mark.parametrize(
    ("share", "freedom", "value"),
    [
        (0.05, 1, 12.7062),
        (0.05, 10, 2.2281),
        (0.001, 30, 3.6460),
        (0.001, 5, 6.8688),
        (0.05, 1_000_000, 1.9600),
    ],
)
def test_quantiles_of_t_are_those_of_the_tables(share, freedom, value):
    assert comparison.t_quantile(share, freedom) == pytest.approx(value, abs=1e-4)


def test_the_precision_is_said_where_runs_were_scored_in_several(run):
    table = comparison.comparison([run("a", [1, 2, 3]), run("b", [2, 3, 4], scored_in="bfloat16")])
    assert table["scored in"].tolist() == ["float32", "bfloat16"]
    assert "not scored in the same precision" in comparison.explanation(table)


def test_a_step_that_was_done_again_is_not_compared_as_it_was(run):
    folders = [run("a", [1, 2, 3]), run("b", [2, 3, 4])]
    do(folders[1], "train", "other", {"learning_rate": 0.9})
    with pytest.raises(
        UserError,
        match=r"b' are not of one run: step 'evaluate' .* made from another 'train'.* --from "
        r"evaluate`",
    ):
        comparison.comparison(folders)


def test_a_table_that_cannot_be_written_gives_a_sentence(run, tmp_path, monkeypatch):
    folders, console = [run("a", [1, 2, 3]), run("b", [2, 3, 4])], Console(file=io.StringIO())
    (tmp_path / "folder").mkdir()
    for csv, html in ((tmp_path / "folder", None), (None, tmp_path / "folder")):
        with pytest.raises(UserError, match=r"folder' cannot be written \(Is a directory\)"):
            comparison.show_comparison(folders, csv, html, console)

    for number, error, text in (
        (errno.EACCES, UserError, r"t.csv' cannot be written \(Permission denied\)"),
        (errno.ENOSPC, OSError, "No space"),
    ):
        monkeypatch.setattr("os.replace", Mock(side_effect=OSError(number, os.strerror(number))))
        with pytest.raises(error, match=text):
            comparison.show_comparison(folders, tmp_path / "t.csv", None, console)
    assert not list(tmp_path.glob("*t.csv*"))


def test_it_is_written_as_text_csv_and_html(run, tmp_path):
    folders = [run("a", [1, 2, 3], learning_rate=0.1), run("b", [2, 3, 4], learning_rate=0.001)]
    console = Console(file=io.StringIO(), width=160)
    comparison.show_comparison(folders, tmp_path / "t.csv", tmp_path / "t.html", console)
    assert (
        "train.learning_rate" in console.file.getvalue()
        and "beside best" in console.file.getvalue()
    )
    assert "number of pairs of runs with this test text, 1 (" in " ".join(
        console.file.getvalue().split()
    )
    assert (tmp_path / "t.csv").read_text().count("\n") == 3
    page = (tmp_path / "t.html").read_text()
    assert (
        "Bits per byte against train.learning_rate" in page
        and 'data-value="worse"' in page
        and "Bonferroni" in page
        and "http" not in page.replace("http://www.w3.org/", "")
    )


def test_a_run_that_did_not_end_well_and_none_at_all_are_refused(run, tmp_path):
    good, rest = run("a", [1, 2]), (None, None, Console(file=io.StringIO()))
    with pytest.raises(UserError, match=r"did not succeed .failed: no."):
        comparison.show_comparison([good, run("b", [1, 2], status="failed")], *rest)
    with pytest.raises(UserError, match="is not a run"):
        comparison.show_comparison([good, tmp_path / "none"], *rest)
