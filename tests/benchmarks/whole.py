"""One whole run of profile `tiny` by the command line, and its figures on one line:
`python -m tests.benchmarks.whole RUN_DIR [-p step.parameter=value …]`.
"""

import json
import subprocess
import sys
from pathlib import Path


def main(folder: str, *parameters: str) -> None:
    """The device, the precision, both perplexities, and the seconds of each step."""
    command = [sys.executable, "-m", "helpers", "run", "--run-dir", folder, *parameters]
    done = subprocess.run(command)
    if done.returncode:
        sys.exit(done.returncode)
    metrics = json.loads((Path(folder) / "metrics.json").read_text(encoding="utf-8"))
    perplexities = [f"{part} {metrics[f'perplexity_{part}']:.4f}" for part in ("base", "finetuned")]
    seconds = [
        f"{n.removeprefix('seconds_')} {v:.0f}" for n, v in metrics.items() if "seconds_" in n
    ]
    print(
        "=", metrics["device"], metrics["dtype"], "perplexity", *perplexities, "seconds", *seconds
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
