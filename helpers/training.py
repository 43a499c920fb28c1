"""What the guide's `Trainer` needs around it: the precision that is fastest here, losses that are right, a record."""

import math
import time
from typing import TYPE_CHECKING

import numpy as np
from transformers import TrainerCallback

from helpers.chunking import IGNORED
from helpers.errors import ModelError, ParameterError
from helpers.progress import Progress
from helpers.scoring import row_nats

if TYPE_CHECKING:
    import torch
    from transformers import EvalPrediction, PreTrainedTokenizerBase, Trainer


def choose_dtype(compute_dtype: str = "auto") -> str:
    """`float32` or `bfloat16`: what to compute in, the weights being float32 in either case.

    `auto` is bfloat16 on a GPU that has it; on a CPU it is bfloat16 if a matrix product is at least 1.5 times as fast in it as in
    float32, measured here and now: a processor that lists the instructions need not be any faster with them.
    Raises ParameterError for bfloat16 on a GPU without it.
    """
    import torch

    if torch.cuda.is_available():
        if compute_dtype == "bfloat16" and not torch.cuda.is_bf16_supported():
            raise ParameterError("compute_dtype", compute_dtype, "this GPU has no bfloat16, use 'float32'")
        return (
            ("bfloat16" if torch.cuda.is_bf16_supported() else "float32") if compute_dtype == "auto" else compute_dtype
        )
    if compute_dtype != "auto":
        return compute_dtype
    return "bfloat16" if _seconds(torch.float32) > 1.5 * _seconds(torch.bfloat16) else "float32"


def _seconds(dtype: "torch.dtype", size: int = 768) -> float:
    """The best of five products of two square matrices."""
    import torch

    a = torch.ones(size, size, dtype=dtype)
    times = []
    for _ in range(6):
        began = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - began)
    return min(times[1:])


def check_tokenizers_agree(made_with: "PreTrainedTokenizerBase", model: str, own: "PreTrainedTokenizerBase") -> None:
    """ModelError if the tokens of step `preprocess` were not made with the tokenizer that `model` was trained with."""
    if made_with.get_vocab() != own.get_vocab():
        raise ModelError(
            f"train.model is {model!r}, but the tokens were made with another model's tokenizer: set preprocess.model to {model!r} too (-p model={model})."
        )


def sum_by_row(logits: "torch.Tensor | tuple", labels: "torch.Tensor") -> "torch.Tensor":
    """For `preprocess_logits_for_metrics`: (rows, 2), the nats and the number of targets of each row, in place of its logits."""
    import torch

    logits = logits[0] if isinstance(logits, tuple) else logits
    targets = labels[:, 1:]
    return torch.stack([row_nats(logits[:, :-1], targets), (targets != IGNORED).sum(1).double()], dim=1)


def mean_by_token(prediction: "EvalPrediction") -> dict[str, float]:
    """For `compute_metrics`: the evaluation loss, every token with the same weight; stops if it is not a number."""
    nats, targets = np.asarray(prediction.predictions, np.float64).sum(0)
    if not math.isfinite(nats):
        row = int(np.argmin(np.isfinite(prediction.predictions[:, 0])))
        raise ModelError(f"The evaluation loss of block {row} is not a number: lower learning_rate.")
    return {"token_loss": nats / targets}


class Watch(TrainerCallback):
    """Shows progress, stops at a loss that is not a number, and keeps the tokens and seconds of the training alone."""

    def __init__(self, tokens_per_epoch: int):
        self.tokens_per_epoch, self.seconds, self.tokens = tokens_per_epoch, 0.0, 0.0
        self._bar: Progress | None = None
        self._began = 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        """Start the bar and the clock."""
        self._bar = Progress(state.max_steps, "steps")
        self._began = time.perf_counter()

    def on_step_begin(self, args, state, control, **kwargs):
        """The clock goes on after an evaluation."""
        self._began = self._began or time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        """One step more."""
        losses = [e["loss"] for e in state.log_history if "loss" in e]
        self._bar.advance(1, f"loss {float(losses[-1]):.2f}" if losses else "")
        if control.should_evaluate:
            self._pause()

    def on_epoch_end(self, args, state, control, **kwargs):
        """An evaluation may follow."""
        self._pause()

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Stop at a loss that is not a number."""
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            raise ModelError(
                f"The training loss is {loss} at step {state.global_step}: lower learning_rate, which is {args.learning_rate:g}."
            )

    def on_train_end(self, args, state, control, **kwargs):
        """Take the bar away, and count the tokens."""
        self._pause()
        self._bar.close()
        self.tokens = self.tokens_per_epoch * (state.epoch or 0.0)

    def _pause(self) -> None:
        if self._began:
            self.seconds += time.perf_counter() - self._began
            self._began = 0.0


def losses(trainer: "Trainer") -> list[dict[str, float]]:
    """The log of a training: step, epoch, and the training or evaluation loss in nats a token."""
    kept = []
    for entry in trainer.state.log_history:
        place = {"step": entry["step"], "epoch": round(float(entry["epoch"]), 4)}
        if "loss" in entry:
            kept.append(place | {"train_loss": float(entry["loss"])})
        if "eval_token_loss" in entry:
            kept.append(place | {"test_loss": float(entry["eval_token_loss"])})
    return kept
