"""The ways of training that are compared: the guide's Trainer, a plain loop, ours."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    DataCollatorForLanguageModeling,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from helpers.collation import collate
from helpers.engine.attention import causal_without_mask
from helpers.engine.loaded_model import fuse_gelu
from helpers.engine.memory import keep_memory
from helpers.engine.speed import choose_dtype
from helpers.engine.trainer import runtime_arguments
from helpers.hub.sources import EMBEDDED
from helpers.models import load_tokenizer
from helpers.training import BlockTrainer

SMOL = {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
SETTINGS = {"learning_rate": 2e-5, "weight_decay": 0.01}


class Times:
    """When each step has ended, and the seconds in which the next batch was waited for."""

    def __init__(self, device: str):
        self.ends: list[float] = []
        self.waited: list[float] = []
        self.device = device

    def step_ended(self) -> None:
        """One more."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    def per_step(self, warm: int) -> tuple[float, float]:
        """The median seconds of a step and its share of waiting, without the first steps."""
        seconds, waited = np.diff(self.ends)[warm - 1 :], self.waited[warm:]
        return float(np.median(seconds)), sum(waited) / float(sum(seconds))


def build(name: str) -> PreTrainedModel:
    """The embedded model, or one of another's shape with random weights (seeded)."""
    torch.manual_seed(0)
    if name == "embedded":
        model = GPT2LMHeadModel.from_pretrained(EMBEDDED["model"], dtype=torch.float32)
    elif name == "SmolLM2's shape":
        model = LlamaForCausalLM(LlamaConfig(**SMOL))
    else:
        model = GPT2LMHeadModel(GPT2Config(n_layer=6))
    model.config.use_cache = False
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def timed(kind: type[Trainer], times: Times) -> type[Trainer]:
    """A Trainer that notes when it waits for a batch, and when a step has ended."""

    class Clock(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            times.step_ended()

    class Timed(kind):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs, callbacks=[Clock()])

        def get_batch_samples(self, *args):
            began = time.perf_counter()
            batches = super().get_batch_samples(*args)
            times.waited.append(time.perf_counter() - began)
            return batches

    return Timed


def guide(
    times: Times, model: PreTrainedModel, blocks: Dataset, folder: str, bf16: bool = False, **rest
) -> None:
    """The guide's arguments and collator, as written (float32)."""
    tokenizer = load_tokenizer("embedded")
    tokenizer.pad_token = tokenizer.eos_token
    run = {"save_strategy": "no", "disable_tqdm": True, "use_cpu": model.device.type == "cpu"}
    arguments = TrainingArguments(folder, **SETTINGS, **run, bf16=bf16, **rest)
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    blocks = blocks.select_columns(["input_ids"])
    timed(Trainer, times)(model, arguments, train_dataset=blocks, data_collator=collator).train()


def ours(
    times: Times, model: PreTrainedModel, blocks: Dataset, folder: str, **rest: object
) -> None:
    """`BlockTrainer` with `runtime_arguments`, as in notebook 04; compiled, with rows of one
    document, as the plain loop has them.
    """
    if rest.get("torch_compile"):
        blocks = blocks.select_columns(["input_ids"])
    model.loss_type = "ForCausalLM"
    fuse_gelu(model)  # as load_model does
    runtime = runtime_arguments(Path(folder), model, choose_dtype())
    arguments = TrainingArguments(**SETTINGS, **rest, save_strategy="no", **runtime)
    data = {"train_dataset": blocks, "eval_dataset": blocks, "data_collator": collate}
    trainer = timed(BlockTrainer, times)(model, arguments, **data)
    trainer.train()
    if trainer.pieces > 1:
        raise torch.OutOfMemoryError("The batch has been cut.")


def plain(
    times: Times,
    model: PreTrainedModel,
    blocks: Dataset,
    folder: str,
    per_device_train_batch_size: int,
    max_steps: int,
    compiled: bool = False,
) -> None:
    """A loop like nanoGPT's: causal attention, autocast to bfloat16, fused AdamW, clipping."""
    batch, device = per_device_train_batch_size, model.device.type
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, weight_decay=0.01, fused=True)
    rows = torch.tensor(blocks["input_ids"][:])

    def loss_of(ids: torch.Tensor) -> torch.Tensor:
        logits = model(ids, use_cache=False).logits[:, :-1]
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    forward = torch.compile(loss_of) if compiled else loss_of
    model.train()
    with causal_without_mask(model, rows.shape[1]):
        for step in range(max_steps):
            began = time.perf_counter()
            ids = rows[torch.arange(step * batch, (step + 1) * batch) % len(rows)].to(device)
            times.waited.append(time.perf_counter() - began)
            with torch.autocast(device, torch.bfloat16):
                loss = forward(ids)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            times.step_ended()


def plain_kept(*given, **settings) -> None:
    """The same loop, with what `BlockTrainer` does about the C library's memory."""
    keep_memory()
    plain(*given, **settings)


CPU_WAYS: dict[str, Callable[..., None]] = {
    "the guide's `Trainer`": guide,
    "plain loop, bfloat16": plain,
    "plain loop, bfloat16, after `keep_memory()`": plain_kept,
    "`BlockTrainer`": ours,
}
GPU_WAYS: dict[str, Callable[..., None]] = {
    "`BlockTrainer`": ours,
    "plain loop, bfloat16, compiled": partial(plain, compiled=True),
    "`BlockTrainer`, `torch_compile`": partial(ours, torch_compile=True),
    "the guide's `Trainer`": guide,
    "the guide's `Trainer`, bfloat16": partial(guide, bf16=True),
}
