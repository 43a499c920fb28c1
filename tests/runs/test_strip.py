"""The strip above a notebook, the line after it, and the run that `use_run` chooses."""

import pytest
from bs4 import BeautifulSoup

from helpers.errors import RunError, UserError
from helpers.runs import strip
from helpers.runs.folder import NEEDS, Run
from helpers.runs.parameters import RULES
from helpers.runs.step import begin, start_step
from helpers.runs.strip import CHANGED, DONE, MISSING, STALE, standing, use_run

DEFAULTS = {step: {name: rule.default for name, rule in RULES[step].items()} for step in RULES}


def do(folder, step, text="", **parameters):
    doing = start_step(step, str(folder), **DEFAULTS[step] | parameters)
    (doing.path / "x").write_text(step + text)
    doing.finish()


@pytest.fixture
def pages(monkeypatch, tmp_path):
    """What is displayed to somebody who watches; `use_run` writes to a file of the test."""
    shown = []
    keep = lambda page: shown.append(BeautifulSoup(page.data, "html.parser"))  # noqa: E731
    monkeypatch.setattr("IPython.display.display", keep)
    monkeypatch.setattr(strip, "is_watched", lambda: True)
    monkeypatch.setattr(strip, "CHOSEN", tmp_path / "chosen")
    return shown


def test_what_was_made_from_something_older_is_stale(tmp_path):
    run = Run(tmp_path / "run")
    assert set(standing(run).values()) == {MISSING}
    for step in ("load", "preprocess", "chunk", "train"):
        do(run.folder, step)
    do(run.folder, "chunk", "another")
    found = standing(run)
    assert [found[step] for step in NEEDS] == [DONE, DONE, DONE, STALE, MISSING, MISSING]


def test_another_parameter_in_the_open_notebook_makes_the_later_steps_stale(tmp_path):
    run = Run(tmp_path / "run")
    for step in NEEDS:
        do(run.folder, step)
    assert set(standing(run, "chunk", DEFAULTS["chunk"]).values()) == {DONE}
    found = standing(run, "chunk", DEFAULTS["chunk"] | {"block_size": 64})
    assert [found[step] for step in NEEDS] == [DONE, DONE, CHANGED, STALE, STALE, STALE]


def test_the_strip_links_the_other_notebooks_and_the_line_names_the_next(tmp_path, pages):
    do(tmp_path / "run", "load")
    assert pages.pop().text == "01_load is done. Next: 02_preprocess."
    begin("preprocess", DEFAULTS["preprocess"] | {"run_dir": str(tmp_path / "run")})
    [page] = pages
    assert [link["href"] for link in page.find_all("a")] == [
        f"{name}.ipynb" for name in ("01_load", "03_chunk", "04_train", "05_evaluate", "06_infer")
    ]
    states = [span.text for span in page.find_all("span")[1:3]]
    assert states == ["01 load ✓", "02 preprocess –"] and page.b.text.endswith("run")


def test_nothing_is_shown_to_nobody(tmp_path, pages, monkeypatch):
    monkeypatch.setattr(strip, "is_watched", lambda: False)
    do(tmp_path / "run", "load")
    begin("preprocess", DEFAULTS["preprocess"] | {"run_dir": str(tmp_path / "run")})
    assert not pages


def test_the_chosen_run_counts_where_run_dir_is_the_default_and_somebody_watches(
    tmp_path, pages, monkeypatch
):
    mine = tmp_path / "mine"
    use_run(str(mine))
    assert begin("load", DEFAULTS["load"] | {"run_dir": strip.DEFAULT}).run.folder.resolve() == mine
    assert pages[-1].b.text == Run(mine).shown
    other = begin("load", DEFAULTS["load"] | {"run_dir": str(tmp_path / "other")})
    assert other.run.folder == tmp_path / "other"
    monkeypatch.setattr(strip, "is_watched", lambda: False)
    assert strip.chosen_run(strip.DEFAULT) == strip.DEFAULT
    monkeypatch.setattr(strip, "is_watched", lambda: True)
    use_run(strip.DEFAULT)
    assert strip.chosen_run(strip.DEFAULT) == strip.DEFAULT and not strip.CHOSEN.exists()
    other.abandon()


@pytest.mark.parametrize("name", ["", " ", 3, "nul", "a\0b"])
def test_what_can_be_no_folder_is_not_chosen(name, pages):
    with pytest.raises(UserError, match="run_dir is "):
        use_run(name)
    assert not strip.CHOSEN.exists()


def test_the_default_is_that_of_the_notebooks():
    from helpers.runs.notebook import defaults, path_of

    assert {defaults(path_of(step))["run_dir"] for step in NEEDS} == {strip.DEFAULT}


def test_a_refusal_names_the_notebook_beside_the_command(tmp_path):
    do(tmp_path / "run", "load")
    with pytest.raises(
        RunError, match=r"run 02_preprocess\.ipynb, or `python -m helpers run .* --from preprocess`"
    ):
        start_step("chunk", str(tmp_path / "run"), **DEFAULTS["chunk"])
