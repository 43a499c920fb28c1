"""Perplexity on a GPU, beside lm-evaluation-harness: `python -m tests.benchmarks.evaluation [try]`.

A model of SmolLM2's shape with random weights scores the embedded test documents, each way in a
process of its own. Measured are tokens per second and the peak of the GPU's memory. `try` takes a
small model and a few documents.
"""

import json
import math
import subprocess
import sys
import time

import torch
from datasets import disable_progress_bars

from helpers.models import load_tokenizer
from tests.benchmarks.perplexity import documents_of, harness, ids_of, ours
from tests.benchmarks.results import record, table
from tests.benchmarks.trainers import build

OURS = "`score_documents`, bfloat16"
HARNESS = "lm-evaluation-harness, bfloat16, batches of "
WAYS = {OURS: ours("bfloat16")} | {HARNESS + str(n): harness(n, "bfloat16") for n in (16, 64)}


def measure(way: str, small: bool) -> dict[str, float]:
    """One way, in this process."""
    disable_progress_bars()
    model, tokenizer = build("embedded" if small else "SmolLM2's shape"), load_tokenizer("embedded")
    documents = documents_of(*((8, 1) if small else (200, 8)))
    model.eval()
    ids = ids_of(tokenizer, documents)
    WAYS[way](model, tokenizer, documents[:200], ids[:200])  # imports, memory
    cuda = model.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    tokens, nats = WAYS[way](model, tokenizer, documents, ids)
    seconds = time.perf_counter() - began
    memory = torch.cuda.max_memory_allocated() if cuda else 0
    return {"tokens": tokens, "nats": nats, "seconds": seconds, "memory": memory}


def main(small: bool) -> None:
    """Each way in turn."""
    found = {}
    for way in WAYS:
        command = [sys.executable, "-m", "tests.benchmarks.evaluation", str(int(small)), way]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(done.stderr[-2000:])
            print(
                f"= {way}: failed ({(done.stderr.strip().splitlines() or ['?'])[-1]})", flush=True
            )
            continue
        found[way] = f = json.loads(done.stdout.splitlines()[-1])
        speed = f["tokens"] / f["seconds"]
        print(f"= {way}: {speed:,.0f} tokens/s, {f['memory'] / 1e9:.1f} GB", flush=True)
    if OURS not in found or len(found) == 1:
        sys.exit("Not every way could be measured.")
    rows = [
        {
            "": way,
            "tokens/s": f"{f['tokens'] / f['seconds']:,.0f}",
            "memory (MB)": f"{f['memory'] / 1e6:,.0f}",
            "perplexity": f"{math.exp(f['nats'] / f['tokens']):,.2f}",
        }
        for way, f in found.items()
    ]
    seconds = found[OURS]["seconds"] / found[OURS]["tokens"]
    best = min(f["seconds"] / f["tokens"] for way, f in found.items() if way != OURS)
    text = (
        f"`tools/gpu.sh`. {found[OURS]['tokens']:,} tokens of the embedded test "
        f"documents.\n\n{table(rows)}\n\n`score_documents` is {best / seconds:.1f} times as fast "
        "as the fastest of the others."
    )
    if small:
        print(text)
    else:
        record("Perplexity, SmolLM2's shape, on a GPU", text)


if __name__ == "__main__":
    if sys.argv[2:]:
        print(json.dumps(measure(sys.argv[2], sys.argv[1] == "1")))
    else:
        main("try" in sys.argv[1:])
