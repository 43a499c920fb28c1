"""The guide's plans add up, and what it names is there."""

import re

import pytest

from helpers.workshop.checks import EXERCISES
from tests import PROJECT
from tests.pages import (
    check_command,
    commands,
    headings,
    long_lines,
    long_sentences,
    make_targets,
    missing_links,
    missing_parts,
    page,
)

GUIDE = page("workshop/GUIDE.md")
PLANS = {"90 minutes": 90, "Half a day": 4 * 60, "A term": 12 * 90}


def rows(heading):
    """The rows of the first table under a heading, as dictionaries."""
    part = GUIDE.split(f"\n## {heading}\n")[1]
    lines = re.search(r"(?:^\|.*\n)+", part, re.M)[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


@pytest.mark.parametrize("plan, minutes", PLANS.items())
def test_the_minutes_of_a_plan_add_up(plan, minutes):
    assert sum(int(row["minutes"]) for row in rows(plan)) == minutes
    assert all(row["show"] and row.keys() >= {"they do", "skip"} for row in rows(plan))


@pytest.mark.parametrize("line", commands(GUIDE))
def test_a_command_is_understood(line):
    check_command(line)


def test_parts_of_notebooks_are_there():
    assert missing_parts(GUIDE) == []
    assert len(re.findall(r"`\d\d § ", GUIDE)) > 20


def test_slides_are_there():
    titles = re.findall(r"^## (.+)$", page("workshop/slides.md"), re.M)
    assert set(re.findall(r"slide: ([^`]+)`", GUIDE)) <= set(titles)


def test_make_targets_are_there():
    targets = make_targets(GUIDE)
    assert targets
    assert all(re.search(rf"^{target}:", page("Makefile"), re.M) for target in targets)


def test_links_are_there():
    assert missing_links("workshop/GUIDE.md") == []


def test_exercises_are_there():
    text = re.sub(r"exercises? (\d\.\d) (?:to|and) (\d\.\d)", r"exercise \1 exercise \2", GUIDE)
    named = set(re.findall(r"exercise (\d\.\d)", text))
    assert len(named) > 10
    assert named <= EXERCISES.keys()


def test_every_notebook_has_its_part_with_the_same_four_points():
    for path in sorted((PROJECT / "notebooks").glob("0*.ipynb")):
        part = re.search(rf"^### {path.stem[:2]} · .*?(?=^##)", GUIDE, re.M | re.S)[0]
        points = ("**Goes wrong.**", "**Misunderstood.**", "**Ask.**", "**They have it**")
        assert all(point in part for point in points), path.stem
        assert headings(path.stem[:2])


def test_its_python_runs_by_itself(monkeypatch, tmp_path):
    from helpers.workshop import artifacts, classroom

    blocks = re.findall(r"```python\n(.*?)```", GUIDE, re.S)
    assert len(blocks) == 2
    called = []
    monkeypatch.setattr(artifacts, "catch_up", called.append)
    for block in blocks:
        exec(block, {})
    assert called == ["train"]
    assert f"learning_rate={classroom.assign('Ada'):g}" in GUIDE


def test_lines_and_sentences_are_short():
    assert long_lines(GUIDE) == []
    assert long_sentences(GUIDE) == []
