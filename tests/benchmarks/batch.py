"""What the runner itself costs, and what trainings beside each other: `python -m
tests.benchmarks.batch`.

One run of the six notebooks on the embedded default, and the sweep that chose its learning rate and
epochs, in empty folders. The work of a run is what its cells take, as papermill has measured it;
the rest of the command's time is the runner's. With `one` after the command, the run alone is
measured; with `beside`, one, two and three processes that train the embedded model at once.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from helpers.hub.sources import PROJECT
from tests.benchmarks.results import record, table

SWEEP = PROJECT / "notebooks" / "profiles" / "sweep-tiny.yaml"
JOBS = 2
WINDOW = 20.0  # seconds in which the tokens of trainings beside each other are counted
# as the package sets it, and what the OpenMP libraries do by themselves
SPINNING = {"as set": {}, "by default": {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"}}


def timed(*arguments: str) -> float:
    """Seconds that a command takes."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "helpers", *arguments],
        cwd=PROJECT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - began


def cells(folder: Path) -> float:
    """Seconds that the cells of the notebooks below a folder took; those that runs share, which are
    links to one file, counted once.
    """
    found = 0.0
    for path in {path.stat().st_ino: path for path in folder.rglob("0*.ipynb")}.values():
        for cell in json.loads(path.read_text())["cells"]:
            found += cell["metadata"].get("papermill", {}).get("duration") or 0.0
    return found


def train_in_window(seconds: float) -> None:
    """Train the embedded model; once warm, say "ready", wait for a line, and print the tokens per
    second from then on.
    """
    import numpy as np
    from datasets import Dataset
    from transformers import TrainerCallback, TrainingArguments

    from helpers.collation import collate
    from helpers.engine.trainer import runtime_arguments
    from helpers.models import load_model
    from helpers.training import BlockTrainer

    batch, length, warm = 8, 128, 5

    class Window(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == warm:
                print("ready", flush=True)
                sys.stdin.readline()
                self.began = time.perf_counter()
            elif state.global_step > warm and (spent := time.perf_counter() - self.began) > seconds:
                print((state.global_step - warm) * batch * length / spent)
                control.should_training_stop = True

    model, rng = load_model("embedded"), np.random.default_rng(0)
    ids = rng.integers(1, model.config.vocab_size, (2000 * batch, length)).astype(np.int32)
    blocks = Dataset.from_dict(
        {"input_ids": list(ids), "position_ids": [list(range(length))] * len(ids)}
    )
    with tempfile.TemporaryDirectory() as folder:
        settings = runtime_arguments(Path(folder), model, "bfloat16") | {"logging_strategy": "no"}
        arguments = TrainingArguments(
            **settings, per_device_train_batch_size=batch, save_strategy="no"
        )
        BlockTrainer(
            model, arguments, train_dataset=blocks, data_collator=collate, callbacks=[Window()]
        ).train()


def beside(number: int, environment: dict[str, str]) -> list[float]:
    """Tokens per second of each of so many trainings at once."""
    command = [sys.executable, "-m", "tests.benchmarks.batch", "train"]
    pipes = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.DEVNULL,
        "text": True,
    }
    env = {**os.environ, **environment}
    processes = [subprocess.Popen(command, cwd=PROJECT, env=env, **pipes) for _ in range(number)]
    for process in processes:
        while process.stdout.readline().strip() != "ready":
            assert process.poll() is None, "a training has failed"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    return [float(process.communicate()[0].split()[0]) for process in processes]


def measure_beside() -> None:
    """Measure one, two and three trainings at once, and write their section of RESULTS.md."""
    rows = []
    for number in (1, 2, 3):
        row = {"trainings at once": number}
        for name, environment in SPINNING.items():
            row[name] = ", ".join(f"{speed:,.0f}" for speed in beside(number, environment))
        rows.append(row)
    text = (
        f"`make bench-batch`. Tokens per second of each, in the same {WINDOW:g} seconds; the "
        "embedded model in bfloat16."
    )
    record("Trainings beside each other", f"{text}\n\n{table(rows)}")


def measure_one() -> None:
    """Measure one run and the same again, and write their section of RESULTS.md."""
    with tempfile.TemporaryDirectory() as temporary:
        one = timed("run", "--run-dir", temporary)
        own = one - cells(Path(temporary))
        again = timed("run", "--run-dir", temporary)
    rows = [
        {"": "one run", "seconds": f"{one:.1f}", "of the runner": f"{own:.1f}"},
        {
            "": "the same again, with nothing to do",
            "seconds": f"{again:.1f}",
            "of the runner": f"{again:.1f}",
        },
    ]
    record("One run", f"`make bench-batch`, profile `tiny`.\n\n{table(rows)}")


def measure_sweep() -> None:
    """Measure the sweep, and write its section of RESULTS.md."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        seconds = timed("sweep", str(SWEEP), "--sweep-dir", temporary, "--jobs", str(JOBS))
        own = seconds - cells(folder) / JOBS
        records = [json.loads(path.read_text()) for path in sorted(folder.glob("*/run.json"))]
    chosen = [
        {
            "learning rate": f"{record['parameters']['train']['learning_rate']:g}",
            "epochs": f"{record['parameters']['train']['num_train_epochs']:g}",
            "perplexity on validation": f"{record['metrics']['perplexity_validation']:.2f}",
        }
        for record in records
    ]
    work = sum(r["metrics"]["seconds_train"] + r["metrics"]["seconds_evaluate"] for r in records)
    text = (
        f"`make bench-batch`. A sweep of {len(records)} runs, {JOBS} at once, took {seconds:.0f} "
        f"seconds. Training and evaluation took {work:,.0f} seconds in all; the sweep "
        f"took {seconds / (work / JOBS):.2f} times that, divided by {JOBS}. "
        f"The runner's own part of it is {own / seconds:.1%}: all that is not in a cell, "
        f"and {JOBS - 1} of {JOBS} waiting for the last run.\n\n{table(chosen)}"
    )
    record("A sweep", text)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["train"]:
            train_in_window(WINDOW)
        case ["one"]:
            measure_one()
        case ["beside"]:
            measure_beside()
        case _:
            measure_one()
            measure_sweep()
            measure_beside()
