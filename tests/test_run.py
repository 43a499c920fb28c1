"""A run folder: written whole or not at all, and never used when something in it is missing, stale, edited or newer."""

import contextlib
import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import time
import types
from pathlib import Path

import nbformat
import papermill
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import run as module
from helpers.errors import ParameterError, RunError
from helpers.run import Run, begin
from helpers.sources import fingerprint

SYSTEM_CALLS = ("rename", "replace", "fsync", "unlink", "rmdir", "mkdir")


def make(folder, step, files=None, metrics=None, **parameters):
    doing = begin(step, str(folder), **parameters)
    for name, content in (files or {"content": step.encode()}).items():
        (doing.path / name).parent.mkdir(exist_ok=True)
        (doing.path / name).write_bytes(content)
    doing.finish(**(metrics or {}))
    return doing


def files_of(folder):
    found = (p for p in Path(folder).rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in found if p.name != "step.json"}


@pytest.fixture
def three(tmp_path):
    """A run folder in which load, preprocess and chunk are done."""
    for step in ("load", "preprocess", "chunk"):
        make(tmp_path / "run", step, metrics={f"of_{step}": 1})
    return tmp_path / "run"


class Killed(BaseException):
    """Not an Exception, so that nothing can handle it."""


@contextlib.contextmanager
def killed_at(k):
    """From the k-th file-system call on, none succeeds, as if the process had been killed before it."""
    calls = 0

    def dying(real):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls > k:
                raise Killed
            return real(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in SYSTEM_CALLS:
            patch.setattr(os, name, dying(getattr(os, name)))
        with contextlib.suppress(Killed):
            yield


def redo_killed_at(folder, files, k):
    """Make `load` again in a process that is killed at call k; whether it got to the end."""
    with killed_at(k):
        make(folder, "load", files, {"version": 2}, seed=2)
        return True
    return False


def check_whole(folder, old, new):
    """The artifact is the old or the new one to the byte, with the record that belongs to it; return which."""
    run = Run(folder)
    record = run.record("load")
    if record is None:
        assert old is None and not run.path("load").exists()
        return 0
    version = record["metrics"]["version"]
    assert files_of(run.path("load")) == (old if version == 1 else new)
    assert record["parameters"] == {"seed": version}
    assert record["fingerprint"] == fingerprint(run.path("load"))
    assert run.problem("load") is None
    return version


trees = st.dictionaries(st.sampled_from(["a", "b", "data/a", "data/b", "data/c"]), st.binary(max_size=40), min_size=1)


@given(st.none() | trees, trees, st.integers(0, 30), st.lists(st.integers(0, 12), max_size=2))
def test_a_killed_step_leaves_the_old_artifact_or_the_new_one(tmp_path, old, new, kill, reopening):
    folder = tmp_path / "run"
    if old is not None:
        make(folder, "load", old, {"version": 1}, seed=1)
    finished = redo_killed_at(folder, new, kill)
    for k in reopening:
        with killed_at(k):
            Run(folder)
    version = check_whole(folder, old, new)
    assert version == 2 or not finished
    make(folder, "load", new, {"version": 2}, seed=2)
    assert sorted(p.name for p in folder.iterdir()) == ["01_load", "metrics.json"]
    assert check_whole(folder, old, new) == 2
    shutil.rmtree(folder)


def test_every_single_moment_of_a_step_is_a_safe_one_to_be_killed_at(tmp_path):
    old, new = {"a": b"old", "data/b": b"old"}, {"a": b"new", "data/c": b"new"}
    versions, finished = [], False
    while not finished:
        folder = tmp_path / str(len(versions))
        make(folder, "load", old, {"version": 1}, seed=1)
        finished = redo_killed_at(folder, new, len(versions))
        versions.append(check_whole(folder, old, new))
    assert versions == sorted(versions) and set(versions) == {1, 2} and len(versions) > 10


CHILD = """
import sys
from helpers.run import begin
version = int(sys.argv[2])
while True:
    version += 1
    step = begin("load", sys.argv[1], seed=version)
    for name in "abc":
        (step.path / name).write_text(str(version) * 20_000)
    step.finish(version=version)
    print(version, flush=True)
"""


@pytest.mark.parametrize("kills", [6, pytest.param(100, marks=pytest.mark.full)])
def test_sigkill_at_random_moments(tmp_path, kills):
    delays, version = random.Random(0), 0
    environment = {**os.environ, "PYTHONPATH": str(module.PROJECT)}
    for _ in range(kills):
        command = [sys.executable, "-c", CHILD, str(tmp_path / "run"), str(version)]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
            first = int(child.stdout.readline())
            time.sleep(delays.uniform(0, 0.1))
            child.kill()
            last = int((child.stdout.read().split() or [first])[-1])
        run = Run(tmp_path / "run")
        assert run.problem("load") is None
        version = run.record("load")["metrics"]["version"]
        assert version in (last, last + 1)
        assert files_of(run.path("load")) == {name: str(version).encode() * 20_000 for name in "abc"}


def refusal(folder, step, **parameters):
    with pytest.raises(RunError) as caught:
        begin(step, str(folder), **parameters)
    assert not Run(folder).partial(step).exists()
    return str(caught.value)


def command_in(message):
    return shlex.split(re.search("`(.+)`", message)[1])


def run_from(folder, step):
    return ["python", "-m", "helpers", "run", "--run-dir", os.path.relpath(folder), "--from", step]


@pytest.mark.parametrize(
    ("step", "done"), [("preprocess", 0), ("chunk", 1), ("train", 1), ("evaluate", 0), ("infer", 0)]
)
def test_a_missing_step_is_named_with_its_command(tmp_path, step, done):
    for name in ("load", "preprocess")[:done]:
        make(tmp_path, name)
    missing = ("load", "preprocess")[done]
    message = refusal(tmp_path, step)
    assert f"{missing!r} has not been done" in message and command_in(message) == run_from(tmp_path, missing)


@pytest.mark.parametrize("step", ["chunk", "train", "evaluate"])
def test_a_stale_step_is_named_with_its_command(three, step):
    make(three, "load", {"content": b"other"})
    message = refusal(three, step)
    assert "'preprocess'" in message and "another 'load'" in message
    assert command_in(message) == run_from(three, "preprocess")


def test_a_step_redone_with_the_same_result_makes_nothing_stale(three):
    make(three, "load")
    assert Run(three).problem("chunk") is None


EDITS = {
    "edited": lambda folder: (folder / "content").write_bytes(b"edited"),
    "added": lambda folder: (folder / "more").touch(),
    "removed": lambda folder: (folder / "content").unlink(),
    "renamed": lambda folder: (folder / "content").rename(folder / "contents"),
}


@pytest.mark.parametrize("change", EDITS.values(), ids=EDITS)
def test_an_edited_artifact_is_named_with_its_command(three, change):
    change(three / "02_preprocess")
    message = refusal(three, "train")
    assert "'preprocess'" in message and "changed since" in message
    assert command_in(message) == run_from(three, "preprocess")


def test_an_executed_notebook_beside_the_artifact_is_no_change(three):
    (three / "02_preprocess" / "02_preprocess.ipynb").touch()
    assert Run(three).problem("chunk") is None


def test_a_record_cut_short_by_hand_is_refused(three):
    (three / "02_preprocess" / "step.json").write_text('{"format": 1,')
    assert "preprocess" in refusal(three, "train")


def test_the_command_works_where_the_folder_has_a_space(tmp_path):
    folder = tmp_path / "my run"
    assert command_in(refusal(folder, "chunk")) == run_from(folder, "load")


def test_the_folder_as_shown_in_the_notebooks_folder_leads_back_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr("helpers.sources.PROJECT", tmp_path)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    run = Run("runs/a")
    assert run.folder == tmp_path / "runs" / "a" and Run(run.shown).folder.resolve() == run.folder


def test_parameters_are_checked_before_anything_is_touched(tmp_path):
    with pytest.raises(ParameterError, match="block_size is 1: .*2"):
        begin("chunk", str(tmp_path), block_size=1)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_step_is_refused(tmp_path):
    with pytest.raises(RunError, match="'preproces'.*'preprocess'"):
        begin("preproces", str(tmp_path))


def test_a_record_of_a_newer_format_is_refused(three):
    path = three / "01_load" / "step.json"
    newer = module.FORMAT + 1
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": newer}))
    message = refusal(three, "preprocess")
    assert f"format {newer}" in message and f"up to {module.FORMAT}" in message and "step.json" in message


@pytest.mark.parametrize("below", ["file", "file/run"])
def test_a_folder_that_cannot_be_written_is_refused(tmp_path, below):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(RunError, match="run_dir.*name another") as caught:
        begin("load", str(tmp_path / below))
    assert str(tmp_path / below) in str(caught.value) and (tmp_path / "file").read_text() == "kept"


def test_a_run_folder_that_is_no_text_is_refused():
    with pytest.raises((RunError, ParameterError), match="run_dir.*2026"):
        begin("load", 2026)


GIVEN = {"dataset": "mine.jsonl", "seed": 1}


@pytest.fixture
def done(tmp_path, monkeypatch):
    """A run whose `load` was made from mine.jsonl in the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("mine.jsonl").write_text('{"text": "a"}\n')
    make("run", "load", **GIVEN)
    make("run", "preprocess")
    assert Run("run").is_done("load", GIVEN) and Run("run").is_done("preprocess", {})
    return Run("run")


@pytest.mark.parametrize("other", [{"seed": 2}, {"split": "train"}])
def test_not_done_with_another_parameter(done, other):
    assert not done.is_done("load", GIVEN | other)


def test_not_done_when_the_source_file_has_changed(done):
    Path("mine.jsonl").write_text('{"text": "b"}\n')
    assert not done.is_done("load", GIVEN) and done.problem("load") is None


def test_not_done_when_the_code_has_changed(done, monkeypatch):
    monkeypatch.setattr(module, "code_fingerprint", lambda step: "other")
    assert not done.is_done("load", GIVEN)


def test_not_done_when_the_artifact_was_edited(done):
    EDITS["edited"](done.path("load"))
    assert not done.is_done("load", GIVEN)


def test_not_done_when_an_input_was_made_anew(done):
    make("run", "load", {"content": b"other"}, **GIVEN)
    assert done.is_done("load", GIVEN) and not done.is_done("preprocess", {})


def test_the_code_of_a_step_is_its_notebook_and_the_package(tmp_path, monkeypatch):
    shutil.copytree(module.PROJECT / "notebooks", tmp_path / "notebooks")
    shutil.copytree(module.PROJECT / "helpers", tmp_path / "helpers", ignore=shutil.ignore_patterns("assets"))
    monkeypatch.setattr(module, "PROJECT", tmp_path)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "helpers" / "run.py"))
    before = module.code_fingerprint("load")
    path = tmp_path / "notebooks" / "01_load.ipynb"
    notebook = nbformat.read(path, as_version=4)
    next(c for c in notebook.cells if c.cell_type == "markdown").source += " more"
    nbformat.write(notebook, path)
    assert module.code_fingerprint("load") == before
    next(c for c in notebook.cells if c.cell_type == "code").source += "\nmore = 1"
    nbformat.write(notebook, path)
    assert (changed := module.code_fingerprint("load")) != before
    (tmp_path / "helpers" / "data.py").write_text("")
    assert module.code_fingerprint("load") not in (before, changed)


def test_metrics_are_those_of_fresh_steps(three):
    names = {"of_load", "of_preprocess", "of_chunk", "seconds_load", "seconds_preprocess", "seconds_chunk"}
    assert set(json.loads((three / "metrics.json").read_text())) == names
    make(three, "load", {"content": b"other"}, {"of_load": 2})
    metrics = json.loads((three / "metrics.json").read_text())
    assert set(metrics) == {"of_load", "seconds_load"} and metrics["of_load"] == 2


def test_the_record_says_how_and_nothing_about_the_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_canaryCanary")
    monkeypatch.setenv("HOME", str(tmp_path / "home-of-someone"))
    make("run", "load", dataset="embedded", seed=3)
    make("run", "preprocess", model="embedded")
    for step in ("load", "preprocess"):
        text = (Run("run").path(step) / "step.json").read_text()
        record = json.loads(text)
        expected = (
            "format step parameters sources inputs fingerprint code metrics seconds peak_memory_mb device versions"
        )
        assert set(record) == set(expected.split())
        assert not re.search(r'"(/|~|[A-Z]:\\)', text)
        for private in ("canary", "someone", str(tmp_path), str(module.PROJECT)):
            assert private not in text
    assert record["inputs"] == {"load": fingerprint(Run("run").path("load"))}


def test_a_moved_run_folder_still_opens(three, tmp_path):
    shutil.move(three, tmp_path / "elsewhere" / "moved")
    run = Run(tmp_path / "elsewhere" / "moved")
    assert run.is_done("chunk", {})
    assert begin("train", str(run.folder)).inputs["chunk"] == run.path("chunk")


@pytest.mark.parametrize(("cell", "name"), [("sed = 3", "seed"), ("seed = 3\ntext_colum = 'a'", "text_column")])
def test_an_unknown_injected_parameter_is_refused(tmp_path, monkeypatch, cell, name):
    values = {"seed": 3, "sed": 3, "text_colum": "a", "run_dir": str(tmp_path)}
    cells = ["", "seed: int = 1", f"# Parameters\nrun_dir = 'x'\n{cell}\n", "begin(...)"]
    shell = types.SimpleNamespace(user_ns={"In": cells, **values})
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    with pytest.raises(ParameterError, match=f"no such parameter.*'{name}'"):
        begin("load", str(tmp_path), seed=3)
    cells[2] = "# Parameters\nseed = 3\nrun_dir = 'x'\n"
    begin("load", str(tmp_path), seed=3)


def test_papermill_injects_an_unknown_parameter_and_begin_refuses_it(tmp_path):
    cell = nbformat.v4.new_code_cell("seed: int = 1\nrun_dir: str = 'run'", metadata={"tags": ["parameters"]})
    work = nbformat.v4.new_code_cell("from helpers import begin\nbegin('load', run_dir, seed=seed)")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell, work]), tmp_path / "tiny.ipynb")
    injected = {"sede": 3, "run_dir": str(tmp_path / "run")}
    how = {"kernel_name": "python3", "language": "python", "progress_bar": False, "cwd": module.PROJECT}
    with pytest.raises(papermill.PapermillExecutionError) as caught:
        papermill.execute_notebook(tmp_path / "tiny.ipynb", None, injected, **how)
    assert caught.value.ename == "ParameterError"
    assert all(part in caught.value.evalue for part in ("sede", "3", "'seed'"))


def test_what_a_step_keeps_for_another_attempt(three):
    """It survives an attempt that was interrupted, and goes when the step is complete; it is no part of the artifact."""
    first = begin("chunk", str(three))
    first.scratch.mkdir()
    (first.scratch / "half").write_text("done")
    second = begin("chunk", str(three))
    assert second.scratch == first.scratch
    assert (second.scratch / "half").read_text() == "done"
    second.finish()
    assert not second.scratch.exists()
    assert not list((three / "03_chunk").rglob("half"))
