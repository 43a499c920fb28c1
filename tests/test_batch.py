"""The batch runner: which parameters a run gets, which steps it does, and what a mistake on the command line looks like."""

import io
import json
import os
import re
import subprocess
import sys

import nbformat
import pytest
from rich.console import Console

import helpers
from helpers import batch
from helpers.batch import plan
from helpers.errors import UserError
from helpers.notebooks import defaults, path_of
from helpers.parameters import RULES, STEPS
from helpers.run import Run, begin
from helpers.sources import PROJECT

PROFILES = sorted(path.stem for path in (PROJECT / "notebooks" / "profiles").glob("*.yaml"))


def refusal(profile="tiny", *settings):
    with pytest.raises(UserError) as caught:
        plan(profile, settings)
    return str(caught.value)


def plan_of_defaults():
    return {step: {n: v for n, v in defaults(path_of(step)).items() if n != "run_dir"} for step in STEPS}


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """Write a profile named `mine`."""
    monkeypatch.setattr(batch, "PROFILES", tmp_path)
    return (tmp_path / "mine.yaml").write_text


def test_default_then_profile_then_setting(profile):
    profile("train:\n  seed: 7\n  weight_decay: 0.5\nchunk: {}\n")
    parameters = plan("mine", ["train.weight_decay=0.25"])
    expected = plan_of_defaults()
    expected["train"] |= {"seed": 7, "weight_decay": 0.25}
    assert parameters == expected


def test_a_profile_may_leave_a_step_empty(profile):
    profile("chunk:\n  # block_size: 256\n")
    assert plan("mine") == plan_of_defaults()


def test_the_last_of_two_settings_counts():
    assert plan("tiny", ["chunk.block_size=8", "block_size=16"])["chunk"]["block_size"] == 16


@pytest.mark.parametrize("name", ["seed", "model"])
def test_a_setting_without_a_step_goes_to_all_that_have_it(name):
    before, after = plan("tiny"), plan("tiny", [f"{name}=5"])
    for step in STEPS:
        changed = {n for n in after[step] if after[step][n] != before[step][n]}
        assert changed == ({name} if name in RULES[step] else set())


def test_a_setting_with_a_step_goes_to_that_one():
    before, after = plan("tiny"), plan("tiny", ["infer.seed=5"])
    assert after["infer"]["seed"] == 5 and {s: after[s] for s in STEPS[:-1]} == {s: before[s] for s in STEPS[:-1]}


@pytest.mark.parametrize("text", ["42", "true", "1e-4", "null", "a=b", "[1]", " x: y", "2026-13-45"])
def test_text_parameters_stay_text(text):
    assert plan("tiny", [f"infer.prompt={text}"])["infer"]["prompt"] == text


def test_number_parameters_become_numbers():
    parameters = plan("tiny", ["train.learning_rate=1e-4", "num_train_epochs=2", "chunk.block_size=64"])
    assert parameters["train"]["learning_rate"] == 1e-4 and parameters["chunk"]["block_size"] == 64
    assert type(parameters["train"]["num_train_epochs"]) is float


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_gives_all_parameters(name):
    assert {step: set(values) for step, values in plan(name).items()} == {step: set(RULES[step]) for step in STEPS}


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("train.learning_rat=1", ["train.learning_rat", "'1'", "'learning_rate'"]),
        ("blocksize=1", ["blocksize", "'1'", "'block_size'"]),
        ("chunk.blok_size=1", ["chunk.blok_size", "'1'", "block_size"]),
        ("trian.seed=1", ["'trian'", "'train'"]),
        (".seed=1", ["''", "train"]),
        ("seed", ["'seed'", "NAME=VALUE"]),
        ("=1", ["'=1'", "NAME=VALUE"]),
        ("train.=1", ["'train.=1'", "NAME=VALUE"]),
        ("", ["''", "NAME=VALUE"]),
        ("run_dir=x", ["'run_dir=x'", "--run-dir"]),
        ("load.run_dir=x", ["'load.run_dir=x'", "--run-dir"]),
        ("block_size=1", ["chunk.block_size is 1", "at least 2"]),
        ("block_size=8.5", ["chunk.block_size is 8.5", "whole number"]),
        ("block_size=", ["chunk.block_size is ''", "whole number"]),
        ("seed=true", ["load.seed is True", "whole number"]),
        ("learning_rate=2026-13-45", ["train.learning_rate is '2026-13-45'", "greater than 0"]),
        ("infer.prompt=", ["infer.prompt is ''", "not empty"]),
    ],
)
def test_refused_settings_say_what_would_do(setting, parts):
    message = refusal("tiny", setting)
    assert all(part in message for part in parts), message


def test_an_unknown_profile_gives_the_nearest():
    assert "'tinny'" in (message := refusal("tinny")) and "'tiny'" in message
    assert all(name in refusal("qqq") for name in PROFILES)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("train:\n  epochs: 3\n", ["train.epochs", "3", "num_train_epochs"]),
        ("trian:\n  seed: 3\n", ["'trian'", "'train'"]),
        ("chunk:\n  block_size: many\n", ["chunk.block_size", "'many'", "whole number"]),
        ("infer:\n  prompt: 42\n", ["infer.prompt", "42", "text"]),
        ("chunk: 8\n", ["mine", "chunk"]),
        ("- chunk\n", ["mine"]),
        ("chunk: {\n", ["mine"]),
    ],
    ids=["parameter", "step", "value", "type", "no-table", "list", "not-yaml"],
)
def test_a_profile_with_a_mistake_is_refused(profile, text, parts):
    profile(text)
    message = refusal("mine")
    assert all(part in message for part in parts) and "\n" not in message


@pytest.fixture
def runner(tmp_path, monkeypatch):
    """Run all steps in the folder `run`, a stand-in for the notebooks; return the steps that were done, and what was printed."""
    monkeypatch.chdir(tmp_path)
    for name in ("HF_DATASETS_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(batch, "summary", lambda folder, console: None)

    def run(*settings, start=None, force=False, fails=None):
        done = []

        def execute(step, output, parameters):
            output.write_text("executed")
            if step == fails:
                raise UserError(f"{step}: it failed.")
            doing = begin(step, **parameters)
            (doing.path / "content").write_text(json.dumps([doing.parameters, doing.records]))
            doing.finish()
            done.append(step)

        monkeypatch.setattr(batch, "execute", execute)
        console = Console(file=io.StringIO(), highlight=False, soft_wrap=True)
        try:
            batch.run("tiny", "run", settings, start, force, console)
        except UserError as error:
            return done, str(error)
        return done, console.file.getvalue()

    return run


def test_a_second_run_leaves_out_what_is_done_and_says_so(runner):
    assert runner()[0] == list(STEPS)
    done, printed = runner()
    assert done == [] and re.findall(r"\d\d_(\w+)  done already", printed) == list(STEPS)


def test_a_changed_parameter_redoes_its_step_and_what_was_made_from_it(runner):
    runner()
    assert runner("chunk.block_size=64")[0] == ["chunk", "train", "evaluate", "infer"]
    assert runner("block_size=64", "infer.seed=9")[0] == ["infer"]


def test_force_redoes_everything(runner):
    runner()
    assert runner(force=True)[0] == list(STEPS)


def test_from_redoes_that_step_and_the_later_ones(runner):
    runner()
    assert runner(start="chunk")[0] == ["chunk", "train", "evaluate", "infer"]


def test_from_an_unknown_step_gives_the_nearest(runner):
    done, message = runner(start="chunks")
    assert done == [] and "'chunks'" in message and "'chunk'" in message


def test_a_failed_step_leaves_its_notebook_in_the_run_folder_and_the_rest_in_place(runner, tmp_path):
    done, message = runner(fails="chunk")
    assert done == ["load", "preprocess"] and message == "chunk: it failed."
    assert sorted(p.name for p in (tmp_path / "run").glob("*.ipynb")) == ["03_chunk.failed.ipynb"]
    assert runner()[0] == ["chunk", "train", "evaluate", "infer"]
    assert list((tmp_path / "run").glob("*.ipynb")) == []
    assert (tmp_path / "run" / "03_chunk" / "03_chunk.ipynb").read_text() == "executed"


def test_a_notebook_that_leaves_no_artifact_is_an_error(runner, monkeypatch):
    monkeypatch.setattr(Run, "publish", lambda self, step: None)
    message = runner()[1]
    assert "load" in message and "no artifact" in message


def command(*arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )


def snapshot(folder):
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def started(tmp_path, monkeypatch):
    """A run folder `run` in which load is done."""
    monkeypatch.chdir(tmp_path)
    step = begin("load", "run", seed=1)
    (step.path / "content").write_text("earlier")
    step.finish(examples=1)
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--profile", "tinny"], ["'tinny'", "'tiny'"]),
        (["-p", "train.learning_rat=1"], ["train.learning_rat", "'learning_rate'"]),
        (["-p", "seed=many"], ["load.seed is 'many'", "whole number"]),
        (["-p", "block_size=1"], ["chunk.block_size is 1", "at least 2"]),
        (["-p", "load.test_size=1.5"], ["load.test_size is 1.5", "between 0 and 1"]),
        (["--from", "train"], ["--from is 'train'", "'preprocess' has not been done"]),
        (["--run-dir", "file/below"], ["run_dir is 'file/below'", "name another"]),
    ],
)
def test_a_mistake_ends_with_one_sentence_and_status_1(started, arguments, parts):
    (started.parent / "file").touch()
    before = snapshot(started)
    result = command("-m", "helpers", "run", "--run-dir", "run", *arguments, cwd=started.parent)
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.count("\n") == 1 and result.stderr.endswith(".\n") and "Traceback" not in result.stderr
    assert all(part in result.stderr for part in parts), result.stderr
    assert snapshot(started) == before


def test_a_failing_notebook_stays_in_the_run_folder_and_says_why(started):
    before = snapshot(started)
    arguments = ["--run-dir", "run", "-p", "load.split=missing"]
    result = command("-m", "helpers", "run", *arguments, cwd=started.parent)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "split is 'missing'" in result.stderr and "no such split" in result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    failed = started / "01_load.failed.ipynb"
    outputs = [o for c in nbformat.read(failed, as_version=4).cells for o in c.get("outputs", [])]
    assert [o.ename for o in outputs if o.output_type == "error"] == ["ParameterError"]
    after = snapshot(started)
    after.pop(failed)
    assert {p: v for p, v in after.items() if ".partial" not in str(p)} == before
    assert [p.name for p in started.parent.iterdir()] == ["run"]


def test_a_file_that_is_missing_is_said_before_any_notebook_starts(tmp_path):
    result = command("-m", "helpers", "run", "--run-dir", "run", "-p", "load.dataset=missing.jsonl", cwd=tmp_path)
    assert result.returncode == 1 and "dataset is 'missing.jsonl': there is no such file" in result.stderr
    assert list((tmp_path / "run").iterdir()) == []


def test_the_command_line_and_the_package_import_no_torch(tmp_path):
    for arguments in (["-c", "import helpers"], ["-m", "helpers", "run", "--help"]):
        result = command("-X", "importtime", *arguments, cwd=tmp_path)
        imported = set(re.findall(r"\|\s+([\w.]+)$", result.stderr, re.M))
        assert result.returncode == 0 and "helpers" in imported
        assert not imported & {"torch", "transformers", "datasets", "matplotlib"}


def test_every_public_name_leads_to_something():
    assert all(callable(getattr(helpers, name)) for name in helpers.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = helpers.no_such_name
