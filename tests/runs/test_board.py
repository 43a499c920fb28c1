"""The board: a line and a row for each run; values as they are; links that lead somewhere."""

import json
from urllib.parse import unquote

import pandas as pd
import pytest
from bs4 import BeautifulSoup

from helpers.runs.board import board_html, draw_points, write_comparison

HOSTILE = "<i>&\"'|# a"


@pytest.fixture
def table(tmp_path):
    """What `comparison` returns of two runs, of which one is not tested."""
    rows = [
        {"run": HOSTILE, HOSTILE: 1.0, "validation perplexity": 40.0, "test perplexity": 41.0},
        {"run": "b", HOSTILE: 2.0, "validation perplexity": 50.0},
    ]
    rows[0] |= {"low": 39.0, "high": 43.0, "bits per byte": 2.0, "beside best": "best"}
    rows[1] |= {"low": float("nan"), "high": float("nan"), "beside best": "not tested"}
    folders = [tmp_path / "a#1 ?b", tmp_path / "b"]
    for folder, loss in zip(folders, (3.0, 3.5), strict=True):
        history = [{"step": 5, "train_loss": 1.0}, {"step": 10, "validation_loss": loss}]
        losses = {"part": "validation", "base_loss": 4.0, "history": history}
        (folder / "04_train").mkdir(parents=True)
        (folder / "04_train" / "losses.json").write_text(json.dumps(losses))
    (folders[0] / "report.html").touch()
    table = pd.DataFrame(rows, index=folders)
    table.attrs["by"] = "validation perplexity"
    return table


def test_a_line_for_each_run_in_the_order_of_the_rows(table, tmp_path):
    page = BeautifulSoup(board_html(table, "How to read it.", tmp_path), "html.parser")
    rows, lines = page.tbody.find_all("tr"), page.find_all("g", attrs={"data-run": True})
    assert [row["data-run"] for row in rows] == [line["data-run"] for line in lines] == ["0", "1"]
    assert [line.title.text for line in lines] == [HOSTILE, "b"]
    dots = [dot.text for dot in lines[1].find_all("title")[1:]]
    assert dots == ["step 0: 4.000", "step 10: 3.500"]
    assert rows[0].line["stroke"] == lines[0]["stroke"] != lines[1]["stroke"]
    alt = page.find("svg", role="img")["aria-label"]
    assert alt.startswith("Validation loss against steps, a line for each of 2 runs; ")
    assert alt.endswith(f"the lowest is 3.00, of {HOSTILE}.")


def test_values_are_text_and_what_is_missing_is_last_in_every_order(table, tmp_path):
    page = BeautifulSoup(board_html(table, "", tmp_path), "html.parser")
    assert not page.find_all("i")
    heads = [head.text for head in page.thead.find_all("th")]
    assert heads == [
        "run",
        HOSTILE,
        "validation perplexity",
        "test perplexity",
        "interval",
        "bits per byte",
        "beside best",
    ]
    first, second = (row.find_all("td") for row in page.tbody.find_all("tr"))
    assert [cell.text.strip() for cell in first[2:5]] == ["40.00", "41.00", "39.00 to 43.00"]
    assert [cell["data-value"] for cell in second[3:6]] == ["Infinity"] * 3
    assert [cell.text.strip() for cell in second[3:6]] == [""] * 3 and not second[4].svg


def test_the_interval_is_drawn_on_the_scale_of_all_runs(table, tmp_path):
    table.loc[table.index[1], ["test perplexity", "low", "high"]] = [45.0, 42.0, 47.0]
    page = BeautifulSoup(board_html(table, "", tmp_path), "html.parser")
    bars = [row.polyline["points"].split() for row in page.tbody.find_all("tr")]
    (low, _), (_, high) = ([float(end.split(",")[0]) for end in bar] for bar in bars)
    assert (low, high) == (6, 94)  # from 39 to 47, the ends of all
    for row, value in zip(page.tbody.find_all("tr"), (41.0, 45.0), strict=True):
        assert float(row.circle["cx"]) == pytest.approx(6 + 88 * (value - 39) / 8, abs=0.1)


def test_of_many_runs_no_two_lines_look_the_same(table, tmp_path):
    many = pd.concat([table] * 9)
    many["run"] = [str(number) for number in range(18)]
    many.attrs = table.attrs
    page = BeautifulSoup(board_html(many, "", tmp_path), "html.parser")
    looks = {
        (g["stroke"], g["stroke-dasharray"]) for g in page.find_all("g", attrs={"data-run": True})
    }
    assert len(looks) == 18


def test_links_lead_to_the_reports_and_figures_are_described(table, tmp_path):
    path = write_comparison(table, "", tmp_path / "c.html")
    page = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
    [link] = page.find_all("a")
    assert link.text == HOSTILE and (tmp_path / unquote(link["href"])).is_file()
    labels = [figure["aria-label"] for figure in page.find_all("svg", role="img")]
    assert labels[1:] == [
        f"Validation perplexity against {HOSTILE}; the best run has {HOSTILE} = 1.0."
    ]


@pytest.mark.parametrize(
    ("x", "ticks"),
    [
        ([3e-4, 1e-3, 3e-3], ["0.0003", "0.001", "0.003"]),  # the numbers that were tried
        ([64, 66, 128], ["64", "128"]),  # those that would run into each other are left out
    ],
)
def test_points_are_named_by_their_values(x, ticks):
    ax = draw_points(x, [1.0, 2.0, 3.0], "x", "y").axes[0]
    assert ax.get_xscale() == "log" and [t.get_text() for t in ax.get_xticklabels()] == ticks
    assert draw_points([0, 1, 2], [1.0, 2.0, 3.0], "x", "y").axes[0].get_xscale() == "linear"
