"""Whether this machine is ready: `python -m helpers doctor`.

`python -m helpers.workshop.doctor` does the same where packages are missing, or Python is too old
(3.9 or newer): this module imports only the standard library until a check needs more.
"""

from __future__ import annotations  # an old Python reads this file too, to say that it is too old

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from threading import Thread

from helpers.workshop.measuring import kernel_prefix, other_kernels, products, training_speed

PROJECT = Path(__file__).parents[2]
OK, WARN, FAIL = "ok", "warn", "fail"
GB = 1e9
# On the machine where both were measured: all six notebooks, and the five steps below.
RUN_SECONDS, RUN_SPEED = 70.4, 6800.0  # seconds; tokens per second
NETWORK_TIMEOUT = 4.0  # seconds


@dataclass(frozen=True)
class Line:
    """What a check has found: its name, `ok`, `warn` or `fail`, and what to do about it."""

    name: str
    state: str
    found: str
    advice: str = ""

    def __str__(self) -> str:
        advice = f"; {self.advice}" if self.advice else ""
        return f"{f'[{self.state}]':6} {self.name:9} {self.found}{advice}"


def check_python() -> Line:
    """The version of Python."""
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < (3, 11):  # noqa: UP036  this file runs with an older one too
        return Line("python", FAIL, found, "install Python 3.11 or newer")
    return Line("python", OK, found)


def check_disk() -> Line:
    """Free room on the disk of the project."""
    free = shutil.disk_usage(PROJECT).free / GB
    state = OK if free > 3 else WARN if free > 1 else FAIL
    advice = "" if state == OK else "free some: packages take 2 GB, a run 0.1 GB"
    return Line("disk", state, f"{free:.1f} GB free", advice)


def check_memory() -> Line:
    """Free memory; a training of the default profile takes 0.9 GB."""
    import psutil

    free = psutil.virtual_memory().available / GB
    state = OK if free > 2 else WARN if free > 1 else FAIL
    advice = "" if state == OK else "close other programs: training takes 0.9 GB"
    return Line("memory", state, f"{free:.1f} GB free", advice)


def check_cores() -> Line:
    """The processor's cores."""
    cores = os.cpu_count() or 1
    advice = "" if cores > 1 else "everything works, but takes about twice as long"
    return Line("cores", OK if cores > 1 else WARN, str(cores), advice)


def check_packages() -> Line:
    """The packages that the project depends on, against the versions of the lock."""
    names = re.findall(
        r'^\s+"([\w.-]+)',
        re.search(r"^dependencies = \[(.*?)^\]", _read("pyproject.toml"), re.S | re.M)[1],
        re.M,
    )
    lock = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", _read("requirements.lock"), re.M))
    locked = {_canonical(name): version for name, version in lock.items()}
    installed = {name: _version(name) for name in names}
    if missing := [name for name, version in installed.items() if not version]:
        advice = "run `python start.py`, or `pip install -r requirements.lock`"
        return Line("packages", FAIL, f"missing: {', '.join(missing)}", advice)
    others = [
        f"{name} {version} (lock: {locked.get(_canonical(name))})"
        for name, version in installed.items()
        if version.split("+")[0] != locked.get(_canonical(name))
    ]
    if others:
        advice = "most work; if one does not, `pip install -r requirements.lock`"
        return Line("packages", WARN, f"not as in the lock: {', '.join(others)}", advice)
    return Line("packages", OK, f"{len(names)}, as in the lock")


def _read(name: str) -> str:
    return (PROJECT / name).read_text(encoding="utf-8")


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _version(name: str) -> str:
    """The installed version of a package, or '' where it is missing."""
    try:
        return metadata.version(name) or ""
    except metadata.PackageNotFoundError:
        return ""


def check_folder() -> Line:
    """Whether the folder of the runs can be written."""
    folder = PROJECT / "runs"
    try:
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=folder) as inside:
            for _ in range(2):  # the second time, it replaces a file that is there
                temporary = Path(inside) / "new"
                temporary.write_text("written", encoding="utf-8")
                os.replace(temporary, Path(inside) / "step.json")
    except OSError as error:
        advice = "move the project to a folder of your own, or name another run_dir"
        return Line("folder", FAIL, f"runs/ cannot be written ({error.strerror})", advice)
    if os.name == "nt" and len(str(PROJECT)) > 120:
        advice = "move the project up: Windows refuses paths of more than 260 characters"
        return Line("folder", WARN, f"its path has {len(str(PROJECT))} characters", advice)
    return Line("folder", OK, "runs/ can be written")


def check_network() -> Line:
    """Whether the Hub and the package index answer; nothing of the default profile needs them."""
    places = {"Hub": os.environ.get("HF_ENDPOINT", "https://huggingface.co")}
    places["package index"] = _package_index()
    answers: dict[str, bool] = {}

    def reach(name: str, address: str) -> None:
        answers[name] = _answers(address)

    threads = [Thread(target=reach, args=place, daemon=True) for place in places.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(NETWORK_TIMEOUT + 1)  # a name may take longer to resolve than its timeout
    said = [f"{name} {'' if answers.get(name) else 'not '}reachable" for name in places]
    advice = "" if all(map(answers.get, places)) else "fine: the profile tiny needs no network"
    return Line("network", OK, ", ".join(said), advice)


def _package_index() -> str:
    """The address of pip's package index."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    try:
        settings = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=10
        ).stdout
    except (OSError, subprocess.SubprocessError):
        settings = ""
    found = re.search(r"index-url='([^']+)'", settings)
    return os.environ.get("PIP_INDEX_URL") or (found[1] if found else "https://pypi.org/simple/")


def _answers(address: str) -> bool:
    request = urllib.request.Request(address, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=NETWORK_TIMEOUT).close()
    except urllib.error.HTTPError:
        return True  # it refuses this address, but it is there
    except (OSError, ValueError):
        return False
    return True


def check_kernels() -> Line:
    """Whether kernels of other notebooks take the processor."""
    shares = other_kernels()
    if busy := [share for share in shares if share > 20]:
        found = f"{len(busy)} other kernel{'s' * (len(busy) > 1)} at {sum(busy):.0f} % of a core"
        advice = "shut down in JupyterLab what you do not use (Kernel, Shut Down All Kernels)"
        return Line("kernels", WARN, found, advice)
    return Line("kernels", OK, f"{len(shares)} others, none busy")


def check_lab() -> Line:
    """Whether JupyterLab is installed."""
    if version := _version("jupyterlab"):
        return Line("lab", OK, f"JupyterLab {version}")
    advice = "run `python start.py`; in Colab, Kaggle or VS Code you do not need it"
    return Line("lab", WARN, "JupyterLab is not installed", advice)


def check_kernel() -> Line:
    """Whether a kernel starts and answers, and runs this Python."""
    prefix, seconds = kernel_prefix()
    if not prefix or not os.path.samefile(prefix, sys.prefix):
        advice = "remove it with `jupyter kernelspec remove python3`"
        return Line("kernel", FAIL, f"the kernel python3 is that of {prefix or 'nobody'}", advice)
    return Line("kernel", OK, f"answers after {seconds:.1f} s")


def check_processor() -> Line:
    """How fast products of matrices are, in float32 and in bfloat16."""
    kind, speed, gain = products()
    found = f"{kind}; {speed:,.0f} GFLOPS, {gain:.1f} times that in bfloat16"
    if speed < 20:
        advice = "slow: plug the power supply in, and close other programs"
        return Line("processor", WARN, found, advice)
    return Line("processor", OK, found)


def check_training() -> Line:
    """The speed of five steps of training, and how long a whole run will take by it."""
    speed = training_speed()
    minutes = RUN_SECONDS * RUN_SPEED / speed / 60
    found = f"{speed:,.0f} tokens per second: all six notebooks take about {minutes:.1f} minutes"
    if minutes > 10:
        return Line("training", WARN, found, "start it before the class, or pair up")
    return Line("training", OK, found)


CHECKS: tuple[Callable[[], Line], ...] = (
    check_python,
    check_packages,
    check_lab,
    check_disk,
    check_memory,
    check_cores,
    check_folder,
    check_network,
    check_kernels,
    check_kernel,
    check_processor,
    check_training,
)


def examine(checks: tuple[Callable[[], Line], ...] = CHECKS) -> Iterator[Line]:
    """The line of each check, as it is done; what goes wrong in a check is its line."""
    for check in checks:
        name = check.__name__.split("_")[1]
        try:
            yield check()
        except ModuleNotFoundError as error:
            yield Line(name, WARN, f"not looked at, since the package {error.name} is missing")
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".strip().split("\n")[0]
            yield Line(name, FAIL, reason, "send this line to whoever helps you")


def main(as_json: bool = False) -> int:
    """Print the lines, or with `as_json` one JSON object; 1 if a check has failed, else 0."""
    lines = []
    for line in examine():
        lines.append(line)
        if not as_json:
            print(line, flush=True)
    if as_json:
        machine = {"machine": platform.node(), "system": platform.platform()}
        print(json.dumps(machine | {"lines": [asdict(line) for line in lines]}, indent=1))
    return int(any(line.state == FAIL for line in lines))


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")
    sys.exit(main("--json" in sys.argv[1:]))
