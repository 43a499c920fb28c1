"""The learner's copies: made once, never lost, given back; links lead from copy to copy."""

import json
import re
import shutil

import pytest

from helpers.workshop import copies
from tests import PROJECT

NOTEBOOK, EXERCISES = "notebooks/03_chunk.ipynb", "workshop/exercises/03_chunk.ipynb"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with what is copied, and its `work/`."""
    for path in ("notebooks", "workshop/exercises"):
        shutil.copytree(PROJECT / path, tmp_path / path)
    (tmp_path / "docs").mkdir()
    for name in ("workshop/glossary.md", "docs/gallery.md"):
        shutil.copy(PROJECT / name, tmp_path / name)
    monkeypatch.setattr(copies, "PROJECT", tmp_path)
    monkeypatch.setattr(copies, "WORK", tmp_path / "work")
    return tmp_path


@pytest.fixture
def work(project):
    """`work/` as the first start makes it."""
    copies.make_copies()
    return project / "work"


def test_the_first_start_copies_notebooks_and_exercises_and_a_second_changes_nothing(project, work):
    for original in [*project.glob("notebooks/*.ipynb"), *project.glob("workshop/exercises/*")]:
        assert (work / original.relative_to(project)).read_bytes() == original.read_bytes()
    before = {p: p.stat().st_mtime_ns for p in work.rglob("*.ipynb")}
    copies.make_copies()
    assert before == {p: p.stat().st_mtime_ns for p in work.rglob("*.ipynb")}
    assert len(before) == len(list((PROJECT / "notebooks").glob("*.ipynb"))) + 7


def test_every_link_of_the_notebooks_leads_somewhere_in_the_copies(work):
    found = 0
    for copy in work.rglob("*.ipynb"):
        cells = json.loads(copy.read_text(encoding="utf-8"))["cells"]
        prose = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+\.\w+)", prose):
            original = PROJECT / copy.relative_to(work).parent / target
            assert (copy.parent / target).exists() == original.exists(), (copy.name, target)
            found += original.exists()
    assert found > 20


def test_edited_copies_stay_and_others_follow_the_project(project, work, capsys):
    (work / NOTEBOOK).write_text("edited", encoding="utf-8")
    (work / EXERCISES).unlink()
    (project / "notebooks" / "07_new.ipynb").write_text("new", encoding="utf-8")
    for path in (NOTEBOOK, "notebooks/01_load.ipynb", "workshop/glossary.md"):
        (project / path).write_text("newer", encoding="utf-8")
    copies.make_copies()
    assert (work / NOTEBOOK).read_text() == "edited"
    assert (work / EXERCISES).exists() and (work / "notebooks" / "07_new.ipynb").exists()
    assert (work / "notebooks" / "01_load.ipynb").read_text() == "newer"
    assert (work / "workshop" / "glossary.md").read_text() == "newer"
    said = capsys.readouterr().out
    assert said.startswith("03_chunk: changed in the project since you edited the copy")
    assert "`python start.py reset 03_chunk`" in said


def test_what_was_edited_is_safe_where_the_record_is_damaged(project, work):
    (work / NOTEBOOK).write_text("edited", encoding="utf-8")
    (work / copies.STATE).write_text("{", encoding="utf-8")
    copies.make_copies()
    copies.make_copies()
    assert (work / NOTEBOOK).read_text() == "edited"


@pytest.mark.parametrize("name", ["03", "3", "03_chunk", NOTEBOOK])
def test_a_notebook_and_its_exercises_are_given_back_and_the_old_ones_kept(
    project, work, name, capsys
):
    (work / NOTEBOOK).write_text("edited", encoding="utf-8")
    (work / "notebooks" / "01_load.ipynb").write_text("edited", encoding="utf-8")
    assert copies.main([name]) == 0
    assert (work / NOTEBOOK).read_bytes() == (project / NOTEBOOK).read_bytes()
    (kept,) = (work / "notebooks").glob("03_chunk.2*.ipynb")
    assert kept.read_text() == "edited"
    assert (work / "notebooks" / "01_load.ipynb").read_text() == "edited"
    said = capsys.readouterr().out
    assert f"work/{NOTEBOOK} is new; yours is {kept.name} beside it." in said
    assert f"work/{EXERCISES} is as it was given out." in said
    copies.make_copies()
    assert kept.read_text() == "edited" and not capsys.readouterr().out


def test_an_appendix_and_one_that_is_not_there_yet(project, capsys):
    assert copies.main(["appendix_traps"]) == 0
    assert "work/notebooks/appendix_traps.ipynb is new.\n" in capsys.readouterr().out


def test_a_name_that_does_not_exist_is_one_sentence(project, capsys):
    assert copies.main(["9"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("There is no notebook '9' to give back: there are 00, 01, 02, 03,")
    assert not (project / "work").exists()
