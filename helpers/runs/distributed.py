"""Training on several devices or machines: several processes execute the code of notebook 04.

`python -m helpers train --nproc N` starts them with torchrun, which it spares a user: parameters
are checked before, the cores are shared, and an error is one sentence. `torchrun … -m helpers
train` and `accelerate launch … -m helpers train` do without it. One process writes and prints.
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
from helpers.runs.record import start_record

MARK = "helpers: "  # before the message of an error, in the output of a process


def train(run_dir: str, profile: str, settings: Mapping[str, object], nproc: int) -> None:
    """Do step `train` of a run in `nproc` processes; UserError where it cannot be done."""
    parameters, run = plan(profile, settings), Run(run_dir)
    is_first = os.environ.get("RANK", "0") == "0"
    if is_first and run.folder.is_dir():
        start_record(run, profile, settings, parameters, "only its step train was requested.")
    if "RANK" in os.environ or nproc == 1:
        if not is_first:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        _execute({"run_dir": run.shown, **parameters["train"]})
        return
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(nproc)]
    # The run folder remembers the profile and the settings.
    command = [sys.executable, *launcher, "-m", "helpers", "train", "--run-dir", run.shown]
    threads = max(1, (os.cpu_count() or nproc) // nproc)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    try:
        result = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
    except OSError as error:
        raise RunError(
            f"nproc is {nproc}: the processes could not be started ({error.strerror})."
        ) from None
    if result.returncode:
        marked = [line for line in result.stderr.splitlines() if line.startswith(MARK)]
        why = marked[0].removeprefix(MARK) if marked else "\n" + result.stderr[-2000:]
        raise RunError(f"train failed in {nproc} processes: {why}")


def _execute(parameters: dict[str, object]) -> None:
    """Run the code cells of the notebook, with these parameters in place of its own."""
    path = path_of("train")
    names: dict[str, object] = {"__name__": "__main__"}
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), names)
            if "parameters" in cell["metadata"].get("tags", []):
                names |= parameters
