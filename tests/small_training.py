"""A small training as a program, for the tests that kill it, interrupt it, or run several of it:
`python -m tests.small_training FOLDER JSON`.

JSON: settings of TrainingArguments; `save_every` seconds between checkpoints; `slow` seconds more
for each step; `device`. Leaves weights.safetensors and losses.json in FOLDER, and checkpoints while
it runs.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from safetensors.torch import save_file
from transformers import TrainerCallback, TrainingArguments

import helpers.engine.watch
from helpers.chunking import chunk
from helpers.collation import collate
from helpers.engine.trainer import runtime_arguments
from helpers.errors import UserError
from helpers.figures import losses_of
from helpers.training import BlockTrainer
from tests.small_models import small

LENGTHS = [15, 3, 9, 12, 15, 4] * 4


def blocks_of(lengths, block_size=16, strategy="document", seed=1):
    """Blocks of random documents of these lengths, an end of text after each."""
    rng = np.random.default_rng(seed)
    documents = Dataset.from_dict({"input_ids": [rng.integers(1, 63, n).tolist() for n in lengths]})
    return chunk(DatasetDict(train=documents), block_size, 0, strategy)[0]["train"]


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def trained(folder, model=None, callbacks=(), **settings):
    """A trainer that has trained for 2 epochs, or as the settings say."""
    trainer = made(folder, model, callbacks, **settings)
    trainer.train()
    return trainer


def made(folder, model=None, callbacks=(), **settings):
    """The same before it trains."""
    model, blocks = model or small(), blocks_of(LENGTHS)
    rest = {
        "num_train_epochs": 2,
        "learning_rate": 1e-2,
        "per_device_train_batch_size": 4,
        "eval_strategy": "epoch",
    }
    arguments = (
        runtime_arguments(folder / "checkpoints", model, "float32")
        | {"logging_steps": 1, "save_strategy": "epoch"}
        | rest
        | settings
    )
    return BlockTrainer(
        model,
        TrainingArguments(**arguments),
        train_dataset=blocks,
        eval_dataset=blocks,
        data_collator=collate,
        callbacks=list(callbacks),
    )


class Slow(TrainerCallback):
    """Time for a test to strike."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def on_step_end(self, args, state, control, **kwargs):
        """Wait, and say where the training is."""
        time.sleep(self.seconds)
        if state.is_world_process_zero:
            (Path(args.output_dir).parent / "step").write_text(str(state.global_step))


def main(folder: Path, settings: dict) -> None:
    """Train, and write what came of it."""
    torch.set_num_threads(1)
    helpers.engine.watch.SAVE_EVERY = settings.pop("save_every", 60.0)
    slow, model = settings.pop("slow", 0.0), small(dropout=settings.pop("dropout", 0.0))
    model.to(settings.pop("device", "cpu"))
    blocks = blocks_of([15, 3, 9, 12, 15, 4] * 8)
    rest = {"eval_strategy": "epoch", "save_strategy": "epoch", "learning_rate": 1e-2} | settings
    arguments = TrainingArguments(
        **(
            runtime_arguments(folder / "checkpoints", model, "float32")
            | {"logging_steps": 1}
            | rest
        )
    )
    trainer = BlockTrainer(
        model,
        arguments,
        train_dataset=blocks,
        eval_dataset=blocks.select(range(4)),
        data_collator=collate,
        callbacks=[Slow(slow)],
    )
    trainer.train()
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.is_world_process_zero():
        save_file(
            {n: w.contiguous().clone() for n, w in weights.items() if n != "lm_head.weight"},
            folder / "weights.safetensors",
        )
        (folder / "losses.json").write_text(json.dumps(losses_of(trainer.state)))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), json.loads(sys.argv[2]))
    except UserError as error:
        sys.exit(str(error))
    except KeyboardInterrupt as error:
        sys.exit(f"interrupted: {error}")
