"""What is seen and kept while a model is trained: progress, checkpoints, and what the model writes by now."""

import time
from typing import TYPE_CHECKING

from transformers import TrainerCallback

from helpers.engine.progress import Progress
from helpers.generation import continue_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAVE_EVERY = 60.0  # seconds between two checkpoints


class Watch(TrainerCallback):
    """Shows progress, asks for a checkpoint every minute, and keeps the tokens and seconds of the training alone.

    Where `stop` is set, training ends after the step that is being done, with a checkpoint.
    """

    def __init__(self, tokens_per_epoch: int):
        self.tokens_per_epoch, self.seconds, self.tokens = tokens_per_epoch, 0.0, 0.0
        self.stop = False
        self.micro_step = 0  # batches since the last step of the optimizer
        self._bar: Progress | None = None
        self._began = self._saved = self._epoch = 0.0

    def saved(self) -> None:
        """A checkpoint has been written."""
        self._saved = time.perf_counter()

    def on_train_begin(self, args, state, control, **kwargs):
        """Start the bar and the clock."""
        self._bar = Progress(state.max_steps, "steps")
        self._bar.resume(state.global_step)
        self._epoch, self.seconds, self.micro_step = state.epoch or 0.0, 0.0, 0
        self._began = self._saved = time.perf_counter()
        if state.best_global_step:  # the folder may have been moved since
            state.best_model_checkpoint = f"{args.output_dir}/checkpoint-{state.best_global_step}"

    def on_step_begin(self, args, state, control, **kwargs):
        """The clock goes on after an evaluation."""
        self._began = self._began or time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        """One step more."""
        self.micro_step = 0
        self._bar.advance(1, self._note(state))
        stop, due = self.stop, time.perf_counter() - self._saved > SAVE_EVERY
        if args.world_size > 1:
            due, stop = _any(due), _any(stop)
        self.stop = stop
        control.should_save |= (due or stop) and self._within_epoch(state)
        control.should_training_stop |= stop
        if control.should_evaluate or control.should_save:
            self._pause(state)

    def on_epoch_end(self, args, state, control, **kwargs):
        """An evaluation may follow; not where training stops in the middle."""
        self._pause(state)
        if self.stop and self._within_epoch(state):
            control.should_evaluate = control.should_save = False

    def on_train_end(self, args, state, control, **kwargs):
        """Take the bar away."""
        self._pause(state)
        self._bar.close()

    @staticmethod
    def _within_epoch(state) -> bool:
        """Whether more steps of the epoch are to come: at its end, a checkpoint must not be written before the evaluation."""
        return bool(state.epoch % 1) and state.global_step < state.max_steps

    def _pause(self, state) -> None:
        if self._began:
            self.seconds += time.perf_counter() - self._began
            self._began = 0.0
        self.tokens = self.tokens_per_epoch * ((state.epoch or 0.0) - self._epoch)

    def _note(self, state) -> str:
        import psutil
        import torch

        last = next((e["loss"] for e in reversed(state.log_history) if "loss" in e), None)
        tokens = self.tokens_per_epoch * ((state.epoch or 0.0) - self._epoch)
        seconds = self.seconds + time.perf_counter() - (self._began or time.perf_counter())
        used = (
            torch.cuda.max_memory_allocated()
            if torch.cuda.is_available()
            else psutil.Process().memory_info().rss
        )
        loss = "" if last is None else f"loss {float(last):.2f}, "
        return f"{loss}{tokens / max(seconds, 1e-9):,.0f} tokens/s, {used / 1e9:.1f} GB"


def _any(flag: bool) -> bool:
    """Whether it is so in any of the processes."""
    from accelerate.utils import gather_object

    return any(gather_object([flag]))


class Samples(TrainerCallback):
    """Prints how the model continues a prompt, before the training and after each evaluation; the training is the same without."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", prompt: str, max_new_tokens: int = 24):
        self.tokenizer, self.prompt, self.max_new_tokens = tokenizer, prompt, max_new_tokens

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        """What the base model writes."""
        if not state.global_step:
            self._write(state, model)

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        """What it writes by now."""
        self._write(state, model)

    def _write(self, state, model) -> None:
        text = continue_text(model, self.tokenizer, self.prompt, self.max_new_tokens)
        if state.is_world_process_zero:
            print(f"step {state.global_step}: {' '.join(text.split())} …")
