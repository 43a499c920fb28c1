"""A run folder: written whole or not at all; what is missing, stale, edited or newer is refused."""

import contextlib
import hashlib
import json
import os
import random
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

import nbformat
import papermill
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.engine.files import fingerprint
from helpers.errors import ParameterError, RunError, UserError
from helpers.hub.sources import locate, resolve
from helpers.runs import folder as module
from helpers.runs.code import code_fingerprint
from helpers.runs.folder import Run, identity
from helpers.runs.origins import sources
from helpers.runs.parameters import RULES, STEPS
from helpers.runs.step import begin, start_step
from tests import PROJECT

SYSTEM_CALLS = ("rename", "replace", "fsync", "unlink", "rmdir", "mkdir")


def make(folder, step, files=None, metrics=None, **parameters):
    doing = start_step(step, str(folder), **parameters)
    for name, content in (files or {"content": step.encode()}).items():
        (doing.path / name).parent.mkdir(exist_ok=True)
        (doing.path / name).write_bytes(content)
    doing.finish(**(metrics or {}))
    return doing


def files_of(folder):
    found = (p for p in Path(folder).rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in found if p.name != "step.json"}


def seen(folder):
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty folder in the place of the project's."""
    monkeypatch.setattr("helpers.hub.sources.PROJECT", tmp_path)
    return tmp_path


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
    """From the k-th file-system call on, none succeeds, as if the process had been killed."""
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
    """Check that the artifact is the old or the new one, with its own record; return which."""
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


trees = st.dictionaries(
    st.sampled_from(["a", "b", "data/a", "data/b", "data/c"]), st.binary(max_size=40), min_size=1
)


@given(st.none() | trees, trees, st.integers(0, 30), st.lists(st.integers(0, 12), max_size=1))
def test_a_killed_step_leaves_the_old_artifact_or_the_new_one(tmp_path, old, new, kill, beginning):
    folder = tmp_path / "run"
    if old is not None:
        make(folder, "load", old, {"version": 1}, seed=1)
    finished = redo_killed_at(folder, new, kill)
    version = check_whole(folder, old, new)
    for k in beginning:
        with killed_at(k):
            start_step("load", str(folder))
        assert check_whole(folder, old, new) == version
    assert version == 2 or not finished
    make(folder, "load", new, {"version": 2}, seed=2)
    assert seen(folder) == ["01_load", "metrics.json"]
    assert {p.name for p in folder.iterdir() if p.is_dir()} == {".locks", "01_load"}
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
from helpers.runs.step import start_step
version = int(sys.argv[2])
while True:
    version += 1
    step = start_step("load", sys.argv[1], seed=version)
    for name in "abc":
        (step.path / name).write_text(str(version) * 20_000)
    step.finish(version=version)
    print(version, flush=True)
"""


@pytest.mark.parametrize("kills", [6, pytest.param(100, marks=pytest.mark.full)])
def test_sigkill_at_random_moments(tmp_path, kills):
    delays, version = random.Random(0), 0
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
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
        assert files_of(run.path("load")) == {
            name: str(version).encode() * 20_000 for name in "abc"
        }


def refusal(folder, step, **parameters):
    with pytest.raises(RunError) as caught:
        start_step(step, str(folder), **parameters)
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
    assert f"{missing!r} has not been done" in message and command_in(message) == run_from(
        tmp_path, missing
    )


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


@pytest.mark.parametrize("where", [".", "notebooks", "elsewhere"])
def test_relative_paths_start_at_the_projects_folder_wherever_the_process_is(
    project, monkeypatch, where
):
    (project / where).mkdir(exist_ok=True)
    monkeypatch.chdir(project / where)
    run = Run("runs/a")
    assert run.folder == project / "runs" / "a" and Run(run.shown).folder.resolve() == run.folder
    assert "'load' has not been done in runs/a" in refusal("runs/a", "preprocess")
    make("runs/a", "load")
    assert seen(project / "runs" / "a") == ["01_load", "metrics.json"]
    assert where == "." or list((project / where).iterdir()) == []


def test_the_home_and_the_name_of_nobody(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert (
        resolve("~/a") == tmp_path / "a"
        and resolve("~nobody-of-this-name/a").parent.parent == PROJECT
    )


@pytest.mark.parametrize(
    ("kind", "name"), [("dataset", "mine.jsonl"), ("dataset", "mine"), ("model", "mine")]
)
def test_a_file_beside_the_caller_is_named_as_it_has_to_be_given(project, monkeypatch, kind, name):
    (project / "elsewhere").mkdir()
    monkeypatch.chdir(project / "elsewhere")
    Path(name).touch()
    with pytest.raises(
        UserError, match=f"{kind} is '{name}': relative paths start at the project's folder"
    ) as caught:
        locate(kind, name)
    assert f"'elsewhere/{name}'" in str(caught.value)


def test_parameters_are_checked_before_anything_is_touched(tmp_path):
    with pytest.raises(ParameterError, match="block_size is 1: .*2"):
        start_step("chunk", str(tmp_path), block_size=1)
    assert list(tmp_path.iterdir()) == []


def test_begin_takes_the_parameters_of_its_step_from_the_names_of_the_notebook(tmp_path):
    names = {name: rule.default for name, rule in RULES["load"].items()}
    step = begin("load", {**names, "run_dir": str(tmp_path), "seed": 7, "prompt": "of no matter"})
    assert step.parameters == names | {"seed": 7} and step.run.folder == tmp_path


@pytest.mark.parametrize("name", ["run_dir", "seed"])
def test_a_parameter_that_is_not_set_is_named(tmp_path, name):
    names = {"run_dir": str(tmp_path)} | {n: rule.default for n, rule in RULES["load"].items()}
    names.pop(name)
    with pytest.raises(
        RunError, match=f"load cannot start: {name} is not set, run the cell tagged"
    ):
        begin("load", names)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_step_is_refused(tmp_path):
    with pytest.raises(RunError, match="'preproces'.*'preprocess'"):
        start_step("preproces", str(tmp_path))


def test_a_record_of_a_newer_format_is_refused(three):
    path = three / "01_load" / "step.json"
    newer = module.FORMAT + 1
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": newer}))
    message = refusal(three, "preprocess")
    assert (
        f"format {newer}" in message
        and f"this code reads {module.FORMAT}" in message
        and "step.json" in message
    )


def test_a_record_of_an_older_format_is_refused_with_what_to_do(three):
    path = three / "01_load" / "step.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 1}))
    message = refusal(three, "preprocess")
    assert "format 1" in message and f"this code reads {module.FORMAT}" in message
    assert f"delete {Run(three).shown}, or use another run_dir." in message


@pytest.mark.parametrize("below", ["file", "file/run"])
def test_a_folder_that_cannot_be_written_is_refused(tmp_path, below):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(RunError, match="run_dir.*name another") as caught:
        start_step("load", str(tmp_path / below))
    assert str(tmp_path / below) in str(caught.value) and (tmp_path / "file").read_text() == "kept"


def test_a_run_folder_that_is_no_text_is_refused():
    with pytest.raises((RunError, ParameterError), match="run_dir.*2026"):
        start_step("load", 2026)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of this kind")
@pytest.mark.parametrize("over", [0, 1])
def test_a_temporary_folder_in_which_no_socket_fits_is_refused(over, tmp_path, monkeypatch):
    """One byte decides, for a socket itself too."""
    make(tmp_path, "load")
    size = (71 if sys.platform == "darwin" else 75) + over
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        folder = Path(short) / ("x" * (size - len(short) - 1))
        folder.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(folder))
        name = folder / "pymp-12345678" / "listener-12345678"
        name.parent.mkdir()
        refused = pytest.raises(ParameterError, match=f"TMPDIR is .* {size} bytes, .* {size - 1}")
        failing = pytest.raises(OSError)
        with refused if over else contextlib.nullcontext():
            start_step("preprocess", str(tmp_path), num_proc=2).abandon()
        with failing if over else contextlib.nullcontext(), socket.socket(socket.AF_UNIX) as one:
            one.bind(str(name))


GIVEN = {"dataset": "mine.jsonl", "seed": 1}


@pytest.fixture
def done(project, monkeypatch):
    """A run whose `load` was made from mine.jsonl in the project's folder."""
    monkeypatch.chdir(project)
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


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the notebooks and the package, whose code is the one that is looked at."""
    shutil.copytree(PROJECT / "notebooks", tmp_path / "notebooks")
    shutil.copytree(
        PROJECT / "helpers", tmp_path / "helpers", ignore=shutil.ignore_patterns("assets")
    )
    monkeypatch.setattr("helpers.runs.code.PROJECT", tmp_path)
    return tmp_path


def stale_after(change):
    """The steps whose code a change changes."""
    before = {step: code_fingerprint(step) for step in STEPS}
    change()
    return [step for step in STEPS if code_fingerprint(step) != before[step]]


def append(path, text="\nmore = 1\n"):
    return lambda: path.write_text(path.read_text() + text)


def edit_cell(path, which, text="\nmore = 1"):
    notebook = nbformat.read(path, as_version=4)
    next(c for c in notebook.cells if which(c)).source += text
    nbformat.write(notebook, path)


def test_the_code_of_a_step_is_what_it_executes(copy):
    helpers = copy / "helpers"
    assert stale_after(append(helpers / "engine" / "arrow.py")) == list(STEPS)
    assert stale_after(append(helpers / "engine" / "trainer.py")) == ["train"]
    assert stale_after(append(helpers / "engine" / "watch.py")) == [
        "train"
    ]  # imported by trainer.py
    assert stale_after(append(helpers / "packing.py")) == [
        "preprocess",
        "chunk",
        "evaluate",
        "infer",
    ]  # by a function
    names = ["terminal", "report", "run", "sweep", "sweep_file", "comparison", "distributed"]
    names += ["profiles", "process", "fetching", "record", "folder", "step", "code", "cells", "cli"]
    for name in ("__main__", *(f"runs/{name}" for name in names)):
        assert stale_after(append(helpers / f"{name}.py")) == [], name


def test_of_a_notebook_the_code_cells_count_but_for_the_parameters(copy):
    path = copy / "notebooks" / "03_chunk.ipynb"
    parameters = lambda cell: "parameters" in cell.metadata.get("tags", [])  # noqa: E731
    assert stale_after(lambda: edit_cell(path, lambda c: c.cell_type == "markdown")) == []
    assert stale_after(lambda: edit_cell(path, parameters)) == []  # a record has their values
    assert stale_after(
        lambda: edit_cell(path, lambda c: c.cell_type == "code" and not parameters(c))
    ) == ["chunk"]


def test_imports_lead_through_packages_and_lines_of_ipython(copy):
    wing = copy / "helpers" / "wing"
    (wing / "deep").mkdir(parents=True)
    (wing / "__init__.py").write_text("from helpers.wing import near\n")
    (wing / "near.py").write_text("def f():\n    from helpers.wing.deep.far import g\n")
    (wing / "deep" / "__init__.py").touch()
    (wing / "deep" / "far.py").write_text(
        "from helpers_of_others import x\nfrom helpers.wing.beside import y\n"
    )
    (wing / "beside.py").write_text("import helpers.absolute\n")
    (copy / "helpers" / "absolute.py").touch()
    (wing / "unused.py").touch()
    path = copy / "notebooks" / "06_infer.ipynb"
    edit_cell(
        path,
        lambda c: "playground" in c.source and c.cell_type == "code",
        "\n%time 1\nfrom helpers import wing",
    )
    for name in ("wing/__init__", "wing/near", "wing/deep/far", "wing/beside", "absolute"):
        assert stale_after(append(copy / "helpers" / f"{name}.py")) == ["infer"], name
    assert stale_after(append(wing / "unused.py")) == []


def test_metrics_are_those_of_fresh_steps(three):
    names = {
        "of_load",
        "of_preprocess",
        "of_chunk",
        "seconds_load",
        "seconds_preprocess",
        "seconds_chunk",
    }
    assert set(json.loads((three / "metrics.json").read_text())) == names
    make(three, "load", {"content": b"other"}, {"of_load": 2})
    metrics = json.loads((three / "metrics.json").read_text())
    assert set(metrics) == {"of_load", "seconds_load"} and metrics["of_load"] == 2


def test_the_record_says_how_and_nothing_about_the_machine(project, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_canaryCanary")
    monkeypatch.setenv("HOME", str(tmp_path / "home-of-someone"))
    make("run", "load", dataset="embedded", seed=3)
    make("run", "preprocess", model="embedded")
    for step in ("load", "preprocess"):
        text = (Run("run").path(step) / "step.json").read_text()
        record = json.loads(text)
        expected = (
            "format step parameters sources inputs fingerprint code metrics seconds "
            "peak_memory_mb device versions"
        )
        assert set(record) == set(expected.split())
        assert not re.search(r'"(/|~|[A-Z]:\\)', text)
        for private in ("canary", "someone", str(tmp_path), str(PROJECT)):
            assert private not in text
    assert record["inputs"] == {"load": fingerprint(Run("run").path("load"))}


def test_a_moved_run_folder_still_opens(three, tmp_path):
    shutil.move(three, tmp_path / "elsewhere" / "moved")
    run = Run(tmp_path / "elsewhere" / "moved")
    assert run.is_done("chunk", {})
    assert start_step("train", str(run.folder)).inputs["chunk"] == run.path("chunk")


@pytest.mark.parametrize(
    ("cell", "name"), [("sed = 3", "seed"), ("seed = 3\ntext_colum = 'a'", "text_column")]
)
def test_an_unknown_injected_parameter_is_refused(tmp_path, monkeypatch, cell, name):
    values = {"seed": 3, "sed": 3, "text_colum": "a", "run_dir": str(tmp_path)}
    cells = ["", "seed: int = 1", f"# Parameters\nrun_dir = 'x'\n{cell}\n", "begin(...)"]
    events = types.SimpleNamespace(register=lambda *_: None)
    shell = types.SimpleNamespace(user_ns={"In": cells, **values}, events=events)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    with pytest.raises(ParameterError, match=f"no such parameter.*'{name}'"):
        start_step("load", str(tmp_path), seed=3)
    cells[2] = "# Parameters\nseed = 3\nrun_dir = 'x'\n"
    start_step("load", str(tmp_path), seed=3)


def test_papermill_injects_an_unknown_parameter_and_begin_refuses_it(tmp_path):
    cell = nbformat.v4.new_code_cell(
        "seed: int = 1\nrun_dir: str = 'run'", metadata={"tags": ["parameters"]}
    )
    work = nbformat.v4.new_code_cell(
        "from helpers.runs.step import start_step\nstart_step('load', run_dir, seed=seed)"
    )
    nbformat.write(nbformat.v4.new_notebook(cells=[cell, work]), tmp_path / "tiny.ipynb")
    injected = {"sede": 3, "run_dir": str(tmp_path / "run")}
    how = {
        "kernel_name": "python3",
        "language": "python",
        "progress_bar": False,
        "cwd": PROJECT,
    }
    with pytest.raises(papermill.PapermillExecutionError) as caught:
        papermill.execute_notebook(tmp_path / "tiny.ipynb", None, injected, **how)
    assert caught.value.ename == "ParameterError"
    assert all(part in caught.value.evalue for part in ("sede", "3", "'seed'"))


def test_what_a_step_keeps_for_another_attempt(three):
    """It survives an interruption, and goes when the step is complete; no part of the artifact."""
    first = start_step("chunk", str(three))
    first.scratch.mkdir()
    (first.scratch / "half").write_text("done")
    second = start_step("chunk", str(three))
    assert second.scratch == first.scratch
    assert (second.scratch / "half").read_text() == "done"
    second.finish()
    assert not second.scratch.exists()
    assert not list((three / "03_chunk").rglob("half"))


def test_what_an_interrupted_attempt_has_reached_is_kept_until_the_step_is_finished(three, copy):
    (start_step("chunk", str(three), seed=1).unfinished / "half").write_text("done")
    assert not (start_step("chunk", str(three), seed=2).unfinished / "half").exists()
    append(copy / "helpers" / "chunking.py")()
    assert not (start_step("chunk", str(three), seed=1).unfinished / "half").exists()
    append(copy / "helpers" / "chunking.py", "")()
    text = (copy / "helpers" / "chunking.py").read_text()
    (copy / "helpers" / "chunking.py").write_text(text.removesuffix("\nmore = 1\n"))
    step = start_step("chunk", str(three), seed=1)
    assert (step.unfinished / "half").read_text() == "done"
    step.finish()
    assert not step.scratch.exists()


def tree(folder):
    return {str(p): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def test_reading_a_run_writes_nothing(three, tmp_path):
    assert Run(tmp_path / "none").record("load") is None and not (tmp_path / "none").exists()
    os.rename(
        three / "01_load", three / ".01_load.old"
    )  # as a kill between the two renames leaves it
    before, run = tree(three), Run(three)
    assert (
        run.problem("chunk") is None
        and run.is_done("load", {})
        and run.record("load")["step"] == "load"
    )
    assert files_of(run.path("load")) == {"content": b"load"} and tree(three) == before
    start_step("load", str(three))
    assert (three / "01_load" / "content").read_bytes() == b"load" and not (
        three / ".01_load.old"
    ).exists()


def test_reading_in_the_middle_of_a_publication_sees_the_old_artifact_and_disturbs_nothing(
    three, monkeypatch
):
    found, rename = [], os.replace

    def and_look(source, target):
        is_folder = Path(source).is_dir()
        rename(source, target)
        if not is_folder:
            return
        run = Run(three)
        found.append(
            (run.record("load")["metrics"], run.problem("load"), files_of(run.path("load")))
        )

    step = start_step("load", str(three))
    (step.path / "content").write_bytes(b"new")
    monkeypatch.setattr(os, "replace", and_look)
    step.finish(version=2)
    assert found == [
        ({"of_load": 1}, None, {"content": b"load"}),
        ({"version": 2}, None, {"content": b"new"}),
    ]


HOLDER = """
import os, sys, time
from helpers.runs.step import start_step
parent, step = os.getpid(), start_step("load", sys.argv[1], seed=1)
(step.path / "content").write_text("of the other")
if len(sys.argv) > 2 and os.fork() == 0:
    print("child", flush=True)
    while os.getppid() == parent:
        time.sleep(0.1)
    os._exit(0)
print("begun", flush=True)
sys.stdin.readline()
step.finish(by="the other")
print("finished", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def holder(folder, *more):
    """Another process that has begun `load`."""
    command, pipe = [sys.executable, "-c", HOLDER, str(folder), *more], subprocess.PIPE
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            for _ in range(1 + len(more)):
                process.stdout.readline()
            yield process
        finally:
            process.kill()


def test_a_second_process_that_begins_a_step_is_told_who_is_at_it(three):
    with holder(three) as other:
        with pytest.raises(
            RunError,
            match=f"process {other.pid} on .* is writing its step 'load'; .*shut its kernel down",
        ):
            start_step("load", str(three), seed=2)
        start_step("preprocess", str(three)).finish()  # another step
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.stdout.readline() == "finished\n"
        assert (
            Run(three).record("load")["metrics"] == {"by": "the other"}
            and Run(three).problem("load") is None
        )
        start_step("load", str(three), seed=2)


def test_a_killed_process_lets_go_of_its_step(three):
    with holder(three) as other:
        other.kill()
        other.wait()
        make(three, "load", seed=2)
    assert Run(three).record("load")["parameters"] == {"seed": 2}


def test_a_process_that_a_step_has_started_does_not_hold_it(three):
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    with holder(three, "fork") as other:
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.stdout.readline() == "finished\n"
        start_step("load", str(three), seed=2)


def test_of_processes_that_train_together_one_takes_the_step(three, monkeypatch):
    with holder(three):
        monkeypatch.setenv("RANK", "1")
        step = start_step("load", str(three))
        (step.path / "content").touch()
        step.finish()
    assert "by" not in Run(three).record("load")["metrics"]


def test_to_begin_again_gives_the_earlier_attempt_up(three):
    earlier = start_step("chunk", str(three), seed=1)
    (earlier.path / "content").touch()
    later = start_step("chunk", str(three), seed=2)
    for use in (earlier.finish, lambda: earlier.path, lambda: earlier.unfinished):
        with pytest.raises(RunError, match="chunk was begun again since.*`begin`"):
            use()
    assert list(later.path.iterdir()) == []
    with pytest.raises(ParameterError):
        start_step("chunk", str(three), block_size=-1)
    with pytest.raises(RunError, match="chunk was begun again since"):
        later.finish()
    assert Run(three).record("chunk")["parameters"] == {}


def test_a_step_is_finished_once(three):
    step = make(three, "chunk")
    for use in (step.finish, lambda: step.path, lambda: step.unfinished):
        with pytest.raises(
            RunError, match="chunk is finished already: for another attempt, .*`begin`"
        ):
            use()


def test_what_has_changed_since_begin_is_not_recorded_as_if_it_had_not(project, three):
    (project / "mine.jsonl").write_text("1\n")
    step = start_step("load", str(three), dataset="mine.jsonl")
    (project / "mine.jsonl").write_text("2, longer\n")
    with pytest.raises(RunError, match="dataset has changed since `begin`"):
        step.finish()
    step = start_step("chunk", str(three))
    EDITS["edited"](three / "02_preprocess")
    record = json.loads((three / "02_preprocess" / "step.json").read_text())
    (three / "02_preprocess" / "step.json").write_text(
        json.dumps(record | {"fingerprint": "of another attempt"})
    )
    with pytest.raises(RunError, match="step 'preprocess' has changed since `begin`"):
        step.finish()


def test_code_that_changes_while_a_step_runs_makes_it_be_done_again(three, copy):
    step = start_step("chunk", str(three))
    append(copy / "helpers" / "chunking.py")()
    step.finish()
    assert not Run(three).is_done("chunk", {})


@pytest.fixture
def hashed(monkeypatch):
    """The files whose contents are hashed."""
    found, digest = [], hashlib.file_digest
    monkeypatch.setattr(
        hashlib, "file_digest", lambda file, *how: (found.append(file.name), digest(file, *how))[1]
    )
    return found


def settle(folder):
    """As if everything had been written a while ago."""
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        os.utime(path, (time.time() - 60, time.time() - 60))


def test_a_file_is_hashed_once_until_it_changes(project, three, hashed):
    (project / "mine.jsonl").write_text("1\n")
    make(three, "load", dataset="mine.jsonl")
    settle(project)
    del hashed[:]
    parameters = {step: {} for step in STEPS} | {"load": {"dataset": "mine.jsonl"}}
    for _ in range(24):
        for step in STEPS:
            identity(parameters, step)
            Run(three).is_done(step, parameters[step])
    assert len(hashed) == 4  # mine.jsonl, and the artifacts of three steps
    (three / "01_load" / "content").write_text("edited")
    assert "changed since" in Run(three).problem("load") and len(hashed) == 5


def test_to_finish_a_step_hashes_nothing_again_but_what_it_has_written(three, hashed):
    settle(three)
    assert Run(three).problem("chunk") is None
    make(three, "preprocess")
    del hashed[:]
    make(three, "chunk")
    assert [Path(name).parent.name for name in hashed if "preprocess" not in name] == [
        ".03_chunk.partial",
        "03_chunk",
    ]
    assert len(hashed) <= 4


def test_data_may_be_called_as_a_record_is(three, project):
    (three / "01_load" / "data").mkdir()
    before = fingerprint(three / "01_load")
    (three / "01_load" / "step.json").write_text("{}")
    assert fingerprint(three / "01_load") == before
    (three / "01_load" / "data" / "step.json").write_text("{}")
    assert fingerprint(three / "01_load") != before
    (project / "step.json").write_text("1")
    found = sources({"dataset": "step.json", "model": "."})
    (project / "step.json").write_text("2")
    assert all(
        sources({"dataset": "step.json", "model": "."})[kind] != found[kind] for kind in found
    )
