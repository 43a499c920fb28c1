"""A training's progress and speed, and when it saves a checkpoint."""

import time

from transformers import TrainerCallback

from helpers.engine.panel import Panel
from helpers.engine.progress import Progress, is_watched

SAVE_EVERY = 60.0  # seconds between two checkpoints


class Watch(TrainerCallback):
    """Shows progress and requests a checkpoint every minute.

    Attributes:
        seconds, tokens: Time and tokens of the training, without evaluations.
        stop: If set, training ends after the current step, with a checkpoint.
        micro_step: Batches since the last step of the optimizer.
    """

    def __init__(self, tokens_per_epoch: int):
        self.tokens_per_epoch, self.seconds, self.tokens = tokens_per_epoch, 0.0, 0.0
        self.stop, self.micro_step = False, 0
        self._bar: Progress | None = None
        self._panel: Panel | None = None
        self._began = self._saved = self._epoch = 0.0

    def show_panel(self, base_loss: float, part: str) -> None:
        """Show a panel in place of the bar, where a person has the notebook open.

        Args:
            base_loss: The loss on the evaluated part before the first step.
            part: What the training is evaluated on, in a word.
        """
        self._panel = Panel(base_loss, part) if is_watched() else None

    def saved(self) -> None:
        """Restart the time to the next checkpoint."""
        self._saved = time.perf_counter()

    def on_train_begin(self, args, state, control, **kwargs):
        """Show the progress and start the timer."""
        if self._panel:
            self._panel.begin(state, args.num_train_epochs)
        else:
            self._bar = Progress(state.max_steps, "steps")
            self._bar.resume(state.global_step)
        self._epoch, self.seconds, self.micro_step = state.epoch or 0.0, 0.0, 0
        self._began = self._saved = time.perf_counter()
        if state.best_global_step:  # the folder may have been moved since
            state.best_model_checkpoint = f"{args.output_dir}/checkpoint-{state.best_global_step}"

    def on_step_begin(self, args, state, control, **kwargs):
        """Restart the timer after an evaluation."""
        self._began = self._began or time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        """Show the progress; save and stop if it is time to."""
        self.micro_step = 0
        if self._panel is None:
            self._bar.advance(1, self._note(state))
        elif self._panel.is_due():
            self._panel.show(state, self._speed(state), _memory())
        stop, due = self.stop, time.perf_counter() - self._saved > SAVE_EVERY
        if args.world_size > 1:
            due, stop = _in_any_process(due), _in_any_process(stop)
        self.stop = stop
        control.should_save |= (due or stop) and self._within_epoch(state)
        control.should_training_stop |= stop
        if control.should_evaluate or control.should_save:
            self._pause(state)

    def on_epoch_end(self, args, state, control, **kwargs):
        """Stop the timer; skip the evaluation of an epoch that is not complete."""
        self._pause(state)
        if self.stop and self._within_epoch(state):
            control.should_evaluate = control.should_save = False

    def on_train_end(self, args, state, control, **kwargs):
        """Remove the bar, or leave the panel as it is now."""
        self._pause(state)
        if self._panel is None:
            self._bar.close()
            return
        done = f"Stopped and saved at step {state.global_step:,}: run the cell again to go on"
        if not self.stop:
            done = "Done" if state.global_step >= state.max_steps else "Stopped early"
        self._panel.show(state, self._speed(state), _memory(), done)

    @staticmethod
    def _within_epoch(state) -> bool:
        """Whether more steps of the epoch follow; at its end, the evaluation comes first."""
        return bool(state.epoch % 1) and state.global_step < state.max_steps

    def _pause(self, state) -> None:
        if self._began:
            self.seconds += time.perf_counter() - self._began
            self._began = 0.0
        self.tokens = self.tokens_per_epoch * ((state.epoch or 0.0) - self._epoch)

    def _speed(self, state) -> float:
        """Tokens per second of this attempt, without evaluations."""
        tokens = self.tokens_per_epoch * ((state.epoch or 0.0) - self._epoch)
        seconds = self.seconds + time.perf_counter() - (self._began or time.perf_counter())
        return tokens / max(seconds, 1e-9)

    def _note(self, state) -> str:
        last = next((e["loss"] for e in reversed(state.log_history) if "loss" in e), None)
        loss = "" if last is None else f"loss {float(last):.2f}, "
        return f"{loss}{self._speed(state):,.0f} tokens/s, {_memory() / 1e9:.1f} GB"


def _memory() -> int:
    """The bytes that the model's device, or else this process, uses."""
    import psutil
    import torch

    cuda = torch.cuda.is_available()
    return torch.cuda.max_memory_allocated() if cuda else psutil.Process().memory_info().rss


def _in_any_process(flag: bool) -> bool:
    """Whether the flag is set in any of the processes that train together."""
    from accelerate.utils import gather_object

    return any(gather_object([flag]))
