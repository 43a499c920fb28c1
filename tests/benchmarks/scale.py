"""Chunking of texts that are larger than memory: `python -m tests.benchmarks.scale [MILLIONS ...]`.

Documents of random tokens are generated into an Arrow file, chunked into a folder in a process of
its own, and the peak of its anonymous memory is taken: what the kernel cannot drop, unlike the
pages of the two files.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, disable_progress_bars

from helpers.chunking import chunk
from tests.benchmarks.results import record, table, watched

BLOCK_SIZE = 1024


def generate(path: Path, tokens: int) -> None:
    """Documents of 450 random tokens on average, written a million tokens at a time."""
    rng, kind = np.random.default_rng(0), pa.large_list(pa.int32())
    with pa.ipc.new_stream(str(path), pa.schema([("input_ids", kind)])) as stream:
        for _ in range(tokens // 1_000_000):
            borders = np.sort(rng.choice(1_000_000, 2221, replace=False))
            offsets = np.concatenate([[0], borders[1:], [1_000_000]])
            ids = rng.integers(1, 50_257, 1_000_000, dtype=np.int32)
            stream.write_batch(
                pa.record_batch({"input_ids": pa.LargeListArray.from_arrays(offsets, ids)})
            )


def measure(path: str, strategy: str, folder: str) -> dict[str, float]:
    """Seconds, and the peak of anonymous memory in bytes."""
    disable_progress_bars()
    chunk(Dataset.from_dict({"input_ids": [[1, 2, 3]]}), 2, 0, strategy)  # imports
    with watched() as memory:
        start = time.perf_counter()
        _, account = chunk(Dataset.from_file(path), BLOCK_SIZE, 0, strategy, folder=Path(folder))
        seconds = time.perf_counter() - start
    assert account.tokens_in + account.separators == account.tokens_kept + account.tokens_dropped
    return {
        "seconds": seconds,
        "memory": memory["peak"] - memory["before"],
        "tokens": account.tokens_in,
        "filled": account.places_filled,
    }


def main(millions: list[int]) -> None:
    """Measure each size with each strategy, and write the table."""
    rows, slopes = [], []
    for strategy in ("concat", "pack"):
        peaks = []
        for size in millions:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "documents.arrow"
                generate(path, size * 1_000_000)
                command = [
                    sys.executable,
                    "-m",
                    "tests.benchmarks.scale",
                    "--one",
                    str(path),
                    strategy,
                    folder + "/blocks",
                ]
                found = json.loads(
                    subprocess.run(command, check=True, capture_output=True, text=True).stdout
                )
            peaks.append(found["memory"])
            rows.append(
                {
                    "": strategy,
                    "million tokens": f"{size:,}",
                    "seconds": f"{found['seconds']:.1f}",
                    "million tokens/s": f"{found['tokens'] / found['seconds'] / 1e6:.0f}",
                    "peak memory (MB)": f"{found['memory'] / 1e6:.0f}",
                    "filled": f"{found['filled']:.2%}",
                }
            )
        slope = np.polyfit(np.array(millions) * 1e6, peaks, 1)[0]
        slopes.append(f"{strategy} {slope:.4f}")
    head = (
        f"`make bench-chunking`. Blocks of {BLOCK_SIZE:,} with `position_ids`, written to disk "
        "(8 bytes per token). Memory is the peak of anonymous memory above what it was before; its "
        f"slope, in bytes per token: {', '.join(slopes)}."
    )
    record("Chunking, larger than memory", f"{head}\n\n{table(rows)}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(*sys.argv[2:])))
    else:
        main([int(argument) for argument in sys.argv[1:]] or [10, 100, 1000])
