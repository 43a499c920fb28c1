"""The report: values as they are, links that lead somewhere, nothing stale."""

import json
import re
import shlex
from urllib.parse import unquote

import pytest
from bs4 import BeautifulSoup

from helpers.engine.progress import FILE
from helpers.errors import UserError
from helpers.figures import heat_map
from helpers.runs.folder import NEEDS, Run
from helpers.runs.parameters import RULES
from helpers.runs.profiles import plan
from helpers.runs.rendering import write_text
from helpers.runs.report import write_if_complete, write_report
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
        "documents.json": json.dumps(
            {
                "base": {"nats": [30.0, 8.0, 0.0], "tokens": [10, 4, 0]},
                "fine-tuned": {"nats": [20.0, 9.0, 0.0], "tokens": [10, 4, 0]},
                "start": [HOSTILE, "second", "empty"],
            }
        ),
        "heat_maps.html": heat_map("a b", [(0, 1), (2, 3)], {HOSTILE: [1.0, 2.0]}).data,
    },
    "infer": {"texts.jsonl": json.dumps({"model": HOSTILE, "text": HOSTILE})},
}
PARAMETERS = {"infer": {"prompt": HOSTILE}}


def do(folder, step, **parameters):
    defaults = {name: rule.default for name, rule in RULES[step].items()}
    doing = start_step(step, str(folder), **defaults | PARAMETERS.get(step, {}) | parameters)
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
    assert any(f"prompt = {HOSTILE}" in cell.text for cell in page.find_all("td"))
    assert HOSTILE in [name.text for name in page.find_all("b")] and not page.find_all("i")
    assert [cell.text for cell in page.find_all("td", "number")][:2] == ["2", "1,000"]


def test_links_lead_to_what_they_name(run):
    (run / "01_load" / "01_load.ipynb").touch()
    path = write_report(Run(run))
    links = [link["href"] for link in BeautifulSoup(path.read_text(), "html.parser").find_all("a")]
    assert links and (path.parent / unquote(re.split("[#?]", links[0])[0])).is_file()


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


def cards(page):
    return {name.text: name.find_next("dd").text for name in page.find_all("dt")}


def test_the_card_names_what_was_done_and_the_command_does_it_again(run):
    page = BeautifulSoup(write_report(Run(run)).read_text(), "html.parser")
    card, [command] = (
        cards(page),
        [code for code in page.find_all("code") if "run-dir" in code.text],
    )
    assert card["Model"] == "embedded" and card["Data"].startswith("embedded, 8 examples")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", card["Date"])
    words = shlex.split(command.text)
    assert (
        words[:4] == ["python", "-m", "helpers", "run"] and words[-1] == f"infer.prompt={HOSTILE}"
    )
    options = dict(zip(words[4::2], words[5::2], strict=True))
    again = plan(options["--profile"], [options["-p"]])
    assert again == {step: Run(options["--run-dir"]).record(step)["parameters"] for step in NEEDS}


def test_only_parameters_other_than_those_of_the_profile_are_in_their_table(run):
    page = BeautifulSoup(write_report(Run(run)).read_text(), "html.parser")
    rows = page.find("h2", string="Parameters").find_next("table").find_all("tr")
    assert [cell.text for cell in rows[1].find_all("td")] == [
        "infer.prompt",
        HOSTILE,
        RULES["infer"]["prompt"].default,
    ]
    assert len(rows) == 2


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.4, 0.6, "more likely"), (1.1, 1.3, "less likely"), (0.9, 1.1, "beyond chance")],
)
def test_the_verdict_is_what_the_interval_allows(run, low, high, verdict, monkeypatch):
    ends = {"perplexity_ratio_low": low, "perplexity_ratio_high": high}
    monkeypatch.setitem(METRICS, "evaluate", NUMBERS | ends)
    do(run, "evaluate")
    page = BeautifulSoup(write_report(Run(run)).read_text(), "html.parser")
    assert verdict in page.find("p", "verdict").text


def test_the_documents_are_rows_to_sort_and_to_open(run):
    """By the mean nats of each; what has no tokens has no row."""
    page = BeautifulSoup(write_report(Run(run)).read_text(), "html.parser")
    rows = page.find("table", "sortable").tbody.find_all("tr")
    values = [[float(cell["data-value"]) for cell in row.find_all("td")] for row in rows]
    assert values == [[1, 10, 3.0, 2.0, 1.0], [2, 4, 2.0, 2.25, -0.25]]
    assert rows[0].details.p.text == HOSTILE and not rows[0].details.has_attr("open")


def test_a_report_that_cannot_be_written_does_not_undo_the_step(run, capsys):
    (run / "06_infer" / "texts.jsonl").unlink()
    do(run, "infer")
    assert write_if_complete(Run(run)) == run / "report.html"
    FILES["infer"]["texts.jsonl"], kept = "no JSON", FILES["infer"]["texts.jsonl"]
    try:
        do(run, "infer")
    finally:
        FILES["infer"]["texts.jsonl"] = kept
    assert "The report was not written (JSONDecodeError" in capsys.readouterr().out
    assert Run(run).problem("infer") is None


def test_a_run_of_an_older_notebook_06_has_no_report_and_a_sentence(run, capsys, monkeypatch):
    monkeypatch.delitem(FILES["infer"], "texts.jsonl")
    do(run, "infer")
    said = (
        "The report was not written (RunError: 06_infer has no texts.jsonl: run notebook 06 again)"
    )
    assert said in capsys.readouterr().out


def test_the_last_step_writes_the_report_unless_a_runner_does(run, monkeypatch):
    assert (run / "report.html").exists()
    (run / "report.html").unlink()
    monkeypatch.setenv(FILE, str(run / "progress"))
    do(run, "infer")
    assert not (run / "report.html").exists()
    do(run, "chunk", block_size=32)
    monkeypatch.delenv(FILE)
    do(run, "train")
    assert write_if_complete(Run(run)) is None and not (run / "report.html").exists()
