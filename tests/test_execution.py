"""One notebook in a process of its own: how it ends, whatever happens in there, and that nothing is left of it."""

import os
import signal
import threading
import time

import nbformat
import psutil
import pytest

from helpers import execution
from helpers.execution import Child, run_notebook
from tests import PROJECT

RUNS = "import helpers.notebooks as n; from pathlib import Path; n.path_of = lambda step: Path({path!r})\n"


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """Run a notebook with these cells, in place of a step's; how it ended."""

    def run(*cells, output="out.ipynb", **how):
        made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        nbformat.write(made, tmp_path / "in.ipynb")
        start = tmp_path / "start"  # the child finds the notebook above in the place of the step's
        start.mkdir(exist_ok=True)
        (start / "sitecustomize.py").write_text(RUNS.format(path=str(tmp_path / "in.ipynb")))
        environment = {"PYTHONPATH": f"{start}{os.pathsep}{PROJECT}", **how.pop("environment", {})}
        child = Child(environment)
        time.sleep(how.pop("ahead", 0))
        return run_notebook("load", tmp_path / output, {}, child, **how)

    return run


def descendants():
    return {p.pid for p in psutil.Process().children(recursive=True)}


def test_one_that_ends_well(notebook, tmp_path):
    outcome = notebook("x = 1", "print(x + 1)")
    assert (outcome.status, outcome.message) == ("ok", "") and outcome.peak_memory_mb > 10 and outcome.seconds > 0
    assert nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[1].outputs[0].text == "2\n"
    assert descendants() == set()


def test_one_that_fails_says_with_what(notebook):
    outcome = notebook("1 / 0")
    assert outcome.status == "failed" and "load failed: ZeroDivisionError: division by zero" in outcome.message


@pytest.mark.parametrize("cell", ["import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "import os; os._exit(3)"])
def test_a_kernel_that_is_killed_is_noticed(notebook, cell):
    outcome = notebook("import time; x = b'1' * 10**8; time.sleep(1)", cell)
    assert outcome.status == "kernel died" and outcome.seconds < 30
    assert "load: its kernel was killed" in outcome.message and "the peak was" in outcome.message
    assert outcome.peak_memory_mb >= 100 and descendants() == set()


def test_a_time_limit_interrupts_first(notebook, tmp_path):
    cell = f"""
import time
try:
    time.sleep(60)
except KeyboardInterrupt:
    open({str(tmp_path / "saved")!r}, "w").close()
    raise
"""
    outcome = notebook(cell, time_limit=4)
    assert outcome.status == "timed out" and "time limit of 0.0666667 minutes" in outcome.message
    assert (tmp_path / "saved").exists() and outcome.seconds < 30 and descendants() == set()


def test_a_kernel_that_will_not_end_is_ended(notebook, monkeypatch):
    monkeypatch.setattr(execution, "GRACE", 1.0)
    cell = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    outcome = notebook(cell, time_limit=4)
    assert outcome.status == "timed out" and outcome.seconds < 30 and descendants() == set()


def test_a_stop_from_outside_interrupts(notebook):
    stop = threading.Event()
    threading.Timer(3, stop.set).start()
    outcome = notebook("import time; time.sleep(60)", stop=stop)
    assert outcome.status == "interrupted" and outcome.seconds < 30 and descendants() == set()


@pytest.mark.parametrize("ahead", [0, 3])
def test_a_stop_before_the_first_cell_ends_at_once(notebook, ahead):
    """Then the kernel, if there is one, has nothing to do, and would not notice an interruption."""
    stop = threading.Event()
    stop.set()
    outcome = notebook("import time; time.sleep(60)", stop=stop, ahead=ahead)
    assert outcome.status == "interrupted" and outcome.seconds < 5 and descendants() == set()


def test_what_a_kernel_has_started_is_ended_and_nothing_else(notebook):
    other = psutil.Popen(["sleep", "60"])
    cell = "import subprocess; print(subprocess.Popen(['sleep', '77'], start_new_session=True).pid); import time; time.sleep(1); 1/0"
    notebook(cell)
    assert other.is_running()
    other.kill()
    other.wait()
    assert not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "77"]]


def test_progress_is_shown_and_no_connection_file_is_left(notebook, tmp_path):
    shown = []
    cell = "import time; from helpers.progress import Progress; p = Progress(5, 'things'); time.sleep(.3); p.advance(2, 'so'); time.sleep(1)"
    assert notebook(cell, show=shown.append).status == "ok"
    assert shown and shown[-1]["done"] == 2 and shown[-1]["note"] == "so"
    notebook("from ipykernel import get_connection_file as f; print(open(f()).read()[0], f())")
    said = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[0].outputs[0].text.split()
    assert said[0] == "{" and not os.path.exists(os.path.dirname(said[1])) and "clm-notebooks-" in said[1]


def test_an_output_that_cannot_be_written_is_said(notebook):
    outcome = notebook("1", output="missing/out.ipynb")
    assert outcome.status == "failed" and "could not be written (No such file or directory)" in outcome.message


def test_braces_in_a_path_are_no_parameters(notebook, tmp_path):
    (tmp_path / "{x}").mkdir()
    assert notebook("1", output="{x}/{0}.ipynb").status == "ok" and (tmp_path / "{x}" / "{0}.ipynb").exists()


def test_a_killed_runner_takes_its_kernel_with_it(tmp_path):
    import subprocess
    import sys

    program = "from helpers.batch import *; from helpers.plan import plan; do(Specification('run', plan('tiny')))"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "TMPDIR": str(tmp_path)}
    runner = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, env=environment)
    family, until = [], time.monotonic() + 60
    while not any("ipykernel_launcher" in " ".join(p.cmdline()) for p in family if p.is_running()):
        family = psutil.Process(runner.pid).children(recursive=True)
        assert time.monotonic() < until
        time.sleep(0.1)
    os.kill(runner.pid, signal.SIGKILL)
    runner.wait()
    gone, alive = psutil.wait_procs(family, timeout=10)
    assert not alive and len(gone) >= 2
    assert not list(tmp_path.glob("clm-notebooks-*"))
