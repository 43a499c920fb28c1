"""Catching up: from an empty folder to each step, after a broken run, never over own work."""

import shutil

import pytest

from helpers.errors import RunError
from helpers.runs.folder import NEEDS, Run
from helpers.runs.parameters import RULES, STEPS, folder_of
from helpers.runs.step import start_step
from helpers.workshop.artifacts import catch_up


def make(folder, step, content="shipped", **parameters):
    doing = start_step(
        step, str(folder), **{n: rule.default for n, rule in RULES[step].items()} | parameters
    )
    (doing.path / "content").write_text(content)
    doing.finish()


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """A complete run, of a file for each step."""
    folder = tmp_path_factory.mktemp("shipped") / "artifacts"
    for step in STEPS:
        make(folder, step)
    return folder


def done(folder):
    run = Run(folder)
    return [s for s in STEPS if (r := run.record(s)) and run.is_done(s, r["parameters"])]


@pytest.mark.parametrize("until", STEPS)
def test_from_an_empty_folder_to_each_step(tmp_path, shipped, until):
    catch_up(until, str(tmp_path / "run"), str(shipped))
    assert done(tmp_path / "run") == list(STEPS[: STEPS.index(until)])
    start_step(until, str(tmp_path / "run")).abandon()
    assert not list((tmp_path / "run").glob(".*.partial*"))


def delete(run, step):
    shutil.rmtree(run.path(step))


def damage_record(run, step):
    (run.path(step) / "step.json").write_text("{")


def edit(run, step):
    (run.path(step) / "content").write_text("edited")


def make_again(run, step):
    """What was made from it is stale then."""
    make(run.folder, step, "made again")


@pytest.mark.parametrize("breaks", [delete, damage_record, edit, make_again])
@pytest.mark.parametrize("step", STEPS[:4])
def test_a_run_that_is_broken_halfway(tmp_path, shipped, step, breaks):
    run = Run(tmp_path / "run")
    shutil.copytree(shipped, run.folder)
    breaks(run, step)
    catch_up("evaluate", str(run.folder), str(shipped))
    assert set(NEEDS["evaluate"]) <= set(done(run.folder))


def test_nothing_is_done_where_the_step_can_begin(tmp_path, shipped, capsys):
    make(tmp_path / "run", "load", "my own", seed=7)
    catch_up("preprocess", str(tmp_path / "run"), str(shipped))
    assert (Run(tmp_path / "run").path("load") / "content").read_text() == "my own"
    assert "can begin: what it needs is in" in capsys.readouterr().out


def test_steps_with_other_parameters_are_never_replaced(tmp_path, shipped):
    make(tmp_path / "run", "load", "my own", seed=7)
    with pytest.raises(RunError, match=r"a step 'load' of its own.*name another"):
        catch_up("chunk", str(tmp_path / "run"), str(shipped))
    assert (Run(tmp_path / "run").path("load") / "content").read_text() == "my own"
    assert done(tmp_path / "run") == ["load"]


def test_code_that_is_another_is_said(tmp_path, shipped, monkeypatch, capsys):
    monkeypatch.setattr("helpers.runs.folder.code_fingerprint", lambda step: "other")
    catch_up("chunk", str(tmp_path / "run"), str(shipped))
    assert "does load again, since its code is another" in capsys.readouterr().out
    assert Run(tmp_path / "run").problem("preprocess") is None


@pytest.mark.parametrize("missing", ["everything", "a step"])
def test_artifacts_that_are_not_there(tmp_path, shipped, missing):
    folder = tmp_path / "artifacts"
    if missing == "a step":
        shutil.copytree(shipped, folder)
        shutil.rmtree(folder / folder_of("load"))
    with pytest.raises(RunError, match=r"'load' has not been done.*--until preprocess`"):
        catch_up("chunk", str(tmp_path / "run"), str(folder))
    assert not (tmp_path / "run").exists()


def test_a_step_that_does_not_exist(tmp_path, shipped):
    with pytest.raises(RunError, match="the nearest is 'chunk'"):
        catch_up("chnk", str(tmp_path / "run"), str(shipped))
