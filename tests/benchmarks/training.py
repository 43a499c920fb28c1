"""Training beside the guide's Trainer and a plain loop: `python -m tests.benchmarks.training
[cpu|cuda|try] [shape]`; `try` goes through the ways of `cuda` with a small model.

The same model and blocks, a fixed number of steps, each way in a process of its own. Measured are
tokens per second, without the first steps, and the peak of memory: on the CPU above what it is with
the model there, on a GPU all that is allocated.
"""

import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, logging

from helpers.engine.speed import choose_dtype, peak_share
from tests.benchmarks.products import seconds_of, shapes_of
from tests.benchmarks.results import record, table, watched
from tests.benchmarks.trainers import CPU_WAYS, GPU_WAYS, Times, build

# model: steps, blocks in a batch (on a GPU halved until they fit), tokens in a block
SHAPES = {
    "cpu": {"embedded": (40, 8, 128), "DistilGPT2's shape": (12, 8, 128)},
    "cuda": {"DistilGPT2's shape": (14, 64, 1024), "SmolLM2's shape": (12, 16, 2048)},
    "try": {"embedded": (8, 2, 64)},
}


def ways_of(device: str) -> dict[str, Callable[..., None]]:
    """The ways that are compared on a device."""
    return CPU_WAYS if device == "cpu" else GPU_WAYS


def blocks_for(model: PreTrainedModel, number: int, length: int) -> Dataset:
    """Blocks of random tokens, each of one document."""
    ids = np.random.default_rng(0).integers(1, model.config.vocab_size, (number, length))
    positions = np.tile(np.arange(length, dtype=np.int32), (number, 1))
    return Dataset.from_dict(
        {"input_ids": list(ids.astype(np.int32)), "position_ids": list(positions)}
    )


def measure(way: str, name: str, device: str) -> dict[str, float]:
    """One way, in this process, with the largest batch that fits."""
    logging.set_verbosity_error()
    steps, batch, length = SHAPES[device][name]
    warm = 3 if device == "cpu" else 4  # steps before the clock starts
    while True:
        model = build(name)
        blocks, times = blocks_for(model, steps * batch, length), Times(model.device.type)
        settings = {"per_device_train_batch_size": batch, "max_steps": steps}
        try:
            with watched() as memory, tempfile.TemporaryDirectory() as folder:
                ways_of(device)[way](times, model, blocks, folder, **settings)
            break
        except torch.OutOfMemoryError:
            batch //= 2
        del model, blocks
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds, waited = times.per_step(warm)
    cuda, speed = model.device.type == "cuda", batch * length / seconds
    above = torch.cuda.max_memory_allocated() if cuda else memory["peak"] - memory["before"]
    return {
        "speed": speed,
        "memory": above,
        "batch": batch,
        "waited": waited,
        "share": peak_share(model, speed, length, choose_dtype()),
        "products": _products_share(model, batch, length, speed) if device == "cpu" else 0.0,
    }


def _products_share(model: PreTrainedModel, batch: int, length: int, speed: float) -> float:
    """The share of a step that its matrix products take by themselves, in the precision chosen."""
    dtype = getattr(torch, choose_dtype())
    products = seconds_of(shapes_of(model, batch, length), dtype, backward=True)
    return products * speed / (batch * length)


def in_process(way: str, name: str, device: str) -> dict[str, float] | None:
    """The same in a process of its own; None, and the last line of its error, if it fails."""
    command = [sys.executable, "-m", "tests.benchmarks.training", device, name, way]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr[-3000:])
        print(f"= {name}, {way}: failed", flush=True)
        return None
    f = json.loads(done.stdout.splitlines()[-1])
    print(
        f"= {name}, {way}: {f['speed']:,.0f} tokens/s, {f['share']:.0%} of the peak, "
        f"{f['memory'] / 1e9:.1f} GB, batches of {f['batch']}, waits {f['waited']:.1%}",
        flush=True,
    )
    return f


def compared(found: dict[str, dict[str, float]], device: str) -> list[str]:
    """How `BlockTrainer` does beside the others, in sentences."""
    mine = found["`BlockTrainer`"]
    if device == "cpu":
        theirs, loop, kept = (found[way]["speed"] for way in list(CPU_WAYS)[:3])
        return [
            f"`BlockTrainer` is {mine['speed'] / theirs:.1f} times as fast as the guide's "
            f"`Trainer`, and {mine['speed'] / loop:.2f} and {mine['speed'] / kept:.2f} times as "
            "fast as the plain loops.",
            "Its matrix products, of the same shapes and in the same precision with no model "
            f"around them, take {mine['products']:.0%} of its step.",
        ]
    best = max(f["speed"] for way, f in found.items() if "BlockTrainer" in way)
    others = [
        f"{best / f['speed']:.2f} times as fast as {way}"
        for way, f in found.items()
        if "BlockTrainer" not in way
    ]
    ways = sum("BlockTrainer" in way for way in found)
    which = "`BlockTrainer`, the faster of its ways," if ways > 1 else "`BlockTrainer`"
    return [f"{which} is {', '.join(others)}."]


def report(name: str, device: str, found: dict[str, dict[str, float]]) -> None:
    """The table of one shape, into RESULTS.md, or printed for a try."""
    steps, batch, length = SHAPES[device][name]
    rows = [
        {
            "": way,
            "tokens/s": f"{f['speed']:,.0f}",
            "memory (MB)": f"{f['memory'] / 1e6:,.0f}",
            "of the peak": f"{f['share']:.0%}",
        }
        | ({} if device == "cpu" else {"batch": f["batch"], "waits": f"{f['waited']:.1%}"})
        for way, f in found.items()
    ]
    most = "" if device == "cpu" else "at most "
    text = [
        f"`make bench-{'training' if device == 'cpu' else 'gpu'}`. {steps} steps of {most}"
        f"{batch} blocks of {length} tokens, the median step; "
        f"`BlockTrainer` computes in {choose_dtype()}, which is what `auto` takes here.",
        table(rows),
        *compared(found, device),
    ]
    if device != "try":
        place = ", on a GPU" if device == "cuda" else ""
        record(f"Training, {name}{place}", "\n\n".join(text))
    else:
        print("\n\n".join(text))


def main(device: str, names: list[str]) -> None:
    """Every way and shape in turn."""
    for name in names or SHAPES[device]:
        found = {}
        for way in ways_of(device):
            if measured := in_process(way, name, device):
                found[way] = measured
            if device == "cuda" and len(found) > 1 and "`BlockTrainer`" in found:
                report(name, device, found)  # a time limit may end what comes after
        if "`BlockTrainer`" not in found or (device == "cpu" and len(found) < len(CPU_WAYS)):
            sys.exit(f"{name}: not every way could be measured.")
        if device != "cuda":
            report(name, device, found)


if __name__ == "__main__":
    chosen = sys.argv[1] if sys.argv[1:] else "cpu"
    if sys.argv[3:]:
        print(json.dumps(measure(sys.argv[3], sys.argv[2], chosen)))
    else:
        main(chosen, sys.argv[2:])
