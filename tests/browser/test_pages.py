"""Accessibility of what is read outside JupyterLab: axe-core finds nothing serious that is ours."""

import nbformat
import pytest

from helpers.runs.report import write_comparison
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


def test_a_comparison_that_is_wider_than_the_page(findings, tmp_path):
    import pandas as pd

    long = {f"train.a_parameter_with_a_long_name_{number}": [1.0, 2.0] for number in range(6)}
    table = pd.DataFrame({"run": ["a", "b"]} | long | {"perplexity": [40.0, 50.0]})
    assert findings(write_comparison(table, "Best first.", [], tmp_path / "page.html")) == []


def test_a_picture_without_a_text_is_found(findings, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        '<html lang="en"><title>t</title><img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">'
    )
    assert any("image-alt" in finding for finding in findings(page))
