"""Training beside the guide's Trainer and a plain loop: `python -m tests.benchmarks.training
[cpu|cuda]`.

The same model, blocks and batch size, a fixed number of steps, each way in a process of its own.
Measured are tokens a second, without the first steps, and the peak of memory above what it is with
the model there.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    DataCollatorForLanguageModeling,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    logging,
)

from helpers.collation import collate
from helpers.engine.loaded_model import fuse_gelu
from helpers.engine.memory import keep_memory
from helpers.engine.speed import choose_dtype, peak_share
from helpers.engine.trainer import runtime_arguments
from helpers.hub.sources import EMBEDDED
from helpers.models import load_tokenizer
from helpers.training import BlockTrainer
from tests.benchmarks.products import seconds_of, shapes_of
from tests.benchmarks.results import record, table, watched

WARM = 3  # steps before the clock starts
# model: steps, blocks in a batch, tokens in a block
SHAPES = {
    "cpu": {"embedded": (40, 8, 128), "DistilGPT2's shape": (12, 8, 128)},
    "cuda": {"DistilGPT2's shape": (60, 32, 1024)},
}
Times = list[float]


def build(name: str) -> PreTrainedModel:
    """The embedded model, or one of DistilGPT2's shape with random weights (seeded)."""
    torch.manual_seed(0)
    if name == "embedded":
        model = GPT2LMHeadModel.from_pretrained(EMBEDDED["model"], dtype=torch.float32)
    else:
        model = GPT2LMHeadModel(GPT2Config(n_layer=6))
    model.config.use_cache = False
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


class Clock(TrainerCallback):
    """When each step has ended."""

    def __init__(self):
        self.ends: Times = []

    def on_step_end(self, args, state, control, **kwargs):
        """One more."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def guide(model: PreTrainedModel, blocks: Dataset, batch: int, steps: int, folder: str) -> Times:
    """The guide's arguments and collator, as written (float32)."""
    tokenizer, clock = load_tokenizer("embedded"), Clock()
    tokenizer.pad_token = tokenizer.eos_token
    settings = {
        "learning_rate": 2e-5,
        "weight_decay": 0.01,
        "per_device_train_batch_size": batch,
        "max_steps": steps,
    }
    arguments = TrainingArguments(
        folder,
        **settings,
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=model.device.type == "cpu",
    )
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    blocks = blocks.select_columns(["input_ids"])
    Trainer(
        model, arguments, train_dataset=blocks, data_collator=collator, callbacks=[clock]
    ).train()
    return clock.ends


def ours(model: PreTrainedModel, blocks: Dataset, batch: int, steps: int, folder: str) -> Times:
    """`BlockTrainer` with `runtime_arguments`, as in notebook 04."""
    clock, model.loss_type = Clock(), "ForCausalLM"
    fuse_gelu(model)  # as load_model does
    settings = {
        "learning_rate": 2e-5,
        "weight_decay": 0.01,
        "per_device_train_batch_size": batch,
        "max_steps": steps,
    }
    arguments = TrainingArguments(
        **settings, save_strategy="no", **runtime_arguments(Path(folder), model, choose_dtype())
    )
    BlockTrainer(
        model,
        arguments,
        train_dataset=blocks,
        eval_dataset=blocks,
        data_collator=collate,
        callbacks=[clock],
    ).train()
    return clock.ends


def plain(model: PreTrainedModel, blocks: Dataset, batch: int, steps: int, folder: str) -> Times:
    """A loop like nanoGPT's: autocast to bfloat16, AdamW, clipped gradients; compiled on a GPU."""
    device, ends = model.device.type, []
    compiled = torch.compile(model) if device == "cuda" else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, weight_decay=0.01, fused=True)
    rows = torch.tensor(blocks["input_ids"][:])
    model.train()
    for step in range(steps):
        ids = rows[torch.arange(step * batch, (step + 1) * batch) % len(rows)].to(device)
        with torch.autocast(device, torch.bfloat16):
            logits = compiled(ids, use_cache=False).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        float(loss)
        ends.append(time.perf_counter())
    return ends


def plain_kept(*given) -> Times:
    """The same loop, with what `BlockTrainer` does about the C library's memory."""
    keep_memory()
    return plain(*given)


WAYS: dict[str, Callable[..., Times]] = {
    "the guide's `Trainer`": guide,
    "plain loop, bfloat16": plain,
    "plain loop, bfloat16, after `keep_memory()`": plain_kept,
    "`BlockTrainer`": ours,
}


def measure(way: str, name: str, device: str) -> dict[str, float]:
    """One way, in this process."""
    logging.set_verbosity_error()
    steps, batch, length = SHAPES[device][name]
    model = build(name)
    rng = np.random.default_rng(0)
    ids = rng.integers(1, model.config.vocab_size, (steps * batch, length)).astype(np.int32)
    positions = np.tile(np.arange(length, dtype=np.int32), (len(ids), 1))
    blocks = Dataset.from_dict({"input_ids": list(ids), "position_ids": list(positions)})
    with watched() as memory, tempfile.TemporaryDirectory() as folder:
        ends = WAYS[way](model, blocks, batch, steps, folder)
    gaps = np.diff(ends[WARM - 1 :])
    above = (
        torch.cuda.max_memory_allocated() if device == "cuda" else memory["peak"] - memory["before"]
    )
    speed = batch * length / float(np.median(gaps))
    return {
        "speed": speed,
        "memory": above,
        "share": peak_share(model, speed, length, choose_dtype()),
        "products": _products_share(model, batch, length, speed) if device == "cpu" else 0.0,
    }


def _products_share(model: PreTrainedModel, batch: int, length: int, speed: float) -> float:
    """The share of a step that its matrix products take by themselves, in the precision chosen."""
    dtype = getattr(torch, choose_dtype())
    products = seconds_of(shapes_of(model, batch, length), dtype, backward=True)
    return products * speed / (batch * length)


def in_process(way: str, name: str, device: str) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.training", device, way, name]
    return json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    )


def main(device: str) -> None:
    """Every way and shape in turn."""
    for name, (steps, batch, length) in SHAPES[device].items():
        found = {way: in_process(way, name, device) for way in WAYS}
        rows = [
            {
                "": way,
                "tokens/s": f"{f['speed']:,.0f}",
                "memory (MB)": f"{f['memory'] / 1e6:,.0f}",
                "of the peak": f"{f['share']:.0%}",
            }
            for way, f in found.items()
        ]
        theirs, loop, kept, mine = (f["speed"] for f in found.values())
        text = [
            f"`make bench-{'gpu' if device == 'cuda' else 'training'}`. {steps} steps of "
            f"{batch} blocks of {length} tokens, the median step; "
            f"`BlockTrainer` computes in {choose_dtype()}, which is what `auto` takes here.",
            table(rows),
            f"`BlockTrainer` is {mine / theirs:.1f} times as fast as the guide's `Trainer`, "
            f"and {mine / loop:.2f} and {mine / kept:.2f} times as fast as the plain loops.",
        ]
        if device == "cpu":
            share = found["`BlockTrainer`"]["products"]
            text.append(
                "Its matrix products, of the same shapes and in the same precision with no model "
                f"around them, take {share:.0%} of its step."
            )
        record(f"Training, {name}" + (", on a GPU" if device == "cuda" else ""), "\n\n".join(text))


if __name__ == "__main__":
    chosen = sys.argv[1] if sys.argv[1:] else "cpu"
    if sys.argv[2:]:
        print(json.dumps(measure(*sys.argv[2:4], chosen)))
    else:
        main(chosen)
