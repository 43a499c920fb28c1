"""What the runner itself costs: `python -m tests.benchmarks.batch`.

One run of the six notebooks, and a sweep of 24, on the embedded default, in empty folders. The work of a run is what its cells take, as papermill
has measured it; the rest of the command's time is the runner's.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from helpers.sources import PROJECT
from tests.benchmarks.results import record, table

SWEEP = {
    "grid": {
        "train.learning_rate": [1e-4, 3e-4, 1e-3, 3e-3],
        "chunk.block_size": [32, 48, 64, 96, 128, 192],
    }
}
JOBS = 2


def timed(*arguments: str) -> float:
    """Seconds that a command takes."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "helpers", *arguments], cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def cells(folder: Path) -> float:
    """Seconds that the cells of the notebooks below a folder took; those that runs share, which are links to one file, counted once."""
    found = 0.0
    for path in {path.stat().st_ino: path for path in folder.rglob("0*.ipynb")}.values():
        for cell in json.loads(path.read_text())["cells"]:
            found += cell["metadata"].get("papermill", {}).get("duration") or 0.0
    return found


def main() -> None:
    """Measure, and write the section of RESULTS.md."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        one = timed("run", "--run-dir", str(folder / "run"))
        own = one - cells(folder / "run")
        again = timed("run", "--run-dir", str(folder / "run"))
        (folder / "sweep.yaml").write_text(yaml.safe_dump(SWEEP))
        many = timed("sweep", str(folder / "sweep.yaml"), "--sweep-dir", str(folder / "out"), "--jobs", str(JOBS))
        own_many = many - cells(folder / "out") / JOBS
        records = [json.loads(path.read_text()) for path in sorted((folder / "out").glob("*/run.json"))]
    work = sum(r["metrics"]["seconds_train"] + r["metrics"]["seconds_evaluate"] for r in records)
    rows = [
        {"": "one run", "seconds": f"{one:.1f}", "of the runner": f"{own:.1f}"},
        {"": "the same again, with nothing to do", "seconds": f"{again:.1f}", "of the runner": f"{again:.1f}"},
        {"": f"sweep of {len(records)}, {JOBS} at once", "seconds": f"{many:.0f}", "of the runner": f"{own_many:.0f}"},
    ]
    text = (
        f"`make bench-batch`, {os.cpu_count()} cores.\n\n{table(rows)}\n\n"
        f"Training and evaluation in the sweep took {work:,.0f} seconds in all; the sweep took {many / (work / JOBS):.2f} times that, divided by {JOBS}. "
        f"The runner's own part of it is {own_many / many:.1%}: all that is not in a cell, and {JOBS - 1} of {JOBS} waiting for the last run."
    )
    record("Batch runs", text)


if __name__ == "__main__":
    main()
