"""Perplexity beside lm-evaluation-harness and the documentation's loop: `python -m
tests.benchmarks.perplexity`.

Two models of 30 million random weights with vocabularies of 50,000 score the embedded test
documents, each way in a process of its own. Measured are tokens a second, and the peak of anonymous
memory above what it is when the model is there and a first text is scored.
"""

import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from datasets import disable_progress_bars
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from helpers.data import load_examples, texts
from helpers.engine.speed import choose_dtype
from helpers.models import load_tokenizer
from helpers.perplexity import score_documents, score_stride
from helpers.splitting import split_fairly
from tests.benchmarks.products import seconds_of, shapes_of
from tests.benchmarks.results import record, table, watched

CONTEXT, STRIDE = 512, 256
COLUMN = "answers.text"
FACTOR = 64  # how much longer the longer text is


def build(name: str) -> PreTrainedModel:
    """A GPT-2 or a Llama: 6 layers, 384 wide, tied embeddings, seeded."""
    torch.manual_seed(0)
    if name == "GPT-2":
        config = GPT2Config(vocab_size=50_000, n_positions=CONTEXT, n_layer=6, n_embd=384, n_head=6)
        return GPT2LMHeadModel(config).eval()
    shape = {
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
    }
    length = {"max_position_embeddings": CONTEXT, "tie_word_embeddings": True}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50_000, **shape, **length)).eval()


Ids = list[np.ndarray]
Result = tuple[int, float]  # tokens scored and their nats


def ours(compute_dtype: str) -> Callable[..., Result]:
    """`score_documents`."""

    def run(model: PreTrainedModel, tokenizer: Tokenizer, documents: list[str], ids: Ids) -> Result:
        score = score_documents(model, ids, documents, tokenizer.eos_token_id, compute_dtype)
        return int(score.tokens.sum()), float(score.nats.sum())

    return run


def harness(batch_size: int, compute_dtype: str | None = None) -> Callable[..., Result]:
    """`loglikelihood_rolling` of lm-evaluation-harness, in float32 if nothing else is asked for."""

    def run(model: PreTrainedModel, tokenizer: Tokenizer, documents: list[str], ids: Ids) -> Result:
        from lm_eval.api.instance import Instance
        from lm_eval.models.huggingface import HFLM

        peer = HFLM(
            pretrained=model,
            tokenizer=tokenizer,
            batch_size=batch_size,
            mixed_precision_dtype=compute_dtype,
        )
        asked = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in documents]
        found = peer.loglikelihood_rolling(asked, disable_tqdm=True)
        return sum(map(len, ids)), -math.fsum(found)

    return run


def ours_stride(
    model: PreTrainedModel, tokenizer: Tokenizer, documents: list[str], ids: Ids
) -> Result:
    """`score_stride` on one long text."""
    score = score_stride(model, [np.concatenate(ids)], ["".join(documents)], STRIDE)
    return int(score.tokens.sum()), float(score.nats.sum())


def loop(model: PreTrainedModel, tokenizer: Tokenizer, documents: list[str], ids: Ids) -> Result:
    """Window after window, as in "Perplexity of fixed-length models", with its own count of
    tokens.
    """
    row = torch.from_numpy(np.concatenate(ids)[None].astype(np.int64))
    nats, tokens, reached = 0.0, 0, 0
    for begin in range(0, row.shape[1], STRIDE):
        end = min(begin + CONTEXT, row.shape[1])
        labels = row[:, begin:end].clone()
        labels[:, : reached - begin] = -100
        with torch.no_grad():
            loss = model(row[:, begin:end], labels=labels).loss
        scored = int((labels != -100).sum()) - 1
        nats, tokens, reached = nats + float(loss) * scored, tokens + scored, end
        if end == row.shape[1]:
            break
    return tokens, nats


WAYS: dict[str, Callable[..., Result]] = {
    "rolling: `score_documents`": ours("float32"),
    "rolling: `score_documents`, bfloat16": ours("bfloat16"),
    "rolling: lm-evaluation-harness, batches of 1": harness(1),
    "rolling: lm-evaluation-harness, batches of 8": harness(8),
    "rolling: lm-evaluation-harness, batches of 1, bfloat16": harness(1, "bfloat16"),
    "stride: `score_stride`": ours_stride,
    "stride: the documentation's loop": loop,
}


def ids_of(tokenizer: Tokenizer, documents: list[str]) -> Ids:
    """Token ids without anything added."""
    return [
        np.array(tokenizer(text, add_special_tokens=False, verbose=False).input_ids, np.int32)
        for text in documents
    ]


def measure(way: str, model_name: str, documents: list[str]) -> dict[str, float]:
    """One way and one model, in this process; the text is tokenized before, but
    lm-evaluation-harness does that itself.
    """
    disable_progress_bars()
    model, tokenizer = build(model_name), load_tokenizer("embedded")
    ids, first = ids_of(tokenizer, documents), documents[:1]
    WAYS[way](model, tokenizer, first, ids[:1])  # imports, and what is only made once
    with watched() as memory:
        start = time.perf_counter()
        tokens, nats = WAYS[way](model, tokenizer, documents, ids)
        seconds = time.perf_counter() - start
    above = memory["peak"] - memory["before"]
    dtype = torch.bfloat16 if "bfloat16" in way else torch.float32
    products = seconds_of(shapes_of(model, 4, CONTEXT), dtype, backward=False) / (4 * CONTEXT)
    return {
        "products": products * tokens / seconds,
        "tokens": tokens,
        "nats": nats,
        "seconds": seconds,
        "memory": above,
        "peak": memory["peak"],
    }


def in_process(way: str, model_name: str, size: int, times: int = 1) -> dict[str, float]:
    """The same in a process of its own, on `size` documents, each `times` times."""
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.perplexity",
        way,
        model_name,
        str(size),
        str(times),
    ]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return json.loads(lines[-1])


def evaluate_metric() -> str:
    """What becomes of the perplexity metric of `evaluate`."""
    import evaluate

    try:
        evaluate.load("perplexity", module_type="metric")
        loaded = "could be loaded"
    except Exception as error:
        loaded = f"could not be loaded ({type(error).__name__}: it lies on the Hub)"
    there = hasattr(load_tokenizer("embedded"), "special_tokens_map_extended")
    needed = "has" if there else "does not have"
    return (
        f"The perplexity metric of `evaluate` {evaluate.__version__} {loaded}; where there "
        "is a network, it reads "
        "`special_tokens_map_extended` of the tokenizer, which this version of "
        f"transformers {needed}."
    )


def documents_of(size: int, times: int) -> list[str]:
    """The first embedded test documents, in turn."""
    test = split_fairly(
        load_examples("embedded", "train"), COLUMN, 0.2, 0, stratify_by_column="category"
    )["test"]
    return texts(test, COLUMN)[:size] * times


def main() -> None:
    """Every way and model in turn, then a text that is FACTOR times as long."""
    for name in ("GPT-2", "Llama"):
        found = {way: in_process(way, name, 40) for way in WAYS}
        rows = [
            {
                "": way,
                "tokens": f"{f['tokens']:,}",
                "tokens/s": f"{f['tokens'] / f['seconds']:,.0f}",
                "memory (MB)": f"{f['memory'] / 1e6:,.0f}",
                "nats": f"{f['nats']:,.2f}",
                "perplexity": f"{math.exp(f['nats'] / f['tokens']):,.2f}",
            }
            for way, f in found.items()
        ]
        auto = choose_dtype()
        mine = found["rolling: `score_documents`" + (", bfloat16" if auto == "bfloat16" else "")]
        peers = [f for way, f in found.items() if "harness" in way]
        times = [
            f"{mine['tokens'] / mine['seconds'] / (p['tokens'] / p['seconds']):.1f}" for p in peers
        ]
        shares = [f"{mine['memory'] / p['memory']:.2f}" for p in peers]
        short, long = (
            in_process("rolling: `score_documents`", name, 6, times) for times in (1, FACTOR)
        )
        text = [
            f"`make bench-perplexity`. {name}, 30 million weights, context {CONTEXT}, "
            f"stride {STRIDE}, float32 if nothing else is said.",
            table(rows),
            f"`score_documents` in {auto}, which is what `auto` takes here, is "
            f"{', '.join(times)} times as fast as the rows of "
            f"lm-evaluation-harness, with {', '.join(shares)} times their memory. On a text "
            f"{FACTOR} times as long ({short['tokens']:,} and "
            f"{long['tokens']:,} tokens) the peak of the whole process goes from "
            f"{short['peak'] / 1e6:,.0f} to "
            f"{long['peak'] / 1e6:,.0f} MB, {long['peak'] / short['peak'] - 1:+.1%}. "
            f"{evaluate_metric()}",
            "The matrix products of full windows, in the same precision with no model around them, "
            f"take {mine['products']:.0%} of the time of `score_documents` in {auto}.",
        ]
        record(f"Perplexity, {re.sub('-', '', name)}", "\n\n".join(text))


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(measure(*sys.argv[1:3], documents_of(*map(int, sys.argv[3:])))))
    else:
        main()
