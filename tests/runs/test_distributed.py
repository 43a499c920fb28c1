"""`python -m helpers train`: the notebook's code in one or several processes, the same artifacts,
one sentence for an error.
"""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from helpers.hub.sources import PROJECT
from helpers.runs.folder import Run


def train(folder, *options, module="helpers"):
    command = [sys.executable, "-m", module, "train", "--run-dir", str(folder), *options]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=400)


@pytest.mark.parametrize("nproc", ["1", "2"])
def test_a_step_that_cannot_start_says_so_in_one_sentence(nproc, tmp_path):
    done = train(tmp_path / "run", "--nproc", nproc)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "train cannot start: step 'load' has not been done" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_bad_parameters_are_refused_before_any_process_starts(tmp_path):
    done = train(tmp_path / "run", "--nproc", "2", "-p", "train.learning_rate=-1")
    assert done.returncode == 1 and done.stderr.startswith(
        "train.learning_rate is -1.0: it must be a number greater than 0"
    )


@pytest.mark.full
def test_two_processes_leave_what_the_next_step_goes_on_from(tmp_path):
    folder = tmp_path / "run"
    settings = ["-p", "train.num_train_epochs=0.1", "-p", "infer.max_new_tokens=5"]
    command = [sys.executable, "-m", "helpers", "run", "--run-dir", str(folder), *settings]
    assert subprocess.run(command, cwd=PROJECT, capture_output=True, timeout=400).returncode == 0
    alone = Run(folder).record("train")["metrics"]
    done = train(folder, "--nproc", "2", *settings, "-p", "train.per_device_train_batch_size=4")
    assert done.returncode == 0, done.stderr
    together = Run(folder).record("train")["metrics"]
    assert together["processes"] == 2 and alone["processes"] == 1
    assert together["loss_finetuned"] == pytest.approx(
        alone["loss_finetuned"], rel=2e-3
    )  # bfloat16 may be chosen here
    assert (
        subprocess.run(
            [*command, "--from", "evaluate"], cwd=PROJECT, capture_output=True, timeout=400
        ).returncode
        == 0
    )
    assert json.loads((folder / "metrics.json").read_text())["processes"] == 2


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A run folder in which all that a training needs is done."""
    folder = tmp_path_factory.mktemp("prepared") / "run"
    settings = ["-p", "train.num_train_epochs=0.1", "-p", "infer.max_new_tokens=3"]
    command = [sys.executable, "-m", "helpers", "run", "--run-dir", str(folder), *settings]
    assert subprocess.run(command, cwd=PROJECT, capture_output=True, timeout=900).returncode == 0
    return folder


def training(folder, tmp_path):
    """Start a long training in two processes; all that it has started, once both are at it."""
    progress, long = tmp_path / "progress", ["-p", "train.num_train_epochs=50"]
    command = [sys.executable, "-m", "helpers", "train", "--run-dir", str(folder), "--nproc", "2"]
    runner = subprocess.Popen(
        [*command, *long, "-p", "train.per_device_train_batch_size=2"],
        cwd=PROJECT,
        env={**os.environ, "HELPERS_PROGRESS": str(progress)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    until = time.monotonic() + 240
    state = {}
    while state.get("what") != "steps" or state["done"] < 2:
        assert time.monotonic() < until
        assert runner.poll() is None, runner.communicate()
        time.sleep(0.2)
        state = json.loads(progress.read_text()) if progress.exists() else {}
    return runner, psutil.Process(runner.pid).children(recursive=True)


@pytest.mark.full
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_to_several_processes_saves_a_checkpoint(prepared, tmp_path, name, status):
    if not hasattr(signal, name) or os.name == "nt":
        pytest.skip(f"{name} cannot be sent on this system")
    runner, family = training(prepared, tmp_path)
    runner.send_signal(getattr(signal, name))
    _, said = runner.communicate(timeout=90)
    assert runner.returncode == status and len(family) >= 2, said
    assert said == "Interrupted; finished work is kept: run the same command again to resume.\n"
    assert not psutil.wait_procs(family, timeout=10)[1]
    assert list(prepared.glob(".04_train.scratch/*/checkpoint-*/complete"))


@pytest.mark.full
def test_a_killed_runner_takes_its_processes_with_it(prepared, tmp_path):
    runner, family = training(prepared, tmp_path)
    runner.kill()
    runner.communicate()
    assert len(family) >= 2 and not psutil.wait_procs(family, timeout=10)[1]
