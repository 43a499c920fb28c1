"""transformers' Trainer for blocks: losses that are right, large batches in little memory, and a kill at any moment costs little."""

import errno
import json
import math
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import Trainer

from helpers.engine.files import flush
from helpers.engine.memory import keep_memory
from helpers.engine.tiled_loss import use_tiled_loss
from helpers.engine.watch import Watch
from helpers.errors import ModelError, RunError
from helpers.perplexity import score_blocks

if TYPE_CHECKING:
    import torch

COMPLETE = "complete"  # a file in a checkpoint that is whole and on the disk


class BlockTrainer(Trainer):
    """transformers' Trainer for blocks, with four things changed.

    - Its evaluation loss is that of `score_blocks`: every token weighs the same, and one that is not a number stops.
    - Large batches get their loss tile by tile (see `use_tiled_loss`).
    - A batch that does not fit into memory is cut in halves, whose gradients are added up: the result is the same. Where several
      processes train together, it is an error.
    - `train` goes on from the last whole checkpoint in `output_dir`, if there is one, and ends with the same weights as without the
      interruption. Ctrl-C, and a signal to end, save a checkpoint first.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.watch = Watch(tokens_per_epoch=sum(map(len, self.train_dataset["input_ids"])))
        self.add_callback(self.watch)
        self.pieces = 1  # into how many parts a batch is cut
        self._since: list[
            dict[str, torch.Tensor]
        ] = []  # batches since the last step of the optimizer

    def train(self, *args, **kwargs):
        """Train to the end, from the last checkpoint on; after an interruption, it can be called again.

        Raises RunError where the disk is full, ModelError for a loss that is not a number.
        """
        folder, first = Path(self.args.output_dir), self.is_world_process_zero()
        last = newest_checkpoint(folder, tidy=first)
        if last is None and self.state.global_step:
            raise RunError(
                "The training was ended before its first checkpoint, and the weights have moved: "
                "run the notebook again from the cell that loads the model."
            )
        self.watch.stop, self.model_wrapped = False, self.model
        net = self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model
        use_tiled_loss(net)
        keep_memory()
        try:
            with self._signals():
                done = super().train(*args, resume_from_checkpoint=last and str(last), **kwargs)
        except Exception as error:
            if not _disk_is_full(error):
                raise
            kept = newest_checkpoint(folder, tidy=first)
            raise RunError(
                f"The disk is full: make room, and the same command goes on from {kept.name if kept else 'the beginning'}."
            ) from None
        finally:
            # As they were: accelerate leaves a forward that computes in bfloat16 whatever is asked for,
            # and a mark by which another training would get no such forward, and compute in float32.
            for model in (self.model, net):
                for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
                    model.__dict__.pop(name, None)
        if self.watch.stop:
            raise KeyboardInterrupt(
                f"saved at step {self.state.global_step}; the same command goes on from there"
            )
        return done

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """The loss of the test blocks, in nats a token."""
        dtype = "bfloat16" if self.args.bf16 else "float32"
        score = score_blocks(
            self.model, self.eval_dataset if eval_dataset is None else eval_dataset, dtype
        )
        metrics = {f"{metric_key_prefix}_loss": score.loss}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Forward and backward; in more and smaller parts where memory does not suffice."""
        from accelerate.utils.memory import should_reduce_batch_size

        self._since = [*(self._since if self.watch.micro_step else []), inputs]
        self.watch.micro_step += 1
        todo, blocks = [inputs], len(inputs["input_ids"])
        while True:
            try:
                for batch in todo:
                    loss = sum(
                        super(BlockTrainer, self).training_step(model, p, num_items_in_batch)
                        for p in self._cut(batch)
                    )
                break
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
            if (
                self.args.world_size > 1
            ):  # the others would wait for gradients that this one makes twice
                raise ModelError(
                    f"A batch of {blocks} blocks does not fit into the memory of each of {self.args.world_size} "
                    "processes: lower per_device_train_batch_size, and raise gradient_accumulation_steps for it."
                )
            if self.pieces >= blocks:
                raise ModelError(
                    f"Not even one block of {inputs['input_ids'].shape[1]} tokens fits into memory: "
                    "choose a smaller block_size or model, or set gradient_checkpointing or lora_rank."
                )
            self.pieces *= 2
            model.zero_grad()
            todo = self._since  # all of them again, since a backward pass may have been broken off
            print(
                f"A batch of {blocks} blocks does not fit into memory: it is cut into {self.pieces} parts, with the same result."
            )
        if not math.isfinite(loss):
            self._stop(f"training loss is {float(loss)}", f" (batch {self.watch.micro_step} of it)")
        return loss

    def _cut(self, batch: dict[str, "torch.Tensor"]) -> list[dict[str, "torch.Tensor"]]:
        rows = [value.tensor_split(min(self.pieces, len(value))) for value in batch.values()]
        return [dict(zip(batch, row, strict=True)) for row in zip(*rows, strict=True)]

    def _clip_grad_norm(self, model):
        norm = super()._clip_grad_norm(model)
        if not math.isfinite(norm):  # before it gets into the weights
            self._stop(f"norm of the gradients is {float(norm)}", "")
        return norm

    def _stop(self, what: str, where: str) -> None:
        raise ModelError(
            f"The {what} at step {self.state.global_step + 1}{where}: lower learning_rate, which is {self.args.learning_rate:g}."
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
        """Each process keeps the sum of the losses since the last that was logged, too."""
        super()._save_rng_state(output_dir)
        kept = [float(self._tr_loss), self._globalstep_last_logged]
        self._running_loss(output_dir).write_text(json.dumps(kept))

    def _load_rng_state(self, checkpoint):
        super()._load_rng_state(checkpoint)
        loss, self._globalstep_last_logged = json.loads(self._running_loss(checkpoint).read_text())
        self._tr_loss += loss
        self._total_loss_scalar -= loss  # which is of this call alone

    def _running_loss(self, checkpoint: str) -> Path:
        return Path(checkpoint) / f"running_loss_{self.args.process_index}.json"

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C and a signal to end stop after the next step, with a checkpoint; a second one stops at once."""

        def note(*_) -> None:
            if self.watch.stop:
                raise KeyboardInterrupt
            self.watch.stop = True

        main = threading.current_thread() is threading.main_thread()
        before = (
            {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)} if main else {}
        )
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def newest_checkpoint(folder: Path, tidy: bool = True) -> Path | None:
    """The last checkpoint that was written to its end, or None; with `tidy`, those that were not are removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    whole = [path for path in found if (path / COMPLETE).exists()]
    for path in found if tidy else []:
        if path not in whole:
            shutil.rmtree(path)
    return whole[-1] if whole else None


def _disk_is_full(error: BaseException) -> bool:
    """Whether this error, or one that led to it, says so; safetensors has it in words only, and torch's writer finds less than it wrote."""
    while error is not None:
        words = str(error)
        if (
            getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
            or "No space left" in words
        ):
            return True
        if "inline_container" in words and "unexpected pos" in words:
            return True
        error = error.__cause__ or error.__context__
    return False
