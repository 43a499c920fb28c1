"""Accessibility of what is read outside JupyterLab: axe-core finds nothing serious that is ours."""

import nbformat
import pytest

from tests import PROJECT

pytestmark = pytest.mark.browser
NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
EXERCISES = sorted((PROJECT / "workshop" / "exercises").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS + EXERCISES, ids=lambda path: path.stem)
def test_notebooks_as_pages(notebook, findings, tmp_path):
    from nbconvert import HTMLExporter

    page = tmp_path / "page.html"
    text, _ = HTMLExporter().from_notebook_node(nbformat.read(notebook, as_version=4))
    page.write_text(text, encoding="utf-8")
    assert findings(page) == []


def test_a_picture_without_a_text_is_found(findings, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        '<html lang="en"><title>t</title><img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">'
    )
    assert any("image-alt" in finding for finding in findings(page))
