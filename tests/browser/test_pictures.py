"""The screenshots of the README and the guide, in docs/pictures: `make pictures` makes them."""

import io
import os
import shutil

import pytest
from PIL import Image

from tests import PROJECT
from tests.browser.lab import Book

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif("PICTURES" not in os.environ, reason="call 'make pictures'"),
]
RUN = PROJECT / "runs" / "tiny"
MOST = 150_000  # bytes of a file


def keep(page, name):
    """Write what the window shows, in few colours, so that the file is small."""
    path = PROJECT / "docs" / "pictures" / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    shown = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    shown.quantize(64).save(path, optimize=True)
    assert path.stat().st_size < MOST


def test_a_notebook_in_jupyterlab(lab, context):
    run = lab.folder / "run"
    shutil.copytree(RUN, run, ignore=shutil.ignore_patterns("0[3-6]*", ".locks"))
    lab.theme("light")
    book = Book(lab, context, lab.copy(PROJECT / "notebooks" / "03_chunk.ipynb", run_dir=str(run)))
    book.run_all()
    assert book.problems() == []
    book.page.keyboard.press("Control+b")  # folds the list of files up
    for _ in range(3):  # outputs get their height only when they come near
        book.page.wait_for_timeout(1000)
        book.cell("token_rows(").evaluate("cell => cell.scrollIntoView()")
    keep(book.page, "jupyterlab")
    book.close()


def test_the_report_of_a_run(context):
    page = context.new_page()
    page.goto((RUN / "report.html").as_uri())
    keep(page, "report")
    page.close()
