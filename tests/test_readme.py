"""What the README and docs/ say is true: commands, files, figures, and the three recipes."""

import os
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
import yaml

from helpers.runs.notebook import PROJECT, path_of
from helpers.runs.profiles import PROFILES, plan
from tests.pages import (
    check_command,
    commands,
    long_lines,
    long_sentences,
    make_targets,
    missing_links,
    page,
)

README = page("README.md")
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
PAGES += sorted(f"docs/{path.name}" for path in (PROJECT / "docs").glob("*.md"))


def printed(step):
    """All that the committed notebook of a step shows as text."""
    cells = nbformat.read(path_of(step), as_version=4).cells
    return "\n".join(o.get("text", "") for c in cells if c.cell_type == "code" for o in c.outputs)


def section(text, heading):
    """The part of a page under a heading."""
    return re.split(r"^## ", text.split(f"\n## {heading}\n")[1], flags=re.M)[0]


def test_the_figures_are_those_of_the_committed_notebook():
    table = dict(re.findall(r"^\| (perplexity|bits per byte) \| (.+?) \|$", README, re.M))
    rolling = re.findall(r"rolling(?: +\d+){3} +([\d.]+) +([\d.]+)", printed("evaluate"))
    for name, place, digits in (("perplexity", 0, 2), ("bits per byte", 1, 3)):
        stated = [float(value) for value in table[name].split(" | ")]
        shown = [float(row[place]) for row in rolling]  # rounded to three digits itself
        assert stated == pytest.approx(shown, abs=0.5 * 10**-digits + 0.0005)
    numbers = dict(re.findall(r"^(perplexity_ratio\w*) +(\S+)$", printed("evaluate"), re.M))
    stated = re.search(
        r"perplexity × (\S+), with a 95 % interval of (\S+) to ([\d.]+)", README
    ).groups()
    shown = [
        float(numbers[f"perplexity_ratio{end}"]) for end in ("", "_low", "_high")
    ]  # rounded to four digits
    assert [float(value) for value in stated] == pytest.approx(shown, abs=0.00055)


def test_the_first_screen_has_the_same_figures_as_the_table():
    perplexity = re.search(r"^\| perplexity \| ([\d.]+) \| ([\d.]+) \|$", README, re.M)
    row = re.search(r"^\| perplexity, base → fine-tuned \| (\S+) → (\S+) \|", README, re.M)
    assert row.groups() == perplexity.groups()


def test_the_minutes_and_the_rows_of_the_bench_are_those_of_its_file():
    """Each cell of the table is a figure and the name of the row that it stands in."""
    results, figures = page("tests/benchmarks/RESULTS.md"), set()
    for name, values in re.findall(r"^\| (.+?) \|(.+)\|$", results, re.M):
        figures |= {(name.removeprefix("rolling: "), value.strip()) for value in values.split("|")}
    table = re.findall(
        r"^\| .+, (?:tokens/s|.*seconds|.* tokens/s) \| (.+) \| (.+) \|$", README, re.M
    )
    cells = [cell.split(" ", 1) for row in table for cell in row]
    assert len(cells) == 8
    assert [cell for cell in cells if (cell[1], cell[0]) not in figures] == []
    seconds = float(re.search(r"^\| one run \| ([\d.]+) \|", results, re.M)[1])
    assert f"| time on two cores | {seconds / 60:.1f} minutes |" in README
    machine = re.search(r"\((2 cores of .+?)\.\)", README)[1]
    assert f"Machine: {machine}; Python" in results
    on_gpu = re.search(r"On one NVIDIA H200 .*?compiled plain loop.*?\n\n", README, re.S)[0]
    speeds = re.findall(r"\d+,\d+", on_gpu)
    assert len(speeds) == 2 and all(f"| {speed} |" in results for speed in speeds)


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_links_to_is_there(name):
    assert missing_links(name) == []


@pytest.mark.parametrize("name", PAGES)
def test_make_targets_exist(name):
    makefile = page("Makefile")
    assert [t for t in make_targets(page(name)) if not re.search(rf"^{t}:", makefile, re.M)] == []


@pytest.mark.parametrize(
    "name, line", [(name, line) for name in PAGES for line in commands(page(name))]
)
def test_a_command_is_understood(name, line):
    check_command(line)


def test_wrong_commands_are_found():
    for line in (
        "python -m helpers run --dir x",
        "python -m helpers runs",
        "python -m helpers run -p train.rate=1",
        "python start.py labs",
        "python start.py lab --ipp 1",
        "papermill notebooks/03_chunk.ipynb out.ipynb -p size 64",
        "papermill notebooks/03_chunks.ipynb out.ipynb",
        "python -m tools.note",
    ):
        with pytest.raises(Exception):  # noqa: B017
            check_command(line)


@pytest.mark.parametrize("name", PAGES)
def test_lines_and_sentences_are_short(name):
    assert long_lines(page(name)) == []
    assert long_sentences(page(name)) == []


@pytest.mark.parametrize("name", [name for name in PAGES if name != "README.md"])
def test_a_page_is_short(name):
    assert len(page(name).splitlines()) <= 120


def test_every_profile_is_listed():
    batches = page("docs/batches.md")
    for path in PROFILES.glob("*.yaml"):
        yaml.safe_load(path.read_text(encoding="utf-8"))
        assert f"| `{path.stem}` |" in batches or (
            path.stem.startswith("sweep") and path.name in batches
        )


def test_the_version_is_the_same_everywhere():
    (version,) = re.findall(r'^version = "(.+)"$', page("pyproject.toml"), re.M)
    assert yaml.safe_load(page("CITATION.cff"))["version"] == version
    assert re.search(rf"^## {re.escape(version)}$", page("CHANGELOG.md"), re.M)


def recipe(title):
    """The lines of a recipe: its blocks of code, in order."""
    text = section(README, "How to change it")
    part = text.split(f"**{title}**")[1].split("\n**A new")[0]
    blocks = re.findall(r"(?:^ {4}.*\n)+", part, re.M)
    return [re.sub(r"^ {4}", "", block, flags=re.M) for block in blocks]


@pytest.mark.parametrize("title", ["A new data set", "A new model", "A new step"])
def test_a_recipe_has_at_most_ten_lines(title):
    lines = [line for block in recipe(title) for line in block.splitlines() if line.strip()]
    assert 1 <= len(lines) <= 10


def run(*command, cwd):
    environment = os.environ | {"PYTHONPATH": str(cwd)}
    command = [sys.executable, *command]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project in which the three recipes have been followed."""
    root = tmp_path_factory.mktemp("project")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("helpers", "notebooks"):
        shutil.copytree(PROJECT / name, root / name, ignore=ignored)
    lines = [f'{{"text": "Text {n} of mine: {n * 7} apples, {n * 5} pears."}}\n' for n in range(40)]
    (root / "mine.jsonl").write_text("".join(lines))
    shutil.copytree(PROJECT / "helpers/assets/base_model", root / "models/mine", ignore=ignored)
    (root / "mine.yaml").write_text(recipe("A new model")[0])
    tables, first, second = recipe("A new step")
    for path, line in zip(("parameters.py", "folder.py"), tables.splitlines(), strict=True):
        file, table = root / "helpers/runs" / path, "RULES" if path[0] == "p" else "NEEDS"
        text = file.read_text(encoding="utf-8")
        changed = re.sub(rf"(?ms)^({table}\b.*?)^}}$", rf"\1    {line}\n}}", text, count=1)
        assert changed != text
        file.write_text(changed, encoding="utf-8")
    cells = [nbformat.v4.new_code_cell(source) for source in (first, second)]
    cells[0].metadata.tags = ["parameters"]
    metadata = {"language_info": {"name": "python"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
    nbformat.write(notebook, root / "notebooks/07_count.ipynb")
    return root


@pytest.mark.full
def test_the_recipes_for_data_model_and_step(project):
    data, model = recipe("A new data set")[0], recipe("A new model")[1]
    run(*data.split()[1:], "--until", "load", cwd=project)
    record = (project / "runs/mine/01_load/step.json").read_text()
    assert '"dataset": "mine.jsonl"' in record
    run(*model.split()[1:], "--until", "preprocess", cwd=project)
    record = (project / "runs/other/02_preprocess/step.json").read_text()
    assert '"model": "models/mine"' in record
    papermill = ("-m", "papermill", "notebooks/07_count.ipynb", "out.ipynb", "-p", "run_dir")
    run(*papermill, "runs/other", "-k", "python3", cwd=project)
    counted = int((project / "runs/other/07_count/tokens.txt").read_text())
    assert counted > 40 * 0.8 * 10
    assert '"part": "train"' in (project / "runs/other/07_count/step.json").read_text()


def test_a_profile_as_in_the_recipe_is_understood(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(recipe("A new model")[0])
    assert plan(str(path), [])["train"]["learning_rate"] == 1e-4
