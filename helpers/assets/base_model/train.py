"""The recipe of the embedded base model: one command, seeded, resumable.

First `python -m helpers.assets.base_model.corpus FOLDER`, then

    python -m helpers.assets.base_model.train FOLDER
    python -m helpers.assets.base_model.train FOLDER --compare

The first trains, and writes model, tokenizer and curve beside this file; it goes on from its last
checkpoint if it is started again. The second gives every recipe the same time, writes
comparison.json beside this file, and goes on with the recipes that are still to be tried.
"""

import functools
import json
import math
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from helpers.figures import draw_lines
from helpers.generation import continue_text
from helpers.perplexity import score_documents

HERE = Path(__file__).parent
END = "<|endoftext|>"
CONTEXT, SEED = 256, 0
TOKENS = 40_500_000  # to train on
EVERY = 500  # steps between two checkpoints; the held-out text is scored at every second one
COMPARED_SECONDS = 180  # of processor time on one core, for each recipe of the comparison
PROMPT = "The reason why the sky is blue is that"


@dataclass(frozen=True)
class Recipe:
    """A shape of GPT-2 and how it is trained; the rate warms up over 2 % of the time and falls to
    zero in a straight line.
    """

    layers: int = 4
    width: int = 256
    heads: int = 4
    vocabulary: int = 4096
    optimizer: str = "muon"
    rate: float = 6e-3
    rows: int = 16  # of CONTEXT tokens, in a step


RECIPES = {
    "chosen": Recipe(),
    "AdamW": Recipe(optimizer="adamw", rate=3e-3),
    "six layers": Recipe(layers=6),
    "wider, three layers": Recipe(layers=3, width=320, heads=5),
    "narrower, six layers": Recipe(layers=6, width=192, heads=3),
    "vocabulary of 8,192": Recipe(vocabulary=8192),
    "half the rate": Recipe(rate=3e-3),
    "half the rows": Recipe(rows=8),
}


def documents(path: Path) -> list[str]:
    """The documents of a corpus file: one paragraph a line, an empty line between documents."""
    return [
        text.replace("\n", "\n\n").strip()
        for text in path.read_text(encoding="utf-8").split("\n\n")
    ]


def train_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with GPT-2's pre-tokenization; the end of text is special."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=END, eos_token=END, unk_token=END
    )
    tokenizer.model_max_length = CONTEXT
    return tokenizer


def encode(texts: list[str], tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    """The token ids of each document."""
    return [
        e.ids
        for e in tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    ]


@functools.cache
def read(
    folder: Path, vocabulary: int
) -> tuple[PreTrainedTokenizerFast, list[list[int]], list[str]]:
    """A tokenizer, the training documents as token ids, the held-out documents as text."""
    texts = documents(folder / "train.txt")
    tokenizer = train_tokenizer(texts, vocabulary)
    return tokenizer, encode(texts, tokenizer), documents(folder / "held_out.txt")


def rows_of_epoch(ids: list[list[int]], end: int, epoch: int) -> torch.Tensor:
    """The documents in an order of their own for each epoch, an end of text after each, cut into
    rows of CONTEXT tokens.
    """
    order = np.random.default_rng([SEED, epoch]).permutation(len(ids))
    flat = np.fromiter((token for i in order for token in (*ids[i], end)), np.int64)
    return torch.from_numpy(flat[: len(flat) // CONTEXT * CONTEXT].reshape(-1, CONTEXT))


def build(recipe: Recipe) -> tuple[GPT2LMHeadModel, list[torch.optim.Optimizer]]:
    """A new model, and what trains it: Muon for the matrices inside the layers and AdamW for the
    rest, or AdamW for all.
    """
    torch.manual_seed(SEED)
    shape = {
        "n_layer": recipe.layers,
        "n_embd": recipe.width,
        "n_head": recipe.heads,
        "vocab_size": recipe.vocabulary,
    }
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "use_cache": False}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    model = GPT2LMHeadModel(
        GPT2Config(
            n_positions=CONTEXT, activation_function="gelu_pytorch_tanh", **shape, **off, **ends
        )
    )
    model.loss_type = "ForCausalLM"
    inner = [
        p
        for n, p in model.named_parameters()
        if p.ndim == 2 and ".h." in n and recipe.optimizer == "muon"
    ]
    rest = [p for p in model.parameters() if all(p is not q for q in inner)]
    optimizers = [
        torch.optim.AdamW(rest, recipe.rate, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    ]
    if inner:
        optimizers.append(
            torch.optim.Muon(inner, recipe.rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        )
    return model, optimizers


class Run:
    """A model on its way: the recipe, the text as rows, and the step that has been reached."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe = recipe
        self.tokenizer, self.ids, self.held_out = read(folder, recipe.vocabulary)
        self.model, self.optimizers = build(recipe)
        self.step, self.curve = 0, []
        self.epoch, self.rows = -1, torch.empty(0)

    def batch(self) -> torch.Tensor:
        """The rows of the step that comes next."""
        steps = sum(len(i) + 1 for i in self.ids) // CONTEXT // self.recipe.rows  # in an epoch
        if self.epoch != self.step // steps:
            self.epoch = self.step // steps
            self.rows = rows_of_epoch(self.ids, self.tokenizer.eos_token_id, self.epoch)
        start = self.step % steps * self.recipe.rows
        return self.rows[start : start + self.recipe.rows]

    def advance(self, progress: float) -> None:
        """One step, `progress` being the share of the training that lies behind."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.recipe.rate * min(progress / 0.02, 1.0, (1 - progress) / 0.98)
        batch = self.batch()
        self.model(input_ids=batch, labels=batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1

    @property
    def tokens(self) -> int:
        """How many tokens have been trained on."""
        return self.step * self.recipe.rows * CONTEXT

    def held_out_bits(self) -> float:
        """Bits per byte on the text that was left out, by the suite's own rolling definition."""
        self.model.eval()
        ids = encode(self.held_out, self.tokenizer)
        score = score_documents(self.model, ids, self.held_out, self.tokenizer.eos_token_id)
        self.model.train()
        return score.bits_per_byte

    def save(self, path: Path) -> None:
        """A checkpoint, written beside and then renamed."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
        }
        torch.save(
            state | {"step": self.step, "curve": self.curve, "recipe": asdict(self.recipe)},
            path.with_suffix(".new"),
        )
        os.replace(path.with_suffix(".new"), path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint of the same recipe."""
        state = torch.load(path)
        if state["recipe"] != asdict(self.recipe):
            sys.exit(f"{path} is of another recipe: delete it to start anew.")
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.curve = state["step"], state["curve"]


def train(folder: Path) -> None:
    """The chosen recipe for TOKENS tokens, from the last checkpoint on; the model goes here."""
    run, checkpoint = Run(RECIPES["chosen"], folder), folder / "checkpoint.pt"
    if checkpoint.exists():
        run.load(checkpoint)
    steps = math.ceil(TOKENS / (run.recipe.rows * CONTEXT))
    while run.step < steps:
        run.advance(run.step / steps)
        if run.step % (2 * EVERY) == 0 or run.step == steps:
            run.curve.append({"tokens": run.tokens, "bits_per_byte": run.held_out_bits()})
            print(run.curve[-1], flush=True)
        if run.step % EVERY == 0 or run.step == steps:
            run.save(checkpoint)
    run.tokenizer.save_pretrained(HERE)
    run.model.to(torch.bfloat16).save_pretrained(HERE)
    (HERE / "training.json").write_text(
        json.dumps({"held_out": run.curve}, indent=1) + "\n", encoding="utf-8"
    )
    points = (
        [round(p["tokens"] / 1e6, 1) for p in run.curve],
        [p["bits_per_byte"] for p in run.curve],
    )
    figure = draw_lines({"held-out text": points}, "million tokens", "bits per byte")
    figure.savefig(HERE / "curve.png", dpi=100)


def try_out(name: str, folder: Path) -> dict[str, object]:
    """One recipe for COMPARED_SECONDS on one core: held-out bits per byte, and a sample of text."""
    torch.set_num_threads(1)
    run, start = Run(RECIPES[name], folder), time.process_time()
    while (spent := time.process_time() - start) < COMPARED_SECONDS:
        run.advance(spent / COMPARED_SECONDS)
    sample = continue_text(run.model, run.tokenizer, PROMPT, 60, seed=SEED)
    found = {
        "parameters": run.model.num_parameters(),
        "tokens": run.tokens,
        "bits_per_byte": run.held_out_bits(),
    }
    return asdict(run.recipe) | found | {"sample": sample}


def compare(folder: Path) -> None:
    """Every recipe that is not in comparison.json yet, two at a time."""
    path = HERE / "comparison.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    left = [name for name in RECIPES if name not in found]
    with ProcessPoolExecutor(2) as pool:
        for name, result in zip(left, pool.map(try_out, left, [folder] * len(left)), strict=True):
            found[name] = result
            path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            print(f"{name}: {result['bits_per_byte']:.3f} bits per byte", flush=True)


if __name__ == "__main__":
    (compare if "--compare" in sys.argv else train)(Path(sys.argv[1]))
