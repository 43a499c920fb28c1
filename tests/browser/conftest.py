"""Fixtures of the tests in a browser: Chromium, JupyterLab, and a folder for screenshots."""

import os
import shutil

import pytest

from tests import PROJECT
from tests.browser.lab import Lab, empty

GRAVE = ("serious", "critical")
# What nbconvert makes, whatever the notebook: colours of code and of prompts, which are too weak;
# links in a text that differ from it by their colour alone.
AROUND = {"exclude": [".highlight", ".jp-InputPrompt", ".jp-OutputPrompt"]}
OPTIONS = {"resultTypes": ["violations"], "rules": {"link-in-text-block": {"enabled": False}}}


@pytest.fixture(scope="session")
def browser():
    """Chromium: Debian's, or Playwright's own."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is missing: call 'make test-browser'"
    )
    with playwright.sync_playwright() as started:
        path = shutil.which("chromium") or shutil.which("chromium-browser")
        try:
            chromium = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except playwright.Error as error:
            first = str(error).strip().splitlines()[0]
            pytest.skip(
                f"there is no Chromium ({first}): install Debian's package chromium, or call "
                "PYTHONPATH=build/browser .venv/bin/python -m playwright install chromium"
            )
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def context(browser):
    """A window of 1280 by 900."""
    return browser.new_context(viewport={"width": 1280, "height": 900})


@pytest.fixture(scope="session")
def screenshots():
    """Where screenshots are kept, empty at first."""
    return empty(PROJECT / "build" / "screenshots")


@pytest.fixture(scope="session")
def lab(browser, tmp_path_factory):
    """JupyterLab in a folder of its own."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    lab = Lab(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.close()


@pytest.fixture
def findings(context):
    """A function: the serious and critical findings of axe-core on an HTML file."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = context.new_page()
    page.route("http*://**", lambda route: route.abort())  # no network is needed to read them

    def look(path):
        page.goto(path.as_uri())
        return [
            f"{found['id']} ({found['impact']}): {node['html'][:200]}"
            for found in axe.run(page, AROUND, OPTIONS).response["violations"]
            if found["impact"] in GRAVE
            for node in found["nodes"]
        ]

    yield look
    page.close()
