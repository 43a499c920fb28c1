"""Each notebook as a person uses it: Run All, moved by hand, interrupted, saved, opened again."""

import re
import shutil

import nbformat
import pytest

from helpers.runs.folder import Run
from helpers.runs.report import write_report
from tests import PROJECT
from tests.browser.lab import Book

pytestmark = pytest.mark.browser
NOTEBOOKS = {path.stem: path for path in sorted((PROJECT / "notebooks").glob("0*.ipynb"))}
SMALL = {"04_train": {"num_train_epochs": 0.3}, "06_infer": {"max_new_tokens": 20}}
PICTURE = ".inline-figure svg, .jp-RenderedHTML .mathjax_ignore"


def open_book(lab, context, name, run_dir, **parameters):
    """A copy of a notebook, in the light theme, whose artifacts go to `run_dir`."""
    values = SMALL.get(name, {}) | ({} if name == "00_idea" else {"run_dir": str(run_dir)})
    lab.theme("light")
    return Book(lab, context, lab.copy(NOTEBOOKS[name], **values | parameters))


@pytest.fixture(scope="module", params=NOTEBOOKS)
def book(request, lab, context):
    """A notebook after Run All, which those before it in the list have had, too."""
    opened = open_book(lab, context, request.param, lab.folder / "run")
    opened.run_all()
    yield opened
    opened.close()


def chosen(*names):
    """A mark: a test for these notebooks alone."""
    return pytest.mark.parametrize("book", names, indirect=True)


def test_run_all_shows_no_error_and_no_red_box(book, screenshots):
    assert book.problems() == []
    book.screenshot(screenshots, "light", PICTURE)


@chosen("03_chunk")
def test_the_slider_answers_to_keyboard_and_mouse(book):
    output, sizes = book.cell("block_size_slider(sample"), []
    handle = output.get_by_role("slider").first
    handle.focus()
    for move in ("ArrowLeft", "Home", "mouse"):
        before = output.inner_text()
        if move == "mouse":
            here, track = handle.bounding_box(), handle.locator("xpath=../..").bounding_box()
            book.page.mouse.move(here["x"] + here["width"] / 2, here["y"] + here["height"] / 2)
            book.page.mouse.down()
            book.page.mouse.move(track["x"] + track["width"], here["y"], steps=5)
            book.page.mouse.up()
        else:
            book.page.keyboard.press(move)
        book.wait_for_change(output, before)
        sizes.append(int(re.search(r"block_size\s+(\d+)", output.inner_text())[1]))
    assert sizes == [64, 16, 256]
    assert book.problems() == []


@chosen("06_infer")
def test_the_quiz_answers_to_mouse_and_keyboard(book):
    output = book.cell("quiz(key)")
    score = output.get_by_role("button", name="Score")
    letters = output.get_by_role("button", name="A", exact=True)
    letters.first.click()
    before = output.inner_text()
    score.click()
    book.wait_for_change(output, before)
    assert f"{letters.count() - 1} to go" in output.inner_text()
    for number in range(letters.count()):
        letters.nth(number).focus()
        book.page.keyboard.press("Enter")
    before = output.inner_text()
    score.focus()
    book.page.keyboard.press("Enter")
    book.wait_for_change(output, before)
    assert re.search(rf"\d+ of {letters.count()} right", output.inner_text())


@chosen("06_infer")
def test_the_playground_writes(book):
    output = book.cell("playground(models")
    before = output.inner_text()
    output.get_by_role("button", name="Continue").click()
    book.wait_for_change(output, before)
    output.get_by_text("fine-tuned", exact=True).wait_for()
    assert book.problems() == []


def test_opened_again_it_shows_what_was_saved(book, lab, screenshots):
    pictures = book.page.locator(PICTURE).count()
    saved = nbformat.read(book.save(), as_version=4)
    assert all(cell.execution_count for cell in saved.cells if cell.cell_type == "code")
    lab.end_kernels()
    lab.theme("dark")
    book.open()
    assert book.problems() == []
    assert book.page.locator(PICTURE).count() == pictures
    book.screenshot(screenshots, "dark", PICTURE)


def test_an_interrupted_training_goes_on(lab, context):
    run = lab.folder / "interrupted"
    shutil.copytree(lab.folder / "run", run, ignore=shutil.ignore_patterns("0[456]*", "*.lock"))
    book = open_book(lab, context, "04_train", run, num_train_epochs=1.0)
    book.interrupt("trainer.train()")
    shown = book.cell("trainer.train()")
    saved = re.search(r"saved at step (\d+)", shown.text_content())
    assert saved, shown.text_content()
    reached = int(saved[1])
    assert reached > 0
    wait = book.start_cell("trainer.train()")
    shown.get_by_text(re.compile(rf"oing on from step {reached:,}\b")).wait_for()
    wait()
    book.run_below("losses_of(trainer.state")
    assert book.problems() == []
    assert Run(run).record("train")
    book.close()


def test_the_report_of_the_run(lab, findings):
    assert findings(write_report(Run(lab.folder / "run"))) == []
