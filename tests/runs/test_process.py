"""One notebook in a process of its own: how it ends, and that nothing is left of it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import nbformat
import psutil
import pytest

from helpers.errors import RunError
from helpers.runs.locking import NOTEBOOK, folder_lock
from helpers.runs.process import NotebookProcess, run_notebook
from helpers.runs.profiles import plan
from helpers.runs.run import RunSpec, execute_run
from tests import PROJECT

POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows cannot send this signal")
RUNS = (
    "import helpers.runs.notebook as n; from pathlib import Path; n.path_of = lambda step: "
    "Path({path!r})\n"
)


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
        process = NotebookProcess(environment)
        time.sleep(how.pop("ahead", 0))
        return run_notebook("load", tmp_path / output, {}, process, **how)

    return run


def descendants():
    return {p.pid for p in psutil.Process().children(recursive=True)}


def test_one_that_ends_well(notebook, tmp_path):
    outcome = notebook("x = 1", "print(x + 1)")
    assert (
        (outcome.status, outcome.message) == ("ok", "")
        and outcome.peak_memory_mb > 10
        and outcome.seconds > 0
    )
    assert nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[1].outputs[0].text == "2\n"
    assert descendants() == set()


def test_one_that_fails_says_with_what(notebook):
    outcome = notebook("1 / 0")
    assert (
        outcome.status == "failed"
        and "load failed: ZeroDivisionError: division by zero" in outcome.message
    )


@pytest.mark.parametrize(
    "cell", ["import os, psutil; psutil.Process(os.getpid()).kill()", "import os; os._exit(3)"]
)
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


def test_a_kernel_that_will_not_end_is_ended(notebook):
    cell = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    outcome = notebook(cell, time_limit=4, grace=1)
    assert outcome.status == "timed out" and outcome.seconds < 30 and descendants() == set()


def test_a_stop_from_outside_interrupts(notebook):
    stop = threading.Event()
    threading.Timer(3, stop.set).start()
    outcome = notebook("import time; time.sleep(60)", stop=stop)
    assert outcome.status == "interrupted" and outcome.seconds < 30 and descendants() == set()


@POSIX
@pytest.mark.parametrize("where", ["waiting", "showing"])
def test_ctrl_c_lets_the_kernel_save_wherever_the_runner_is(notebook, tmp_path, where):
    cell = f"""
import time
from helpers.engine.progress import Progress
bar = Progress(5, "things"); time.sleep(.3); bar.advance(1)
open({str(tmp_path / "began")!r}, "w").close()
try:
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(2)
    open({str(tmp_path / "saved")!r}, "w").close()
    raise
"""
    times = []

    def show(state):
        if (tmp_path / "began").exists() and where == "showing" and not times:
            times.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

    def interrupt():
        until_it_is_there(tmp_path / "began")
        os.kill(os.getpid(), signal.SIGINT)

    if where == "waiting":
        threading.Thread(target=interrupt).start()
    outcome = notebook(cell, show=show)
    assert (outcome.status, outcome.message) == ("interrupted", "load: it was interrupted.")
    assert (tmp_path / "saved").exists() and descendants() == set()


@POSIX
def test_a_second_ctrl_c_ends_the_kernel_at_once(notebook):
    for seconds in (4, 5):
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()
    cell = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    outcome = notebook(cell)
    assert outcome.status == "interrupted" and outcome.seconds < 20 and descendants() == set()


@pytest.mark.parametrize("ahead", [0, 3])
def test_a_stop_before_the_first_cell_ends_at_once(notebook, ahead):
    """Then the kernel, if there is one, has nothing to do, and would not notice an interruption."""
    stop = threading.Event()
    stop.set()
    outcome = notebook("import time; time.sleep(60)", stop=stop, ahead=ahead)
    assert outcome.status == "interrupted" and outcome.seconds < 5 and descendants() == set()


def test_what_a_kernel_has_started_is_ended_and_nothing_else(notebook):
    sleeping = [sys.executable, "-c", "import time; time.sleep(77)"]
    other = psutil.Popen([*sleeping, "another"])
    cell = f"import subprocess; subprocess.Popen({sleeping!r}, start_new_session=True); "
    cell += "import time; time.sleep(1); 1/0"
    notebook(cell)
    assert other.is_running()
    other.kill()
    other.wait()
    assert not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == sleeping]


def test_progress_is_shown_and_no_connection_file_is_left(notebook, tmp_path):
    shown = []
    cell = (
        "import time; from helpers.engine.progress import Progress; p = Progress(5, 'things'); "
        "time.sleep(.3); p.advance(2, 'so'); time.sleep(1)"
    )
    assert notebook(cell, show=shown.append).status == "ok"
    assert shown and shown[-1]["done"] == 2 and shown[-1]["note"] == "so"
    notebook("from ipykernel import get_connection_file as f; print(open(f()).read()[0], f())")
    said = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[0].outputs[0].text.split()
    assert (
        said[0] == "{"
        and not os.path.exists(os.path.dirname(said[1]))
        and "clm-notebooks-" in said[1]
    )


def test_an_output_that_cannot_be_written_is_said(notebook, tmp_path):
    (tmp_path / "file").touch()
    outcome = notebook("1", output="file/out.ipynb")
    assert outcome.status == "failed" and "it cannot be written (" in outcome.message
    (tmp_path / "out.ipynb").mkdir()
    outcome = notebook("1")
    assert outcome.status == "failed" and "its notebook could not be written (" in outcome.message


def test_braces_in_a_path_are_no_parameters(notebook, tmp_path):
    (tmp_path / "{x}").mkdir()
    assert (
        notebook("1", output="{x}/{0}.ipynb").status == "ok"
        and (tmp_path / "{x}" / "{0}.ipynb").exists()
    )


RELUCTANT = """
import psutil
kill = psutil.Process.kill
def kill_one_that_is_gone(self):
    kill(self)
    raise psutil.NoSuchProcess(self.pid)
psutil.Process.kill = kill_one_that_is_gone
"""
RUN = (
    "import sys; from helpers.runs.run import *; from helpers.runs.profiles import plan; "
    "execute_run(RunSpec(sys.argv[1], plan('tiny')))"
)


def running(folder, *command, **variables):
    """Start a runner, and wait until it has a kernel; it and all that it has started."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{folder}{os.pathsep}{PROJECT}",
        "TMPDIR": str(folder),
        **variables,
    }
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    runner = subprocess.Popen([sys.executable, *command], cwd=folder, env=environment, **pipes)
    family, until = [], time.monotonic() + 60
    while not any("ipykernel_launcher" in " ".join(p.cmdline()) for p in family if p.is_running()):
        family = psutil.Process(runner.pid).children(recursive=True)
        assert time.monotonic() < until
        time.sleep(0.1)
    return runner, family


@pytest.mark.parametrize("site", ["", RELUCTANT], ids=["", "a child that has just ended"])
def test_a_killed_runner_takes_its_kernel_with_it(tmp_path, site):
    (tmp_path / "sitecustomize.py").write_text(site)
    runner, family = running(tmp_path, "-c", RUN, str(tmp_path / "run"))
    runner.kill()
    runner.communicate()
    gone, alive = psutil.wait_procs(family, timeout=10)
    assert not alive and len(gone) >= 2
    assert not list(tmp_path.glob("clm-notebooks-*"))


def test_nothing_is_executed_before_the_runner_knows_that_the_run_is_locked(
    notebook, tmp_path, monkeypatch
):
    """So a runner that is killed after it has sent a task leaves no notebook to a later one."""
    monkeypatch.setattr(NotebookProcess, "_permit", lambda self: None)
    stop = threading.Event()

    def stop_when_locked():
        until_it_is_there(tmp_path / ".locks" / "notebook.holder")
        time.sleep(2)
        stop.set()

    threading.Thread(target=stop_when_locked).start()
    outcome = notebook("1", stop=stop)
    assert outcome.status == "interrupted" and not (tmp_path / "out.ipynb").exists()
    assert (tmp_path / ".locks" / "notebook.holder").exists() and descendants() == set()


def test_a_run_whose_notebook_outlives_its_killed_runner_is_locked_until_that_has_ended(slow):
    runner, _ = running(slow, "-c", RUN, str(slow / "run"))
    until_it_is_there(slow / "began")
    frozen = psutil.Process(runner.pid).children()
    for process in frozen:
        process.suspend()  # they cannot notice that the runner has ended
    runner.kill()
    runner.communicate()
    spec = RunSpec(str(slow / "run"), plan("tiny"))
    try:
        with pytest.raises(RunError, match="run_dir is 'run': process .* holds it") as refusal:
            execute_run(spec)
        assert any(f"process {process.pid} on" in str(refusal.value) for process in frozen)
    finally:
        for process in frozen:
            process.resume()
    with folder_lock(slow / "run", NOTEBOOK, wait=True):
        assert not psutil.wait_procs(frozen, timeout=10)[1]


SLOW = """
try:
    import time
    open({began!r}, "w").close()
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(2)
    open({saved!r}, "w").close()
    raise
"""


@pytest.fixture
def slow(tmp_path):
    """A folder whose notebooks all sleep, and save something when they are interrupted."""
    metadata = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    files = {name: str(tmp_path / name) for name in ("began", "saved")}
    cells = [nbformat.v4.new_code_cell(SLOW.format(**files))]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), tmp_path / "in.ipynb")
    (tmp_path / "sitecustomize.py").write_text(RUNS.format(path=str(tmp_path / "in.ipynb")))
    return tmp_path


def until_it_is_there(path):
    until = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.1)


@POSIX
@pytest.mark.parametrize(
    ("name", "code"),
    [("SIGTERM", 143), ("SIGHUP", 129), pytest.param("SIGINT", 130, marks=pytest.mark.full)],
)
def test_a_signal_to_the_runner_lets_the_kernel_save(slow, name, code):
    ignored = (
        "signal.signal(2, signal.SIG_IGN); " if name == "SIGTERM" else ""
    )  # as in a script's background
    start = f"import signal, helpers.runs.cli as m; {ignored}m.main()"
    runner, family = running(slow, "-c", start, "run", "--run-dir", str(slow / "run"))
    until_it_is_there(slow / "began")
    assert (slow / "run" / "01_load.running.ipynb").exists()
    if ignored:
        runner.send_signal(signal.SIGINT)
    for _ in range(1 if name == "SIGINT" else 2):  # a terminal that closes sends it twice
        runner.send_signal(getattr(signal, name))
        time.sleep(0.5)
    _, said = runner.communicate(timeout=30)
    assert runner.returncode == code and (slow / "saved").exists(), said
    assert said == "Interrupted; finished work is kept: run the same command again to resume.\n"
    record = json.loads((slow / "run" / "run.json").read_text())
    by = "" if name == "SIGINT" else f" by {name}"
    assert (record["status"], record["message"]) == (
        "interrupted",
        f"load: it was interrupted{by}.",
    )
    assert [p.name for p in (slow / "run").glob("*.ipynb")] == ["01_load.failed.ipynb"]
    assert not psutil.wait_procs(family, timeout=10)[1]


@POSIX
def test_a_signal_to_a_sweep_lets_its_kernels_save(slow):
    """Of two runs that share their first step, one does it and one waits."""
    (slow / "sweep.yaml").write_text("list: [{train.seed: 1}, {train.seed: 2}]")
    command = ["-m", "helpers", "sweep", str(slow / "sweep.yaml"), "--sweep-dir", str(slow / "out")]
    runner, family = running(slow, *command, "--jobs", "2")
    until_it_is_there(slow / "began")
    runner.terminate()
    _, said = runner.communicate(timeout=60)
    assert runner.returncode == 143 and (slow / "saved").exists(), said
    assert said == "Interrupted; finished work is kept: run the same command again to resume.\n"
    records = [json.loads((slow / "out" / n / "run.json").read_text()) for n in "01"]
    assert [record["status"] for record in records] == ["interrupted"] * 2
    assert sorted(record["message"] for record in records) == [
        "it was interrupted by SIGTERM.",
        "load: it was interrupted by SIGTERM.",
    ]
    assert not psutil.wait_procs(family, timeout=10)[1]


@POSIX
@pytest.mark.full
def test_a_terminal_that_closes_lets_the_kernel_save(slow):
    """The runner's output goes nowhere then, and its record is written all the same."""
    import pty

    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(slow)
        os.environ["PYTHONPATH"] = f"{slow}{os.pathsep}{PROJECT}"
        os.execv(
            sys.executable, [sys.executable, "-m", "helpers", "run", "--run-dir", str(slow / "run")]
        )
    until_it_is_there(slow / "began")
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 129
    record = json.loads((slow / "run" / "run.json").read_text())
    assert record["message"] == "load: it was interrupted by SIGHUP." and (slow / "saved").exists()


@POSIX
@pytest.mark.full
def test_nohup_stays_in_force(slow):
    code = "import signal, helpers.runs.cli as m; signal.signal(1, signal.SIG_IGN); m.main()"
    runner, _ = running(slow, "-c", code, "run", "--run-dir", str(slow / "run"))
    until_it_is_there(slow / "began")
    runner.send_signal(signal.SIGHUP)
    time.sleep(1)
    assert runner.poll() is None and not (slow / "saved").exists()
    runner.terminate()
    assert runner.communicate(timeout=30) and runner.returncode == 143
