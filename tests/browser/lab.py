"""JupyterLab on this machine, and a person in front of it: opens, runs, interrupts, saves."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import nbformat

from tests import PROJECT

TOKEN = "browser-tests"
LONG = 300_000  # milliseconds; only what has gone wrong takes as long
RED = '[data-mime-type="application/vnd.jupyter.stderr"]'  # errors too, whole or in one line
# True when all code cells are there.
OPEN = "count => document.querySelectorAll('.jp-CodeCell .jp-InputPrompt').length === count"
# True when every code cell has a count, or one shows something red.
RAN = f"""() => {{
    const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')];
    const red = document.querySelector('{RED}');
    return red || prompts.every(prompt => /\\[\\d+\\]/.test(prompt.textContent));
}}"""


class Lab:
    """A server of JupyterLab in a folder of its own, with copies of the notebooks."""

    def __init__(self, folder: Path):
        self.folder, self.log = folder, folder / "lab.log"
        places = ("CONFIG", "DATA", "RUNTIME")
        own = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in places}
        own |= {
            f"JUPYTERLAB_{name}_DIR": str(folder / "lab") for name in ("SETTINGS", "WORKSPACES")
        }
        own["IPYTHONDIR"] = str(folder / "ipython")
        own["JUPYTER_CONFIG_PATH"] = str(PROJECT / "workshop" / "jupyter")
        own["PYTHONPATH"] = os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])
        options = ["--no-browser", f"--IdentityProvider.token={TOKEN}", "--ServerApp.ip=127.0.0.1"]
        options += ["--ServerApp.port=0", f"--ServerApp.root_dir={folder}"]
        if getattr(os, "geteuid", lambda: 1)() == 0:
            options.append("--allow-root")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", *options],
                env=os.environ | own,
                stdout=log,
                stderr=log,
                cwd=folder,
            )
        self.url = self._address(folder / "runtime")

    def _address(self, runtime: Path) -> str:
        """Wait until the server has written where it listens, and answers."""
        until = time.monotonic() + LONG / 1000
        while time.monotonic() < until and self.process.poll() is None:
            for path in runtime.glob("jpserver-*.json"):
                with suppress(OSError, ValueError):
                    self.url = json.loads(path.read_text())["url"]
                    self.ask("api/status")
                    return self.url
            time.sleep(0.3)
        raise RuntimeError(f"JupyterLab did not start: {self.log.read_text()[-2000:]}")

    def ask(self, path: str, method: str = "GET", content: object = None) -> object:
        """An answer of the server's REST interface."""
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if content is None else json.dumps(content).encode(),
            headers={"Authorization": f"token {TOKEN}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or "null")

    def copy(self, source: Path, **parameters: object) -> str:
        """Put a copy of a notebook, with other parameters and no outputs, into the folder."""
        notebook = nbformat.read(source, as_version=4)
        for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
            cell.outputs, cell.execution_count = [], None
            if "parameters" in cell.metadata.get("tags", []):
                cell.source += "".join(f"\n{k} = {v!r}" for k, v in parameters.items())
        path = self.folder / source.relative_to(PROJECT)
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, path)
        return path.relative_to(self.folder).as_posix()

    def theme(self, name: str) -> None:
        """Choose the theme, light or dark, of pages that are opened from now on."""
        raw = json.dumps({"theme": f"JupyterLab {name.title()}"})
        self.ask("lab/api/settings/@jupyterlab/apputils-extension:themes", "PUT", {"raw": raw})

    def end_kernels(self) -> None:
        """End every kernel, as after a restart of the machine."""
        for session in self.ask("api/sessions"):
            self.ask(f"api/sessions/{session['id']}", "DELETE")

    def close(self) -> None:
        """End the server and its kernels."""
        with suppress(OSError):
            self.end_kernels()
        self.process.terminate()
        self.process.wait(60)


class Book:
    """A notebook that is open in the browser."""

    def __init__(self, lab: Lab, context: object, path: str):
        self.lab, self.path, self.page = lab, path, context.new_page()
        self.name = Path(path).stem
        self.sources = [
            cell.source
            for cell in nbformat.read(lab.folder / path, as_version=4).cells
            if cell.cell_type == "code"
        ]
        self.page.set_default_timeout(LONG)
        self.open()

    def open(self) -> None:
        """Open the notebook, alone, and wait until its kernel is idle."""
        self.page.goto(f"{self.lab.url}lab/tree/{self.path}?token={TOKEN}&reset")
        self.page.wait_for_function(OPEN, arg=len(self.sources))
        self.wait_until_idle()

    def menu(self, name: str, entry: str) -> None:
        """Choose an entry of the menu bar."""
        self.page.locator(".lm-MenuBar-item", has_text=re.compile(f"^{name}$")).click()
        self.page.locator(".lm-Menu-itemLabel", has_text=re.compile(f"^{entry}")).first.click()

    def wait_until_idle(self) -> None:
        """Wait until the kernel has nothing to do."""
        idle = '.jp-Notebook-ExecutionIndicator[data-status="idle"]'
        self.page.locator(idle).wait_for()

    def wait_for_change(self, place: object, before: str) -> None:
        """Wait until the text of a place is another one, and the kernel is idle."""
        self.page.wait_for_function(
            "([element, before]) => element.innerText !== before",
            arg=[place.element_handle(), before],
        )
        self.wait_until_idle()

    def run_all(self) -> None:
        """Run every cell, and wait for the last."""
        self.menu("Run", "Run All Cells")
        self.page.wait_for_function(RAN)
        self.wait_until_idle()

    def cell(self, text: str) -> object:
        """The first code cell whose source contains a text."""
        number = next(n for n, source in enumerate(self.sources) if text in source)
        return self.page.locator(".jp-CodeCell").nth(number)

    def start_cell(self, text: str) -> object:
        """Start one cell by keyboard; a function that waits until it has run."""
        prompt = self.cell(text).locator(".jp-InputPrompt")
        before = prompt.inner_text()
        self.cell(text).locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")
        return lambda: self.page.wait_for_function(
            r"([e, before]) => /\[\d+\]/.test(e.innerText) && e.innerText !== before",
            arg=[prompt.element_handle(), before],
        )

    def run_below(self, text: str) -> None:
        """Run the cell with this text and those below it, and wait for the last."""
        self.cell(text).locator(".cm-content").click()
        self.menu("Run", "Run Selected Cell and All Below")
        self.page.wait_for_function(RAN)
        self.wait_until_idle()

    def interrupt(self, text: str) -> None:
        """Run every cell, and press the button ■ once the cell with this text shows something."""
        self.menu("Run", "Run All Cells")
        self.cell(text).locator(".jp-OutputArea-output").first.wait_for(state="attached")
        self.page.locator('[data-jp-item-name="interrupt"]').click()
        self.cell(text).locator(RED).wait_for()
        self.wait_until_idle()

    def save(self) -> Path:
        """Save the notebook, and wait until the server has written it."""
        with self.page.expect_response(
            lambda answer: answer.request.method == "PUT" and "api/contents" in answer.url
        ):
            self.menu("File", "Save Notebook")
        return self.lab.folder / self.path

    def problems(self) -> list[str]:
        """What a person takes for a fault: errors, red boxes, widgets that are not shown."""
        boxes = self.page.locator(RED).all_text_contents()
        lost = self.page.get_by_text("Error displaying widget").all_inner_texts()
        return [text.strip()[-2000:] for text in boxes + lost]

    def screenshot(self, folder: Path, theme: str, selector: str, count: int = 2) -> None:
        """Keep the cells with the first pictures, as files of PNG."""
        cells = self.page.locator(".jp-CodeCell", has=self.page.locator(selector))
        for number in range(min(count, cells.count())):
            path = folder / f"{self.name}-{number + 1}-{theme}.png"
            cells.nth(number).screenshot(path=path)

    def close(self) -> None:
        """Close the page and end the kernel."""
        self.page.close()
        self.lab.end_kernels()


def empty(folder: Path) -> Path:
    """A folder with nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
