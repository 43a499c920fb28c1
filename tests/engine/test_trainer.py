"""A training that is interrupted, cut or out of memory ends with the same weights."""

import errno
import json
import math
import random
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from helpers.collation import collate
from helpers.engine.trainer import COMPLETE, newest_checkpoint, runtime_arguments
from helpers.errors import ModelError, ParameterError, RunError
from helpers.figures import losses_of
from helpers.hub.sources import PROJECT
from helpers.models import load_model
from helpers.training import (
    add_lora,
)
from tests.small_models import small
from tests.small_training import made, trained, weights


@pytest.mark.parametrize(
    "settings",
    [
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
        {"activation_checkpointing": True},
    ],
)
def test_accumulated_and_checkpointed_gradients_are_those_of_the_large_batch(settings, tmp_path):
    """The last step has fewer blocks than the others, and blocks differ in their targets."""
    one, other = (
        trained(tmp_path / "a", max_steps=5, optim="sgd"),
        trained(tmp_path / "b", max_steps=5, optim="sgd", **settings),
    )
    moved = (weights(one.model) - weights(small())).norm()
    assert moved > 1e-2
    assert (weights(one.model) - weights(other.model)).norm() < 1e-5 * moved
    losses = [[float(e["loss"]) for e in t.state.log_history if "loss" in e] for t in (one, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_batch_that_does_not_fit_is_cut_with_the_same_result(accumulated, tmp_path, capsys):
    settings = {"optim": "sgd", "max_steps": 4, "gradient_accumulation_steps": accumulated}
    right, model, calls = trained(tmp_path / "a", **settings), small(), []

    def scarce(module, given, output):
        calls.append(len(output.last_hidden_state))
        if len(output.last_hidden_state) > 1 and module.training and len(calls) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")

    model.transformer.register_forward_hook(scarce)
    found = trained(tmp_path / "b", model, **settings)
    assert found.pieces == 4 and "cut into 4 parts" in capsys.readouterr().out
    moved = (weights(right.model) - weights(small())).norm()
    assert (weights(right.model) - weights(found.model)).norm() < 1e-5 * moved


def test_a_block_that_does_not_fit_is_said(tmp_path):
    model = small()

    def scarce(module, *_):
        if module.training:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    model.transformer.register_forward_hook(scarce)
    with pytest.raises(ModelError, match="Not even one block.*block_size.*lora_rank"):
        trained(tmp_path, model)


def test_of_several_processes_none_cuts_its_batches(tmp_path, monkeypatch):
    """The others would wait in a collective for ever."""
    model = small()

    def scarce(module, given, output):
        if module.training and len(output.last_hidden_state) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    model.transformer.register_forward_hook(scarce)
    trainer = made(tmp_path, model)
    monkeypatch.setattr(TrainingArguments, "world_size", 2)
    with pytest.raises(
        ModelError,
        match="batch of 4 blocks.*each of 2 processes: lower per_device_train_batch_size",
    ):
        trainer.train()
    assert trainer.pieces == 1


@pytest.mark.parametrize("rank", ["0", "1"])
def test_each_of_several_processes_loads_its_model_onto_its_own_gpu(rank, monkeypatch):
    """The device is chosen first: a product, or a query of free memory, takes the current one."""
    happened = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda, "set_device", lambda index: happened.append(f"chosen cuda:{index}")
    )
    monkeypatch.setattr(GPT2LMHeadModel, "to", lambda self, place: happened.append(f"to {place}"))
    monkeypatch.setenv("LOCAL_RANK", rank)
    load_model("embedded")
    assert happened == [f"chosen cuda:{rank}", f"to cuda:{rank}"]


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(ParameterError, match="nproc is 4: .* this machine has 2"):
        load_model("embedded")


def test_a_gradient_that_is_not_a_number_stops_before_it_is_in_the_weights(tmp_path):
    model, steps = small(), []

    def poison(gradient):
        steps.append(1)
        return gradient * (math.nan if len(steps) == 9 else 1)

    model.transformer.wpe.weight.register_hook(poison)
    with pytest.raises(
        ModelError, match="norm of the gradients is nan at step 9.*learning_rate, which is 0.01"
    ):
        trained(tmp_path, model)
    assert torch.isfinite(weights(model)).all()
    assert newest_checkpoint(tmp_path / "checkpoints").name == "checkpoint-6"


PROGRAM = [sys.executable, "-m", "tests.small_training"]
DROPOUT = {
    "num_train_epochs": 4,
    "per_device_train_batch_size": 4,
    "dropout": 0.1,
    "load_best_model_at_end": True,
}


def start(folder, prefix=PROGRAM, **settings):
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [*prefix, str(folder), json.dumps(settings)],
        cwd=PROJECT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(folder, **settings):
    process = start(folder, **settings)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    return load_file(folder / "weights.safetensors"), json.loads(
        (folder / "losses.json").read_text()
    )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return finish(tmp_path_factory.mktemp("whole") / "a", **DROPOUT)


def same(found, right):
    assert found[0].keys() == right[0].keys() and all(
        torch.equal(found[0][name], right[0][name]) for name in right[0]
    )
    assert found[1] == right[1]


def at_step(process, folder, step):
    while process.poll() is None and not (
        (folder / "step").exists() and int((folder / "step").read_text() or 0) >= step
    ):
        time.sleep(0.005)


@pytest.mark.parametrize(
    "moment", [0, *(pytest.param(n, marks=pytest.mark.full) for n in range(1, 20))]
)
def test_a_training_that_is_killed_ends_with_the_same_weights(moment, tmp_path, uninterrupted):
    """A checkpoint takes longer than a step, so that many kills come while one is written."""
    rng = random.Random(moment)
    process = start(tmp_path / "run", **DROPOUT, save_every=0, slow=0.02)
    at_step(process, tmp_path / "run", rng.randrange(1, 44))
    time.sleep(rng.random() * 0.1)
    process.kill()
    process.communicate()
    same(finish(tmp_path / "run", **DROPOUT, save_every=0), uninterrupted)


@pytest.mark.parametrize(
    "numbers",
    [
        [signal.SIGTERM],
        pytest.param([signal.SIGINT], marks=pytest.mark.full),
        pytest.param([signal.SIGINT, signal.SIGTERM], marks=pytest.mark.full),
    ],
)
def test_an_interrupted_training_saves_first(numbers, tmp_path, uninterrupted):
    process = start(tmp_path / "run", **DROPOUT, slow=0.05)
    at_step(process, tmp_path / "run", 17)
    for number in numbers:  # torchrun sends the second where the first takes its time
        process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1 and "interrupted: saved at step" in said
    step = int(said.split("saved at step ")[1].split(";")[0])
    assert (
        step in (17, 18, 19, 20)
        and newest_checkpoint(tmp_path / "run" / "checkpoints").name == f"checkpoint-{step}"
    )
    same(finish(tmp_path / "run", **DROPOUT), uninterrupted)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_a_signal_to_all_processes_of_a_training_saves_first(tmp_path):
    """As from a queue of jobs whose time is up; other processes make the batches."""
    process = start(tmp_path / "run", **DROPOUT, slow=0.05, dataloader_num_workers=2)
    at_step(process, tmp_path / "run", 7)
    workers = psutil.Process(process.pid).children()
    assert len(workers) >= 2
    for one in (*workers, process):
        one.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1 and "interrupted: saved at step" in said
    assert not any(worker.is_running() for worker in workers)


class Strike(TrainerCallback):
    """Interrupts at the end of these steps, as Ctrl-C does."""

    def __init__(self, *steps):
        self.steps = set(steps)

    def on_step_end(self, args, state, control, **kwargs):
        """Once for each."""
        if state.global_step in self.steps:
            self.steps.remove(state.global_step)
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("again", "bf16", "adapters"),
    [
        ("the same trainer", True, False),
        ("another trainer", True, True),
        ("another process", False, False),
    ],
)
def test_the_cell_can_be_run_again_after_an_interruption(again, bf16, adapters, tmp_path):
    """Interrupted twice, not at steps of the log: the same losses and weights, to the last bit."""

    def net():
        return add_lora(small(dropout=0.1), 4) if adapters else small(dropout=0.1)

    settings = {"logging_steps": 3, "load_best_model_at_end": True, "bf16": bf16}
    torch.manual_seed(7)
    right = trained(tmp_path / "a", net(), **settings)
    torch.manual_seed(7)
    strike = Strike(2, 10)
    trainer = made(tmp_path / "b", net(), [strike], **settings)
    for step in (2, 10):
        with pytest.raises(KeyboardInterrupt, match=f"saved at step {step};"):
            trainer.train()
        if again != "the same trainer":
            model = trainer.model if again == "another trainer" else net()
            trainer = made(tmp_path / "b", model, [strike], **settings)
    began = time.perf_counter()
    trainer.train()
    assert 0 < trainer.watch.seconds < time.perf_counter() - began
    assert losses_of(trainer.state) == losses_of(right.state)
    assert torch.equal(weights(trainer.model), weights(right.model))
    assert trainer.watch.tokens == pytest.approx(trainer.watch.tokens_per_epoch * 2 / 6)


def test_a_training_that_is_resumed_does_not_read_again_what_it_has_learned(tmp_path):
    rows = []
    trainer = made(tmp_path, small(), [Strike(4)])
    trainer.data_collator = lambda blocks: rows.append(len(blocks)) or collate(blocks)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert len(rows) <= 5  # one batch is made ahead
    rows.clear()
    trainer.train()
    assert len(rows) == 8 == trainer.state.max_steps - 4


def test_weights_that_have_moved_are_not_trained_as_if_they_had_not(tmp_path):
    class Broken(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise KeyboardInterrupt  # the second Ctrl-C

    trainer = made(tmp_path, callbacks=[Broken()])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    with pytest.raises(
        RunError, match="before its first checkpoint.*from the cell that loads the model"
    ):
        trainer.train()


def test_a_checkpoint_that_is_not_whole_is_removed(tmp_path):
    for step, whole in ((8, True), (9, False), (10, True), (11, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if whole:
            (tmp_path / f"checkpoint-{step}" / COMPLETE).touch()
    assert newest_checkpoint(tmp_path).name == "checkpoint-10"
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoint-8", "checkpoint-10"}
    assert newest_checkpoint(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("write failed", OSError(errno.ENOSPC, "No space left on device")),
        (
            "[enforce fail at inline_container.cc:672] . unexpected pos 12072704 vs 12072592",
            None,
        ),  # of torch.save
    ],
)
def test_a_full_disk_is_said_and_the_last_checkpoint_stays(said, cause, tmp_path, monkeypatch):
    right = trained(tmp_path / "a")
    save, times = Trainer._save_optimizer_and_scheduler, []

    def full(self, folder):
        times.append(1)
        if len(times) == 2:
            raise RuntimeError(said) from cause
        save(self, folder)

    monkeypatch.setattr(Trainer, "_save_optimizer_and_scheduler", full)
    with pytest.raises(
        RunError,
        match="The disk is full: make room, and the same command goes on from checkpoint-6",
    ):
        trained(tmp_path / "b")
    found = trained(tmp_path / "b")
    assert torch.equal(weights(found.model), weights(right.model))


def test_two_processes_learn_what_one_does(tmp_path):
    """DistributedDataParallel over gloo: the same global batch, the same losses."""
    settings = {"num_train_epochs": 2, "per_device_train_batch_size": 4}
    _, one = finish(tmp_path / "one", **settings)
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "tests.small_training",
    ]
    process = start(tmp_path / "two", launcher, **settings | {"per_device_train_batch_size": 2})
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    two = json.loads((tmp_path / "two" / "losses.json").read_text())
    assert [e["step"] for e in one] == [e["step"] for e in two] and len(one) > 20
    for a, b in zip(one, two, strict=True):
        for name in a.keys() & {"train_loss", "validation_loss"}:
            assert a[name] == pytest.approx(b[name], rel=1e-4)


def test_what_cannot_be_had_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ParameterError, match="report_to is 'trackio'.*pip install trackio"):
        runtime_arguments(tmp_path, small(), "float32", "trackio")
    with pytest.raises(ParameterError, match="fsdp is True: it needs several GPUs"):
        runtime_arguments(tmp_path, small(), "float32", fsdp=True)


def test_tensorboard_gets_the_losses(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "")
    folder = tmp_path / "unfinished" / "checkpoints"
    trained(
        tmp_path / "unfinished",
        max_steps=2,
        **{k: v for k, v in runtime_arguments(folder, small(), "float32", "tensorboard").items()},
    )
    assert list((folder / "tensorboard").glob("events*"))
