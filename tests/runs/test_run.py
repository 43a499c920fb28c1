"""The batch runner: which parameters a run gets, which steps it does, and what a mistake on the
command line looks like.
"""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest

from helpers.errors import RunError, UserError
from helpers.hub.sources import PROJECT
from helpers.runs import locking
from helpers.runs import run as run_module
from helpers.runs.folder import Run
from helpers.runs.locking import RUN, acquire, folder_lock
from helpers.runs.notebook import defaults, path_of
from helpers.runs.parameters import RULES, STEPS, folder_of
from helpers.runs.process import Outcome
from helpers.runs.profiles import PROFILES as FOLDER
from helpers.runs.profiles import choose_folder, plan, resume
from helpers.runs.record import read_record
from helpers.runs.run import RunSpec, execute_run
from helpers.runs.step import start_step

PROFILES = sorted(path.stem for path in FOLDER.glob("*.yaml") if not path.stem.startswith("sweep"))


WORDS = list(
    enumerate(
        [
            "apple",
            "bridge",
            "candle",
            "desert",
            "engine",
            "forest",
            "garden",
            "hammer",
            "island",
            "jacket",
        ]
        * 4
    )
)


def refusal(profile="tiny", *settings):
    with pytest.raises(UserError) as caught:
        plan(profile, settings)
    return str(caught.value)


def plan_of_defaults():
    return {
        step: {n: v for n, v in defaults(path_of(step)).items() if n != "run_dir"} for step in STEPS
    }


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """Write a profile named `mine`."""
    monkeypatch.setattr("helpers.runs.profiles.PROFILES", tmp_path)
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
    assert after["infer"]["seed"] == 5 and {s: after[s] for s in STEPS[:-1]} == {
        s: before[s] for s in STEPS[:-1]
    }


@pytest.mark.parametrize(
    "text", ["42", "true", "1e-4", "null", "a=b", "[1]", " x: y", "2026-13-45"]
)
def test_text_parameters_stay_text(text):
    assert plan("tiny", [f"infer.prompt={text}"])["infer"]["prompt"] == text


def test_number_parameters_become_numbers():
    parameters = plan(
        "tiny", ["train.learning_rate=1e-4", "num_train_epochs=2", "chunk.block_size=64"]
    )
    assert parameters["train"]["learning_rate"] == 1e-4 and parameters["chunk"]["block_size"] == 64
    assert type(parameters["train"]["num_train_epochs"]) is float


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_gives_all_parameters(name):
    assert {step: set(values) for step, values in plan(name).items()} == {
        step: set(RULES[step]) for step in STEPS
    }


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
        ("run_dir=x", ["run_dir is 'x'", "--run-dir"]),
        ("load.run_dir=x", ["load.run_dir is 'x'", "--run-dir"]),
        ("block_size=1", ["chunk.block_size is 1", "at least 2"]),
        ("block_size=8.5", ["chunk.block_size is 8.5", "whole number"]),
        ("block_size=", ["chunk.block_size is ''", "whole number"]),
        ("seed=true", ["load.seed is True", "whole number"]),
        ("learning_rate=2026-13-45", ["train.learning_rate is '2026-13-45'", "greater than 0"]),
        ("infer.prompt=", ["infer.prompt is ''", "non-empty"]),
    ],
)
def test_refused_settings_say_what_would_do(setting, parts):
    message = refusal("tiny", setting)
    assert all(part in message for part in parts), message


def test_a_profile_can_be_given_by_its_path(profile, tmp_path, monkeypatch):
    profile("infer:\n  seed: 7\n")
    monkeypatch.setattr("helpers.runs.profiles.PROFILES", FOLDER)
    assert plan(str(tmp_path / "mine.yaml"))["infer"]["seed"] == 7
    assert choose_folder(None, str(tmp_path / "mine.yaml")) == "runs/mine"
    assert "'none.yaml': no such file" in refusal("none.yaml")


def test_an_unknown_profile_gives_the_nearest():
    assert "'tinny'" in (message := refusal("tinny")) and "'tiny'" in message
    assert all(name in refusal("qqq") for name in PROFILES)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("train:\n  epochs: 3\n", ["train.epochs", "3", "num_train_epochs"]),
        ("trian:\n  seed: 3\n", ["'trian'", "'train'"]),
        ("chunk:\n  block_size: many\n", ["chunk.block_size", "'many'", "whole number"]),
        ("infer:\n  prompt: 42\n", ["infer.prompt", "42", "string"]),
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
    """Run all steps in the folder `run`, a stand-in for the notebooks; return the steps that were
    done, and the record or the message.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("helpers.hub.sources.PROJECT", tmp_path)
    monkeypatch.setattr(locking, "PATIENCE", 0.1)

    def run(
        *settings,
        start=None,
        until="infer",
        force=False,
        ends=None,
        folder="run",
        shared="",
        profile=None,
        said=None,
    ):
        done, (name, chosen) = (
            [],
            (profile or "tiny", settings) if shared else resume(folder, profile, settings),
        )

        def run_notebook(step, output, parameters, *_):
            output.write_text("executed")
            if said is not None and not done:
                said.append(
                    ("begun", step, json.loads((tmp_path / folder / "run.json").read_text()))
                )
            if ends and step == ends[0]:
                return Outcome(ends[1], f"{step}: {ends[1]}.", 1.0, 5)
            doing = start_step(step, **parameters)
            (doing.path / "content").write_text(json.dumps([doing.parameters, doing.records]))
            doing.finish()
            done.append(step)
            return Outcome("ok", "", 1.0, 7)

        monkeypatch.setattr(run_module, "run_notebook", run_notebook)
        monkeypatch.setattr(run_module, "write_report", lambda folder: None)
        monkeypatch.setattr(
            run_module, "NotebookProcess", lambda *_: SimpleNamespace(discard=lambda: None)
        )
        how = {
            "start": start,
            "until": until,
            "force": force,
            "shared": shared,
            "profile": name,
            "settings": chosen,
        }
        what = pickle.loads(pickle.dumps(RunSpec(folder, plan(name, chosen), **how)))
        record = execute_run(
            what, lambda event, *more: said.append((event, *more)) if said is not None else None
        )
        assert read_record(tmp_path / folder) == json.loads(json.dumps(record))
        return done, record

    return run


def test_a_second_run_leaves_out_what_is_done_and_says_so(runner):
    assert runner()[0] == list(STEPS)
    done, record = runner()
    assert done == [] and [
        s for s, how in record["steps"].items() if how["done"] == "before"
    ] == list(STEPS)


def test_until_ends_a_run_which_goes_on_from_there(runner, tmp_path):
    done, record = runner(until="chunk")
    assert done == ["load", "preprocess", "chunk"] and record["status"] == "partial"
    assert not (tmp_path / "run" / "report.html").exists()
    with pytest.raises(RunError, match="the next step is 'train'"):
        read_record(tmp_path / "run", complete=True)
    assert runner(until="chunk")[0] == []
    done, record = runner()
    assert done == ["train", "evaluate", "infer"] and record["status"] == "ok"


def test_until_of_a_run_whose_later_steps_are_done(runner):
    runner()
    assert runner(until="chunk")[1]["status"] == "ok"
    said = []
    done, record = runner("chunk.block_size=64", until="chunk", said=said)
    assert done == ["chunk"] and record["status"] == "partial"
    assert {event[1] for event in said if event[0] == "planned"} == {"load", "preprocess", "chunk"}


def test_until_with_from_does_the_steps_between_them(runner):
    runner()
    assert runner(start="preprocess", until="chunk")[0] == ["preprocess", "chunk"]
    assert runner(start="chunk", until="chunk")[0] == ["chunk"]


@pytest.mark.parametrize(
    "start, until, sentence",
    [
        (None, "chnk", "There is no step 'chnk': the nearest is 'chunk'."),
        ("train", "chunk", "--until is 'chunk': it comes before --from, which is 'train'"),
    ],
)
def test_until_with_a_step_that_cannot_be_the_last(runner, start, until, sentence):
    with pytest.raises(RunError, match=re.escape(sentence)):
        runner(start=start, until=until)


def test_a_changed_parameter_redoes_its_step_and_what_was_made_from_it(runner):
    runner()
    assert runner("chunk.block_size=64")[0] == ["chunk", "train", "evaluate", "infer"]
    assert runner("block_size=64", "infer.seed=9")[0] == ["infer"]


def test_a_folder_goes_on_with_its_own_profile_and_settings(runner, profile, tmp_path):
    profile("infer:\n  seed: 7\n")
    assert runner("block_size=64", "load.dataset=embedded", profile="mine")[0] == list(STEPS)
    done, record = runner()
    assert done == [] and record["profile"] == "mine"
    assert record["settings"] == {"load.dataset": "embedded", "chunk.block_size": 64}
    assert runner("infer.seed=9")[0] == ["infer"] and runner()[0] == []
    assert runner("block_size=32", start="infer")[1]["settings"]["chunk.block_size"] == 32
    (tmp_path / "tiny.yaml").write_text("{}")
    assert runner(profile="mine")[1]["settings"]["infer.seed"] == 9
    assert (
        runner(profile="tiny")[1]["settings"] == {}
    )  # another profile, without the settings of the one before


def test_what_is_remembered_stands_before_the_first_notebook(runner):
    said = []
    runner("infer.seed=5", said=said, ends=("load", "failed"))
    (record,) = (more for event, _, more in said if event == "begun")
    assert (record["status"], record["profile"], record["settings"]) == (
        "interrupted",
        "tiny",
        {"infer.seed": 5},
    )
    assert runner()[1]["parameters"]["infer"]["seed"] == 5


@pytest.mark.parametrize("text", [None, "{", '{"format": 1, "status": "ok"}'])
def test_a_folder_whose_steps_were_made_one_by_one_goes_on_with_their_parameters(
    tmp_path, monkeypatch, text
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("helpers.hub.sources.PROJECT", tmp_path)
    start_step("load", "run", **plan("tiny", ["load.seed=1"])["load"]).finish()
    if text:
        (tmp_path / "run" / "run.json").write_text(text)
    assert resume("run", None, {"infer.seed": 2}) == ("tiny", {"load.seed": 1, "infer.seed": 2})
    assert resume("run", "tiny", []) == ("tiny", {})


def test_the_record_says_what_the_steps_say(runner, tmp_path):
    """A step that was done by itself since, with other parameters."""
    runner()
    step = start_step("chunk", "run", **plan("tiny", ["block_size=64"])["chunk"])
    step.finish()
    said = []
    record = runner("train.seed=3", start="train", said=said)[1]
    assert record["status"] == "ok" and record["parameters"]["chunk"]["block_size"] == 64
    assert {s: Run("run").record(s)["parameters"] for s in STEPS} == record["parameters"]
    lines = {step: more["line"] for event, step, more in said if event == "planned"}
    assert (
        lines["load"] == "stays as it is"
        and lines["chunk"] == "stays as it is, though block_size 64 → 256"
    )
    assert lines["train"] == "will be done: --from train; seed 42 → 3"


def planned(runner, *settings, **how):
    said = []
    runner(*settings, said=said, **how)
    lines = [event for event, *_ in said if event == "planned"]
    assert [event for event, *_ in said][: len(lines)] == lines  # before anything else
    return {step: more["line"] for event, step, more in said if event == "planned"}


def test_what_is_done_again_is_said_with_its_reason_before_anything_begins(
    runner, tmp_path, monkeypatch
):
    assert planned(runner) == {}  # all is new, or all is done
    assert planned(runner) == {}
    left = dict.fromkeys(("load", "preprocess"), "is skipped")
    after = {s: "will be done: it is made from train" for s in ("evaluate", "infer")}
    changed = {
        "chunk": "will be done: block_size 256 → 64",
        "train": "will be done: it is made from chunk",
    }
    after["evaluate"] = "will be done: it is made from chunk; it is made from train"
    assert (
        planned(runner, "chunk.block_size=64", ends=("train", "failed")) == left | changed | after
    )
    shutil.rmtree(tmp_path / "run" / "06_infer")
    lines = planned(runner, "load.dataset=mine.jsonl", ends=("load", "failed"))
    assert lines["load"] == "will be done: dataset 'embedded' → 'mine.jsonl'"
    assert lines["infer"] == "will be done: it has not been done yet"


def test_inputs_and_code_that_have_changed_are_reasons(runner, tmp_path, monkeypatch):
    (tmp_path / "mine.txt").write_text("one")
    runner("load.dataset=mine.txt")
    (tmp_path / "mine.txt").write_text("other")
    assert planned(runner)["load"] == "will be done: its dataset has changed"
    (tmp_path / "run" / "05_evaluate" / "content").write_text("edited")
    assert "'evaluate' in run has been changed since it was written" in planned(runner)["evaluate"]
    record = json.loads((path := tmp_path / "run" / "06_infer" / "step.json").read_text())
    path.write_text(json.dumps(record | {"code": "of another day"}))
    assert planned(runner)["infer"] == "will be done: its code has changed"


def test_force_redoes_everything(runner):
    runner()
    assert runner(force=True)[0] == list(STEPS)


def test_from_redoes_that_step_and_the_later_ones(runner):
    runner()
    assert runner(start="chunk")[0] == ["chunk", "train", "evaluate", "infer"]


def test_from_an_unknown_step_gives_the_nearest(runner):
    with pytest.raises(RunError, match=r"'chunks'.*'chunk'"):
        runner(start="chunks")


@pytest.mark.parametrize("status", ["failed", "timed out", "kernel died", "interrupted"])
def test_a_step_that_does_not_end_well_leaves_its_notebook_and_the_rest_in_place(
    runner, tmp_path, status
):
    done, record = runner(ends=("chunk", status))
    assert done == ["load", "preprocess"] and (record["status"], record["message"]) == (
        status,
        f"chunk: {status}.",
    )
    assert record["steps"]["chunk"]["done"] == status and record["peak_memory_mb"] == 7
    assert sorted(p.name for p in (tmp_path / "run").glob("*.ipynb")) == ["03_chunk.failed.ipynb"]
    done, record = runner()
    assert done == ["chunk", "train", "evaluate", "infer"] and record["status"] == "ok"
    assert list((tmp_path / "run").glob("*.ipynb")) == []
    assert (tmp_path / "run" / "03_chunk" / "03_chunk.ipynb").read_text() == "executed"


def test_a_notebook_that_leaves_no_artifact_is_an_error(runner, monkeypatch):
    monkeypatch.setattr(Run, "publish", lambda *_: None)
    record = runner()[1]
    assert (
        record["status"] == "failed"
        and "load" in record["message"]
        and "no artifact" in record["message"]
    )


def test_runs_with_a_shared_folder_do_what_they_have_in_common_once(runner, tmp_path):
    shared = str(tmp_path / "shared")
    assert runner(folder="a", shared=shared)[0] == list(STEPS)
    assert runner("learning_rate=0.5", folder="b", shared=shared)[0] == [
        "train",
        "evaluate",
        "infer",
    ]
    assert runner("infer.seed=3", "learning_rate=0.5", folder="c", shared=shared)[0] == ["infer"]
    assert runner("split=train[:9]", folder="d", shared=shared)[0] == list(STEPS)
    assert (
        runner(folder="d", shared=shared)[0] == []
    )  # an edited sweep: what lies in the folder is other, what is shared is right
    shutil.rmtree(tmp_path / "shared")
    shutil.rmtree(tmp_path / "a")
    assert runner("infer.seed=4", folder="b")[0] == ["infer"]  # what is shared stays with each run


def test_a_run_of_a_sweep_waits_for_another_sweep_that_does_it(runner, tmp_path):
    with ThreadPoolExecutor(1) as other:
        held = other.submit(acquire, tmp_path / "run", RUN).result()
        with pytest.raises(RunError, match="process .* holds it"):
            runner()
        threading.Timer(1, held.release).start()
        assert runner(shared=str(tmp_path / "shared"))[1]["status"] == "ok"


def test_a_step_that_failed_is_not_shared(runner, tmp_path):
    shared = str(tmp_path / "shared")
    runner(folder="a", shared=shared, ends=("chunk", "failed"))
    assert runner(folder="b", shared=shared)[0] == ["chunk", "train", "evaluate", "infer"]


def test_a_second_run_in_the_same_folder_says_who_holds_it(runner, tmp_path):
    with (
        folder_lock(tmp_path / "run"),
        pytest.raises(RunError, match=f"'run': process {os.getpid()} on .* holds it; "),
    ):
        runner()
    assert runner()[1]["status"] == "ok"


def test_a_run_that_is_moved_is_still_done(runner, tmp_path):
    runner()
    (tmp_path / "elsewhere").mkdir()
    os.rename("run", "elsewhere/moved")
    assert runner(folder="elsewhere/moved")[0] == []
    written = [p for p in (tmp_path / "elsewhere").rglob("*") if p.is_file()]
    assert written and not any(str(tmp_path).encode() in p.read_bytes() for p in written)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (None, "is not a run"),
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"format": 99}', "this code reads up to"),
    ],
)
def test_a_record_that_cannot_be_used_is_refused(tmp_path, text, part):
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunError, match=part):
        read_record(tmp_path)


@pytest.mark.parametrize(
    "text", ["1e-4", "  x", "{a}", "$(touch x)", "'; import os", 'a"b\nc', "{{", "\\"]
)
def test_hostile_values_of_texts_come_through_unchanged(text):
    assert plan("tiny", {"infer.prompt": text})["infer"]["prompt"] == text


@pytest.mark.parametrize(
    "name", ["a b", "x=1", "__import__('os')", "train.learning_rate; x", "a\nb", "class", ""]
)
def test_hostile_names_are_refused(name):
    with pytest.raises(UserError):
        plan("tiny", {name: 1})


def test_values_of_python_and_numpy_become_plain():
    settings = {
        "learning_rate": np.float32(0.5),
        "block_size": np.int64(64),
        "load.dataset": PurePosixPath("a/b.txt"),
    }
    parameters = plan("tiny", {**settings, "weight_decay": "1e-4"})
    assert (
        parameters["train"]["learning_rate"] == 0.5
        and type(parameters["train"]["learning_rate"]) is float
    )
    assert parameters["chunk"]["block_size"] == 64 and parameters["load"]["dataset"] == "a/b.txt"
    assert parameters["train"]["weight_decay"] == 1e-4
    json.dumps(parameters)


def command(*arguments, cwd):
    return command_line([sys.executable, *arguments], cwd)


def command_line(line, cwd):
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        line, cwd=cwd, env=environment, capture_output=True, text=True, timeout=400
    )


def snapshot(folder):
    runners = ("run.json", "metrics.json")  # what the runner itself writes, whatever happens
    found = (
        p
        for p in folder.rglob("*")
        if p.suffix not in (".lock", ".holder") and p.name not in runners
    )
    files = [p for p in found if p.is_file()]
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in files}


@pytest.fixture
def started(tmp_path, monkeypatch):
    """A run folder `run` in which load is done."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("helpers.hub.sources.PROJECT", tmp_path)
    step = start_step("load", "run", seed=1)
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
        (["--run-dir", "FOLDER/file/below"], ["/file/below'", "name another"]),
        (["--run-dir", ""], ["run_dir is ''", "the name of a folder"]),
    ],
)
def test_a_mistake_ends_with_one_sentence_and_status_1(started, arguments, parts):
    (started.parent / "file").touch()
    before = snapshot(started)
    arguments = [a.replace("FOLDER", str(started.parent)) for a in arguments]
    result = command(
        "-m", "helpers", "run", "--run-dir", str(started), *arguments, cwd=started.parent
    )
    assert result.returncode == 1 and result.stdout == ""
    assert (
        result.stderr.count("\n") == 1
        and result.stderr.endswith(".\n")
        and "Traceback" not in result.stderr
    )
    assert all(part in result.stderr for part in parts), result.stderr
    assert snapshot(started) == before


def test_a_failing_notebook_stays_in_the_run_folder_and_says_why(started):
    before = snapshot(started)
    arguments = ["--run-dir", str(started), "-p", "load.split=missing"]
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


@pytest.mark.skipif(not shutil.which("bash"), reason="this system has no bash")
@pytest.mark.parametrize(
    "line",
    [
        "{} -m helpers --help | true",
        "{} -m helpers compare run run | true",
        "{} -m helpers prefetch | true",
    ],
)
def test_an_output_that_nobody_reads_ends_quietly(tmp_path, line):
    result = command_line(["bash", "-c", line.format(sys.executable)], cwd=tmp_path)
    assert (
        "Exception" not in result.stderr
        and "Traceback" not in result.stderr
        and "Errno" not in result.stderr
    )


@pytest.mark.skipif(not shutil.which("bash"), reason="this system has no bash")
@pytest.mark.parametrize("redirection", [">&-", ">&- 2>&-"])
def test_a_closed_output_changes_nothing(tmp_path, redirection):
    line = (
        f"{sys.executable} -m helpers run --run-dir {tmp_path}/run -p "
        f"load.dataset=missing.jsonl {redirection}"
    )
    result = command_line(["bash", "-c", line], cwd=tmp_path)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "missing.jsonl" in result.stderr or "2>" in redirection
    assert "missing.jsonl" in read_record(tmp_path / "run")["message"]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_an_output_without_our_characters_ends_no_run(tmp_path, monkeypatch, encoding):
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    code = "from helpers.runs import cli as m; from helpers.runs.terminal import View\n"
    code += "def run():\n    View(m.make_console()).listener()('done', 'load', {'seconds': 1.0})\n"
    code += "m.app.command('show')(run); m.main()"
    result = command("-c", code, "show", cwd=tmp_path)
    assert result.returncode == 0 and "ok 01_load" in result.stdout, result.stderr


def test_a_file_that_is_missing_is_said_before_any_notebook_starts(tmp_path):
    result = command(
        "-m",
        "helpers",
        "run",
        "--run-dir",
        str(tmp_path / "run"),
        "-p",
        "load.dataset=missing.jsonl",
        cwd=tmp_path,
    )
    assert (
        result.returncode == 1
        and "dataset is 'missing.jsonl': there is no such file" in result.stderr
    )
    assert snapshot(tmp_path / "run") == {}


def test_the_command_line_and_the_package_import_no_torch(tmp_path):
    for arguments in (["-c", "import helpers"], ["-m", "helpers", "run", "--help"]):
        result = command("-X", "importtime", *arguments, cwd=tmp_path)
        imported = set(re.findall(r"\|\s+([\w.]+)$", result.stderr, re.M))
        assert result.returncode == 0 and "helpers" in imported
        assert not imported & {"torch", "transformers", "datasets", "matplotlib"}


@pytest.mark.full
def test_the_command_that_a_refusal_names_goes_on_with_the_runs_own_settings(tmp_path):
    lines = [
        json.dumps({"answers": {"text": [f"{word} is a word of its own, number {n}"]}})
        for n, word in WORDS
    ]
    data, folder = tmp_path / "small.jsonl", tmp_path / "runs" / "hint"
    data.write_text("\n".join(lines))
    chosen = {"load.dataset": str(data), "chunk.block_size": 64, "train.num_train_epochs": 0.1}
    chosen |= {"infer.max_new_tokens": 3}
    settings = [word for key, value in chosen.items() for word in ("-p", f"{key}={value}")]
    first = command("-m", "helpers", "run", "--run-dir", str(folder), *settings, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    edit = (
        "from helpers.runs.profiles import plan; p = plan('tiny', ['load.seed=7', "
        f"'load.dataset={data}'])['load']; "
    )
    edit += "from helpers.runs.notebook import execute; from pathlib import Path; "
    edit += f"execute('load', Path('out.ipynb'), p | {{'run_dir': '{folder}'}})"
    assert command("-c", edit, cwd=tmp_path).returncode == 0
    refused = command("-m", "helpers", "train", "--run-dir", str(folder), cwd=tmp_path)
    hint = re.search(r"`python (-m helpers run --run-dir \S+ --from \w+)`", refused.stderr)[1]
    assert refused.returncode == 1
    done = command(*hint.split(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "01_load stays as it is, though seed 7 → 42" in done.stdout
    record = json.loads((folder / "run.json").read_text())
    assert record["settings"] == chosen and record["parameters"]["load"]["seed"] == 7
    made = {
        s: json.loads((folder / folder_of(s) / "step.json").read_text())["parameters"]
        for s in STEPS
    }
    assert made == record["parameters"]
    assert (
        chosen.items()
        <= {f"{step}.{name}": value for step in STEPS for name, value in made[step].items()}.items()
    )


IN_LITTLE_ROOM = """
mount -t tmpfs -o size={size}m none {folder} && cd {folder} || exit 9
{python} -m helpers run --run-dir {folder}/run; echo "first $?"; ls -A run
mount -o remount,size=1000m {folder}
{python} -m helpers run --run-dir {folder}/run; echo "second $?"
"""


@pytest.mark.parametrize(
    ("size", "missing", "said"),
    [
        (
            1,
            "02_preprocess",
            "preprocess: the disk is full: free some space, then run the same command "
            "again to resume.",
        ),
        pytest.param(
            80,
            "04_train",
            r"and the same command goes on from checkpoint-\d+\.",
            marks=pytest.mark.full,
        ),
    ],
)
def test_a_disk_that_is_full_is_said_and_with_room_it_goes_on(tmp_path, size, missing, said):
    if not shutil.which("unshare"):
        pytest.skip("a small disk cannot be mounted here: there is no unshare")
    probe = subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(tmp_path)], capture_output=True
    )
    if probe.returncode:
        pytest.skip("a small disk cannot be mounted here: unshare -rm mount is not permitted")
    script = IN_LITTLE_ROOM.format(size=size, folder=tmp_path, python=sys.executable)
    if size == 1:
        script = script.rpartition("mount -o")[0]
    result = command_line(["unshare", "-rm", "sh", "-c", script], cwd=tmp_path)
    _, first, listing = result.stdout.partition("first 1")
    assert first and missing not in listing.split("\n")
    assert re.search(f"{said}$", result.stderr.strip()) and result.stderr.count("\n") == 1
    assert size == 1 or "second 0" in result.stdout


@pytest.mark.full
def test_two_hundred_runs_leave_nothing_behind(tmp_path, monkeypatch):
    """Runs whose first notebook fails at once: processes, files in the temporary folder,
    descriptors and memory stay what they were.
    """
    import gc
    import tempfile

    import psutil

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("helpers.hub.sources.PROJECT", tmp_path)
    (tmp_path / "empty.jsonl").write_text("{}\n")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    what = RunSpec("run", plan("tiny", {"load.dataset": "empty.jsonl"}))

    def state():
        gc.collect()
        me = psutil.Process()
        left = len(list((tmp_path / "temporary").iterdir()))
        return (
            len(me.children(recursive=True)),
            left,
            me.num_fds(),
            me.num_threads(),
            me.memory_info().rss,
        )

    for _ in range(5):
        assert execute_run(what)["status"] == "failed"
    before = state()
    for _ in range(200):
        assert execute_run(what)["status"] == "failed"
    after = state()
    assert after[:4] == before[:4] and before[:2] == (0, 0)
    assert after[4] < before[4] + 20e6
