"""Exercises made from solutions: complete, no answers, no difference the second time."""

import nbformat
import pytest

from helpers.workshop import checks
from tools import exercises
from tools.exercises import EXERCISES, HIDDEN, SOLUTIONS, make, text_of

NAMES = sorted(path.name for path in SOLUTIONS.glob("*.ipynb"))


def cells(path, tag):
    notebook = nbformat.read(path, as_version=4)
    return [cell.source for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def execute(path):
    """Run the code cells of a notebook one after the other."""
    names = {}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, str(path), "exec"), names)


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "STATE", tmp_path / "work" / "progress.json")


def test_there_is_a_notebook_for_each_lesson():
    assert [name[:2] for name in NAMES] == [f"{n:02d}" for n in range(7)]
    assert sorted(path.name for path in EXERCISES.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_exercises_are_those_of_the_solutions(name):
    made = text_of(make(nbformat.read(SOLUTIONS / name, as_version=4)))
    assert (EXERCISES / name).read_text(encoding="utf-8") == made


def test_a_second_time_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(exercises, "EXERCISES", tmp_path / "exercises")
    (tmp_path / "exercises").mkdir()
    (tmp_path / "exercises" / "99_gone.ipynb").write_text("{}")
    contents = []
    for _ in range(2):
        exercises.main()
        found = sorted((tmp_path / "exercises").iterdir())
        contents.append({path.name: path.read_bytes() for path in found})
    assert contents[0] == contents[1] and sorted(contents[0]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_no_line_of_a_solution_is_left(name):
    text = "\n".join(cells(EXERCISES / name, "solution"))
    for source in cells(SOLUTIONS / name, "solution"):
        left_out = HIDDEN.search(source)  # where the rest of a solution is handed out
        source = left_out[0] if left_out else source
        lines = [line for line in source.splitlines() if not line.startswith(("def ", '    """'))]
        assert not [line for line in lines if line.strip() and line in text.splitlines()]


@pytest.mark.parametrize("name", NAMES)
def test_three_exercises_with_their_checks(name):
    for folder in (SOLUTIONS, EXERCISES):
        found = {tag: cells(folder / name, tag) for tag in ("exercise", "solution", "check")}
        assert {tag: len(sources) for tag, sources in found.items()} == dict.fromkeys(found, 3)
        numbers = [f"{int(name[:2])}.{i}" for i in (1, 2, 3)]
        for number, task, check in zip(numbers, found["exercise"], found["check"], strict=True):
            one = checks.EXERCISES[number]
            assert task.startswith(f"## {number} · {one.title}\n\n*{one.level.capitalize()}.*")
            assert check.startswith(f'check("{number}", ')


@pytest.mark.parametrize("name", NAMES)
def test_the_solutions_pass_their_checks(name, state, capsys):
    execute(SOLUTIONS / name)
    printed = capsys.readouterr().out
    for i in (1, 2, 3):
        assert f"{int(name[:2])}.{i} is right." in printed, printed
    assert f"3 of {len(checks.EXERCISES)} are solved." in printed


@pytest.mark.parametrize("name", NAMES)
def test_exercises_without_answers_run(name, state, capsys):
    execute(EXERCISES / name)
    printed = capsys.readouterr().out
    assert printed.count(checks.NOTHING_YET) == 3 and "is right" not in printed, printed


@pytest.mark.parametrize("name", NAMES)
def test_hints_have_a_cell_of_their_own_after_each_check(name):
    sources = [cell.source for cell in nbformat.read(EXERCISES / name, as_version=4).cells]
    for check in cells(EXERCISES / name, "check"):
        number = check.split('"')[1]
        assert "hint" not in check
        assert sources[sources.index(check) + 1] == f'# hint("{number}")'


def test_a_loop_is_handed_out_with_a_part_missing():
    [source] = [one for one in cells(EXERCISES / "01_load.ipynb", "solution") if "deal" in one]
    assert "        part = ...\n        part_of[group] = part\n" in source
    assert "solution:" not in source and "# end" not in source
