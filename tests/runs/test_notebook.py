"""The notebooks as files, and what is said where they are edited; and the plugin that runs them as
tests lets nothing through.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from helpers.runs.notebook import PROJECT, path_of
from helpers.runs.parameters import STEPS


@pytest.mark.parametrize("step", STEPS)
def test_the_committed_notebook_is_for_reading(step):
    cells = nbformat.read(path_of(step), as_version=4).cells
    prose = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    exercises = re.findall(r"^(\d)\. ", prose.split("## Exercises")[1], re.M)
    assert cells[0].source.startswith(f"# {STEPS.index(step) + 1} · ")
    assert all(row in cells[0].source for row in ("**In**", "**Out**", "**Takes**"))
    assert cells[1].metadata.tags == ["parameters"]
    assert "## Summary" in prose and exercises == ["1", "2", "3"]


@pytest.mark.parametrize("step", STEPS)
def test_every_code_cell_is_one_for_run_all(step):
    """JupyterLab runs cells that papermill leaves out because of their tag."""
    cells = [c for c in nbformat.read(path_of(step), as_version=4).cells if c.cell_type == "code"]
    tags = {tag for cell in cells for tag in cell.metadata.get("tags", [])}
    assert not tags & {"skip-execution", "nbval-skip"}
    assert not any("notebook_login" in cell.source for cell in cells)


@pytest.mark.full
def test_the_first_three_take_a_time_that_grows_no_faster_than_the_text(tmp_path):
    """What is quadratic in the guide is shown on a sample; near-duplicates are found in time."""
    words, seconds = (
        ["the", "water", "of", "a", "cold", "river", "runs", "to", "sea", "at", "last", "too"],
        [],
    )
    for count in (2_000, 20_000):
        draw = random.Random(0)
        texts = (" ".join([*draw.choices(words, k=60), *words]) for _ in range(count))
        data, run = tmp_path / f"{count}.jsonl", tmp_path / str(count)
        data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        for step in ("load", "preprocess", "chunk"):
            own = ["-p", "dataset", data, "-p", "text_column", "text"] if step == "load" else []
            command = [
                sys.executable,
                "-m",
                "papermill",
                path_of(step),
                tmp_path / "out.ipynb",
                "-p",
                "run_dir",
                run,
            ]
            subprocess.run(
                [*command, *own], cwd=PROJECT, check=True, capture_output=True, timeout=600
            )
        records = [json.loads(path.read_text()) for path in sorted(run.glob("*/step.json"))]
        seconds.append(sum(record["seconds"] for record in records))
    assert records[0]["metrics"]["examples_train"] > 15_000
    assert seconds[1] < 5 * seconds[0]


@pytest.fixture
def copy_of_project(tmp_path):
    """Another folder with the package and notebooks to edit; `python(…)` runs Python there."""
    (tmp_path / "helpers").symlink_to(PROJECT / "helpers")
    shutil.copytree(PROJECT / "notebooks", tmp_path / "notebooks")

    def python(*arguments):
        environment = {
            **os.environ,
            "PYTHONPATH": str(tmp_path),
            "GIT_CEILING_DIRECTORIES": str(tmp_path.parent),
        }
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100
        )

    return tmp_path / "notebooks", python


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


EDITED = "from helpers.runs.notebook import edited; print(edited())"


def test_an_edited_default_changes_no_run_and_is_said(copy_of_project):
    notebooks, python = copy_of_project
    assert python("-c", EDITED).stdout == "[]\n"
    edit(notebooks / "03_chunk.ipynb", "block_size: int = 256", "block_size: int = 64")
    edit(notebooks / "06_infer.ipynb", "top_k: int = 50", "top_k: int = fifty")
    assert python("-c", EDITED).stdout == "['03_chunk.ipynb', '06_infer.ipynb']\n"
    shown = python(
        "-c", "from helpers.runs.profiles import plan; print(plan('tiny')['chunk']['block_size'])"
    )
    assert shown.stdout == "256\n"
    done = python("-m", "helpers", "run", "-p", "load.dataset=missing.jsonl")
    assert (
        "notebooks/03_chunk.ipynb is not as it was committed" in done.stdout
        and "missing.jsonl" in done.stderr
    )


def test_edited_code_is_said_where_git_knows_it_and_outputs_are_not(copy_of_project):
    notebooks, python = copy_of_project
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "one"]):
        subprocess.run(["git", *words], cwd=notebooks, check=True)
    edit(notebooks / "04_train.ipynb", "blocks = load(", "blocks =  load(")
    edit(notebooks / "05_evaluate.ipynb", '"execution_count": 1', '"execution_count": 7')
    assert python("-c", EDITED).stdout == "['04_train.ipynb']\n"


def test_the_package_without_its_notebooks_is_a_library(copy_of_project):
    notebooks, python = copy_of_project
    shutil.rmtree(notebooks)
    for command in (["run"], ["train"], ["prefetch"]):
        done = python("-m", "helpers", *command)
        assert done.returncode == 1 and done.stderr.startswith(
            "The notebooks are not beside the package helpers"
        )
        assert done.stderr.count("\n") == 1 and "pip install -e ." in done.stderr
    assert (
        python("-c", "from helpers.runs.step import start_step; start_step('load', 'x')").returncode
        == 0
    )


@pytest.mark.full
def test_it_can_be_installed_as_a_library(copy_of_project, tmp_path):
    notebooks, python = copy_of_project
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, tmp_path)
    shutil.rmtree(notebooks)
    options = ["-q", "--no-deps", "--no-build-isolation", "--target", str(tmp_path / "site")]
    done = python("-m", "pip", "install", *options, str(tmp_path))
    assert done.returncode == 0, done.stderr
    (tmp_path / "helpers").unlink()
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); import helpers; "
        "print(helpers.__file__)"
    )
    code += (
        "; from helpers.data import load_examples; from helpers.models import load_model; "
        "load_model('embedded')"
    )
    used = python("-c", code + "; print(len(load_examples('embedded', 'train')))")
    assert used.returncode == 0, used.stderr
    assert used.stdout.split() == [str(tmp_path / "site" / "helpers" / "__init__.py"), "452"]


def run_cells(folder, *sources, tags=()):
    """The outcome that nbval with the plugin reports for a notebook of these cells."""
    cells = [new_code_cell(s, metadata={"tags": list(tags)}) for s in sources]
    nbformat.write(new_notebook(cells=cells), folder / "x.ipynb")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--rootdir",
        str(PROJECT),
        "-c",
        str(PROJECT / "pyproject.toml"),
    ]
    return subprocess.run(
        [*command, str(folder / "x.ipynb")],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=100,
    ).stdout


def test_a_dead_kernel_is_found_at_once_and_what_follows_is_skipped(tmp_path):
    out = run_cells(tmp_path, "import os; os._exit(9)", "1")
    assert "The kernel died" in out and "1 failed, 1 skipped" in out


def test_a_missing_exception_fails(tmp_path):
    assert "raised nothing" in run_cells(tmp_path, "1", tags=["raises-exception"])


def test_an_error_that_nbval_does_not_see_fails(tmp_path):
    assert "1 failed" in run_cells(tmp_path, "%no_such_magic")


def test_a_good_notebook_passes(tmp_path):
    assert "2 passed" in run_cells(tmp_path, "a = 1", "print(a)")
