"""What is counted and timed while a model is trained."""

from types import SimpleNamespace

import pytest

import helpers.engine.watch
from helpers.engine.progress import FILE
from helpers.figures import losses_of
from helpers.training import BlockTrainer
from tests.small_training import blocks_of
from tests.test_training import trainer_of


@pytest.mark.parametrize(
    "when",
    [
        {"eval_strategy": "no"},
        {"eval_strategy": "epoch"},
        {"eval_strategy": "steps", "eval_steps": 2},
    ],
)
def test_watch_counts_tokens_and_the_seconds_of_training_alone(
    when, small_model, tmp_path, monkeypatch
):
    """By a clock that goes on by 1 in a training step and by 100 in a batch of an evaluation."""
    small_model.loss_type = "ForCausalLM"
    clock = [1000.0]
    monkeypatch.setattr(
        helpers.engine.watch,
        "time",
        SimpleNamespace(perf_counter=lambda: clock[0], monotonic=lambda: clock[0]),
    )

    def forward(model, *_):
        clock[0] += 1 if model.training else 100

    small_model.register_forward_hook(forward)
    blocks = blocks_of([15] * 8)
    settings = {"per_device_train_batch_size": 2, "num_train_epochs": 2.5, "logging_steps": 1}
    trainer = trainer_of(
        small_model, tmp_path, blocks, blocks, kind=BlockTrainer, **settings, **when
    )
    trainer.train()
    watch = trainer.watch
    assert trainer.state.global_step == 10
    assert watch.seconds == 10
    assert watch.tokens == pytest.approx(2.5 * 8 * 16)
    assert [e["step"] for e in losses_of(trainer.state) if "train_loss" in e] == list(range(1, 11))


def test_a_step_costs_the_watch_the_same_however_long_the_log_is(tmp_path, monkeypatch):
    class Log(list):
        def __iter__(self):
            pytest.fail("the whole log was read")

        def __reversed__(self):
            for number, entry in enumerate(super().__reversed__()):
                assert number < 5
                yield entry

    log = Log(
        [{"loss": 3.0, "step": 1}] * 1000
        + [{"loss": 2.0, "step": 2}, {"eval_loss": 1.0, "step": 2}]
    )
    state = SimpleNamespace(
        max_steps=4, global_step=2, epoch=0.5, best_global_step=None, log_history=log
    )
    control = SimpleNamespace(should_save=False, should_evaluate=False, should_training_stop=False)
    monkeypatch.setenv(FILE, str(tmp_path / "progress"))
    watch = helpers.engine.watch.Watch(tokens_per_epoch=100)
    watch.on_train_begin(None, state, control)
    watch.on_step_end(SimpleNamespace(world_size=1), state, control)
    assert "loss 2.00" in (tmp_path / "progress").read_text()
