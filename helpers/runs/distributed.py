"""Training on several devices or machines: the code of notebook 04, executed by several processes at once.

`python -m helpers train --nproc N` starts them here; `torchrun … -m helpers train` or `accelerate launch … -m helpers train` start them
in any other way. Of the processes, one writes and prints.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping

from helpers.errors import RunError
from helpers.runs.folder import Run
from helpers.runs.notebook import path_of
from helpers.runs.profiles import plan
from helpers.runs.run import remember

STEP = "train"


def train(run_dir: str, profile: str, settings: Mapping[str, object], nproc: int) -> None:
    """Do step `train` of a run in `nproc` processes. Raises UserError where it cannot be done."""
    parameters, folder = plan(profile, settings), Run(run_dir)
    if os.environ.get("RANK", "0") == "0" and folder.folder.is_dir():
        remember(folder, profile, settings, parameters, "only its step train was asked for.")
    if "RANK" in os.environ or nproc == 1:
        _execute({"run_dir": folder.shown, **parameters[STEP]})
        return
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        str(nproc),
        "--standalone",
        "-m",
        "helpers",
        STEP,
    ]
    command += ["--run-dir", folder.shown]  # which remembers the rest
    cores = os.cpu_count() or nproc
    environment = {"OMP_NUM_THREADS": str(max(1, cores // nproc)), **os.environ}
    try:
        done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
    except OSError as error:
        raise RunError(
            f"nproc is {nproc}: the processes could not be started ({error.strerror})."
        ) from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith(MARK)]
        why = said[0].removeprefix(MARK) if said else "\n" + done.stderr[-2000:]
        raise RunError(f"train failed in {nproc} processes: {why}")


MARK = "helpers: "  # before the sentence of an error that a process ends with


def _execute(parameters: dict[str, object]) -> None:
    """Run the code cells of the notebook one after the other, these parameters in place of its own."""
    cells = json.loads(path_of(STEP).read_text(encoding="utf-8"))["cells"]
    names: dict[str, object] = {"__name__": "__main__"}
    if os.environ.get("RANK", "0") != "0":
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            exec(
                compile("".join(cell["source"]), f"{path_of(STEP).name}, cell {number}", "exec"),
                names,
            )
            if "parameters" in cell["metadata"].get("tags", []):
                names |= parameters
