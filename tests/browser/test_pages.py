"""Accessibility of what is read outside JupyterLab: axe-core finds nothing serious that is ours."""

import json

import nbformat
import pytest

from helpers.runs.board import write_comparison
from tests import PROJECT

pytestmark = pytest.mark.browser
NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
EXERCISES = sorted((PROJECT / "workshop" / "exercises").glob("*.ipynb"))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("notebook", NOTEBOOKS + EXERCISES, ids=lambda p: p.parent.name + p.stem)
def test_notebooks_as_pages(notebook, theme, findings, tmp_path):
    from nbconvert import HTMLExporter

    page = tmp_path / "page.html"
    content = nbformat.read(notebook, as_version=4)
    page.write_text(HTMLExporter(theme=theme).from_notebook_node(content)[0], encoding="utf-8")
    assert findings(page) == []


def test_the_next_token_page_goes_on_and_back_by_keyboard(context, tmp_path):
    from nbconvert import HTMLExporter

    path = tmp_path / "page.html"
    path.write_text(HTMLExporter().from_filename(NOTEBOOKS[6])[0], encoding="utf-8")
    page = context.new_page()
    page.goto(path.as_uri())
    part = page.locator(".by-hand", has_text="Step back")
    framed, back = part.locator("tbody button"), part.get_by_role("button", name="Step back")
    framed.nth(1).focus()
    chosen, left = framed.nth(1).inner_text(), []
    for _ in range(2):
        page.keyboard.press("Enter")
        left.append(framed.count())
    assert left == [5, 0] and chosen in part.locator("b").inner_text()
    page.keyboard.press("Enter")  # the last press has left the focus on the step back
    back.press("Enter")
    assert back.is_disabled() and not part.locator("b").count()
    assert framed.nth(1).evaluate("button => button === document.activeElement")
    page.close()


@pytest.fixture
def comparison(tmp_path):
    """A page of three runs whose table is wider than the window."""
    import pandas as pd

    long = {f"train.a_parameter_with_a_long_name_{number}": [1.0, 2.0, 3.0] for number in range(12)}
    numbers = {"validation perplexity": [40.0, 50.0, 60.0], "test perplexity": [9.0, 101.0, 70.0]}
    numbers |= {"low": [8.0, 90.0, 65.0], "high": [11.0, 110.0, 75.0], "beside best": list("xyz")}
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        (folder / "04_train").mkdir(parents=True)
        history = [{"step": 10, "validation_loss": 3.0}]
        losses = {"part": "validation", "base_loss": 4.0, "history": history}
        (folder / "04_train" / "losses.json").write_text(json.dumps(losses))
    table = pd.DataFrame({"run": list("abc")} | long | numbers, index=folders)
    table.attrs["by"] = "validation perplexity"
    return write_comparison(table, "Best first.", tmp_path / "page.html")


def test_a_comparison_has_no_findings(comparison, findings):
    assert findings(comparison) == []


def test_a_wide_comparison_scrolls_in_its_own_box(comparison, context, screenshots):
    page = context.new_page()
    page.goto(comparison.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    region, width = page.get_by_role("region"), page.viewport_size["width"]
    last, first = (page.locator("tbody tr").first.locator("td").nth(n) for n in (-1, 0))
    assert last.bounding_box()["x"] > width
    region.focus()
    page.keyboard.press("End")
    page.keyboard.press("Control+ArrowRight")
    for _ in range(100):
        page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "e => e.getBoundingClientRect().right <= innerWidth", arg=last.element_handle()
    )
    assert first.bounding_box()["x"] == region.bounding_box()["x"]
    page.screenshot(path=screenshots / "comparison.png", full_page=True)
    page.close()


def test_a_comparison_answers_to_mouse_and_keyboard(comparison, context):
    page = context.new_page()
    page.goto(comparison.as_uri())
    rows, lines = page.locator("tbody tr"), page.locator("g[data-run]")
    visible = lambda: [[one.is_visible() for one in them.all()] for them in (rows, lines)]  # noqa: E731
    page.get_by_role("checkbox", name="b", exact=True).focus()
    page.keyboard.press("Space")
    assert visible() == [[True, False, True]] * 2
    page.get_by_role("checkbox", name="all runs").uncheck()
    assert visible() == [[False] * 3] * 2
    page.get_by_role("checkbox", name="all runs").check()
    assert visible() == [[True] * 3] * 2
    head = page.get_by_role("button", name="test perplexity")
    for order in (["b", "c", "a"], ["a", "c", "b"]):
        head.focus()
        page.keyboard.press("Enter")
        assert [row.inner_text().split()[0] for row in rows.all()] == order
    rows.first.hover()
    assert page.locator("g.strong title").first.text_content() == "a"
    page.close()


def test_a_picture_without_a_text_is_found(findings, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        '<html lang="en"><title>t</title><img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">'
    )
    assert any("image-alt" in finding for finding in findings(page))
