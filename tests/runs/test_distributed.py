"""`python -m helpers train`: the notebook's code in one or several processes, the same artifacts,
one sentence for an error.
"""

import json
import subprocess
import sys

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
