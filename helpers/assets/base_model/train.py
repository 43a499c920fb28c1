"""The recipe of the embedded base model: one command, seeded, resumable.

`python -m helpers.assets.base_model.corpus FOLDER`, then `python -m helpers.assets.base_model.train FOLDER` trains the
tokenizer and the model on `FOLDER/train.txt`, goes on from the last checkpoint if it is started again, and writes
model, tokenizer and `training.json` (held-out bits per byte along the way) beside this file.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

HERE = Path(__file__).parent
END = "<|endoftext|>"
VOCABULARY, CONTEXT, BATCH, EPOCHS, SEED = 4096, 256, 16, 1.25, 0
SHAPE = {"n_layer": 4, "n_embd": 256, "n_head": 4}


def documents(path: Path) -> list[str]:
    """The documents of a corpus file: one paragraph a line, an empty line between documents."""
    return [text.replace("\n", "\n\n").strip() for text in path.read_text(encoding="utf-8").split("\n\n")]


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with GPT-2's pre-tokenization and one special token, the end of text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=END, eos_token=END, unk_token=END)
    tokenizer.model_max_length = CONTEXT
    return tokenizer


def blocks(texts: list[str], tokenizer: PreTrainedTokenizerFast, seed: int) -> Dataset:
    """The documents in a seeded order, an end of text after each, cut into rows of the context length."""
    order = np.random.default_rng(seed).permutation(len(texts))
    encodings = tokenizer.backend_tokenizer.encode_batch_fast([texts[i] for i in order], add_special_tokens=False)
    ids = np.concatenate([np.array([*e.ids, tokenizer.eos_token_id], dtype=np.int32) for e in encodings])
    rows = ids[: len(ids) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)
    return Dataset.from_dict({"input_ids": rows, "labels": rows}).with_format("torch")


def main(folder: Path) -> None:
    """Train tokenizer and model on `folder/train.txt` and write them beside this file."""
    set_seed(SEED)
    texts, held_out = documents(folder / "train.txt"), documents(folder / "held_out.txt")
    tokenizer = train_tokenizer(texts)
    tokenizer.save_pretrained(HERE)
    train, test = blocks(texts, tokenizer, SEED), blocks(held_out, tokenizer, SEED)
    bytes_per_token = sum(len(t.encode()) for t in held_out) / (len(test) * CONTEXT)
    print(f"{len(train) * CONTEXT:,} training tokens, {bytes_per_token:.2f} bytes a token held out", flush=True)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        bos_token_id=0,
        eos_token_id=0,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        activation_function="gelu_pytorch_tanh",
        **SHAPE,
    )
    arguments = TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
        learning_rate=3e-3,
        weight_decay=0.1,
        adam_beta2=0.95,
        lr_scheduler_type="cosine",
        warmup_steps=0.02,
        optim="adamw_torch_fused",
        logging_steps=50,
        eval_strategy="steps",
        eval_steps=500,
        save_steps=250,
        save_total_limit=2,
        seed=SEED,
        prediction_loss_only=True,
        disable_tqdm=True,
    )
    model = GPT2LMHeadModel(config)
    model.loss_type = "ForCausalLM"  # without it, Trainer divides by the tokens of a row, not by those that are scored
    trainer = Trainer(model, arguments, train_dataset=train, eval_dataset=test, data_collator=default_data_collator)
    trainer.train(
        resume_from_checkpoint=get_last_checkpoint(arguments.output_dir)
        if Path(arguments.output_dir).exists()
        else None
    )
    trainer.evaluate()
    trainer.model.to(torch.bfloat16).save_pretrained(HERE)
    losses = {e["step"]: e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e}
    curve = [
        {"tokens": step * BATCH * CONTEXT, "bits_per_byte": loss / math.log(2) / bytes_per_token}
        for step, loss in losses.items()
    ]
    (HERE / "training.json").write_text(json.dumps({"held_out": curve}, indent=1) + "\n")
    print(curve[-1])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
