"""Trainer with checkpoints at Ctrl-C, resumption, smaller batches."""

import errno
import importlib.util
import json
import math
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import Trainer

from helpers.engine.arrow import count_tokens
from helpers.engine.files import flush
from helpers.engine.memory import keep_memory
from helpers.engine.progress import no_bars
from helpers.engine.watch import Watch
from helpers.errors import ModelError, ParameterError, RunError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

COMPLETE = "complete"  # marks a checkpoint that is whole and on the disk


class Stopped(KeyboardInterrupt):
    """A training that was interrupted, and has saved a checkpoint."""

    def _render_traceback_(self) -> list[str]:
        """What IPython prints in place of a traceback."""
        return [f"Stopped: {self}"]


class ResumableTrainer(Trainer):
    """A Trainer that resumes by itself, and stops at a loss that is not a number.

    - `train` resumes from the last whole checkpoint in `output_dir`, and ends with the same weights
      as without the interruption. Ctrl-C, and a signal to end, save a checkpoint first.
    - A batch that does not fit into memory is cut into halves, whose gradients are added up: the
      result is the same. Among several processes that train together, it is an error.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.watch = Watch(tokens_per_epoch=count_tokens(self.train_dataset))
        self.add_callback(self.watch)
        self.pieces = 1  # number of parts that a batch is cut into
        self._batches: list[dict[str, torch.Tensor]] = []  # since the last step of the optimizer

    def train(self, *args, **kwargs):
        """Train to the end, from the last checkpoint on; can be called again after an interruption.

        Raises:
            RunError: if the disk is full.
            ModelError: for a loss that is not a number, or a block that does not fit into memory.
        """
        folder, main_process = Path(self.args.output_dir), self.is_world_process_zero()
        last = newest_checkpoint(folder, tidy=main_process)
        if last is None and self.state.global_step:
            raise RunError(
                "The training was ended before its first checkpoint, and the weights have changed: "
                "run the notebook again from the cell that loads the model."
            )
        self.watch.stop, self.model_wrapped = False, self.model
        keep_memory()
        try:
            with self._signals(), no_bars():
                output = super().train(*args, resume_from_checkpoint=last and str(last), **kwargs)
        except Exception as error:
            if not _disk_is_full(error):
                raise
            last = newest_checkpoint(folder, tidy=main_process)
            raise RunError(
                "The disk is full: make room, and the same command goes on from "
                f"{last.name if last else 'the beginning'}."
            ) from None
        if self.watch.stop:
            step = self.state.global_step
            raise Stopped(f"saved at step {step}; the same cell or command goes on from there")
        return output

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Forward and backward, in more and smaller parts if memory does not suffice."""
        from accelerate.utils.memory import should_reduce_batch_size

        self._batches = [*(self._batches if self.watch.micro_step else []), inputs]
        self.watch.micro_step += 1
        step, pending = super().training_step, [inputs]
        while True:
            try:
                for batch in pending:
                    parts = self._parts(batch)
                    loss = sum(step(model, p, num_items_in_batch) for p in parts)
                break
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
            self._cut_further(*inputs["input_ids"].shape)
            model.zero_grad()
            pending = self._batches  # all of them, since a backward pass may be incomplete
        if not math.isfinite(loss):
            self._stop(f"training loss is {float(loss)}", f" (batch {self.watch.micro_step} of it)")
        return loss

    def get_train_dataloader(self):
        """The batches; processes that make them leave a signal to end to this one."""
        loader = super().get_train_dataloader()
        inner = getattr(loader, "base_dataloader", loader)  # accelerate wraps it
        inner.worker_init_fn = partial(_start_worker, inner.worker_init_fn)
        return loader

    def _parts(self, batch: dict[str, "torch.Tensor"]) -> list[dict[str, "torch.Tensor"]]:
        rows = [value.tensor_split(min(self.pieces, len(value))) for value in batch.values()]
        return [dict(zip(batch, row, strict=True)) for row in zip(*rows, strict=True)]

    def _cut_further(self, blocks: int, length: int) -> None:
        """Double the number of parts; ModelError if that is impossible."""
        if self.args.world_size > 1:  # the others would wait for gradients in vain
            raise ModelError(
                f"A batch of {blocks} blocks does not fit into the memory of each of "
                f"{self.args.world_size} processes: lower per_device_train_batch_size, and raise "
                "gradient_accumulation_steps for it."
            )
        if self.pieces >= blocks:
            raise ModelError(
                f"Not even one block of {length} tokens fits into memory: choose a smaller "
                "block_size or model, or set gradient_checkpointing or lora_rank."
            )
        self.pieces *= 2
        print(
            f"A batch of {blocks} blocks does not fit into memory: it is cut into {self.pieces} "
            "parts, with the same result."
        )

    def _clip_grad_norm(self, model):
        norm = super()._clip_grad_norm(model)
        if not math.isfinite(norm):  # before it gets into the weights
            self._stop(f"norm of the gradients is {float(norm)}", "")
        return norm

    def _stop(self, problem: str, place: str) -> None:
        rate = self.args.learning_rate
        raise ModelError(
            f"The {problem} at step {self.state.global_step + 1}{place}: lower learning_rate, "
            f"which is {rate:g}."
        )

    def _save_checkpoint(self, model, trial):
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.is_world_process_zero():
            (folder / COMPLETE).unlink(missing_ok=True)
        super()._save_checkpoint(model, trial)
        self.watch.saved()
        if self.is_world_process_zero():
            for path in [*folder.rglob("*"), folder]:
                flush(path)
            (folder / COMPLETE).touch()
            flush(folder)

    def _save_rng_state(self, output_dir):
        """Also save the sum of the losses since the last logged one, which each process has."""
        super()._save_rng_state(output_dir)
        losses = [float(self._tr_loss), self._globalstep_last_logged]
        self._running_loss(output_dir).write_text(json.dumps(losses), encoding="utf-8")

    def _load_rng_state(self, checkpoint):
        super()._load_rng_state(checkpoint)
        loss, self._globalstep_last_logged = json.loads(
            self._running_loss(checkpoint).read_text(encoding="utf-8")
        )
        self._tr_loss += loss
        self._total_loss_scalar -= loss  # which is of this call alone

    def _issue_warnings_after_load(self, load_result):
        """Nothing is said of weights that are not in a checkpoint because others stand for them."""
        tied = getattr(self.model, "all_tied_weights_keys", {})
        load_result.missing_keys[:] = [key for key in load_result.missing_keys if key not in tied]
        super()._issue_warnings_after_load(load_result)

    def _running_loss(self, checkpoint: str) -> Path:
        return Path(checkpoint) / f"running_loss_{self.args.process_index}.json"

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Stop after the next step at Ctrl-C or a signal to end; at once at a second Ctrl-C."""

        def handle(number: int, _) -> None:
            if self.watch.stop and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.watch.stop = True

        main = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGINT, signal.SIGTERM) if main else ()
        before = {number: signal.signal(number, handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _start_worker(start: Callable[[int], None] | None, number: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if start:
        start(number)


def newest_checkpoint(folder: Path, tidy: bool = True) -> Path | None:
    """The last whole checkpoint in a folder, or None; with `tidy`, incomplete ones are removed."""
    steps = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    whole = [path for path in steps if (path / COMPLETE).exists()]
    for path in steps if tidy else []:
        if path not in whole:
            shutil.rmtree(path)
    return whole[-1] if whole else None


def runtime_arguments(
    checkpoints: Path,
    model: "PreTrainedModel",
    dtype: str,
    report_to: str = "none",
    fsdp: bool = False,
) -> dict[str, object]:
    """The arguments of `TrainingArguments` that do not change what is learned.

    Args:
        checkpoints: The folder for checkpoints and logs.
        dtype: The precision to compute in, see `helpers.engine.speed.choose_dtype`.
        report_to: `none`, or a package that logs the losses.
        fsdp: Whether to shard the model over the GPUs of several processes.

    Raises:
        ParameterError: if the package is not installed, or there are no GPUs to shard over.
    """
    cuda = model.device.type == "cuda"
    if fsdp and (not cuda or os.environ.get("WORLD_SIZE", "1") == "1"):
        needed = "it needs several GPUs, and `python -m helpers train --nproc N` to use them"
        raise ParameterError("fsdp", fsdp, needed)
    if report_to != "none" and importlib.util.find_spec(report_to) is None:
        needed = f"that package is not installed, `pip install {report_to}` installs it"
        raise ParameterError("report_to", report_to, needed)
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(checkpoints / "tensorboard")
    os.environ["TRACKIO_DIR"] = str(checkpoints / "trackio")
    return {
        "output_dir": str(checkpoints),
        "save_total_limit": 3,  # the best, the last, and the one that is being written
        "metric_for_best_model": "loss",
        "bf16": dtype == "bfloat16",
        "use_cpu": not cuda,
        "dataloader_pin_memory": cuda,
        # a GPU must not wait for batches; other systems start such processes slowly
        "dataloader_num_workers": 2 if cuda and sys.platform == "linux" else 0,
        "logging_steps": 10,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "report_to": report_to,
        "fsdp": fsdp or None,
    }


def _disk_is_full(error: BaseException) -> bool:
    """Whether this error, or one that led to it, comes from a full disk."""
    while error is not None:
        message = str(error)
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left" in message:  # of safetensors
            return True
        if "inline_container" in message and "unexpected pos" in message:  # of torch.save
            return True
        error = error.__cause__ or error.__context__
    return False
