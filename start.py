"""Make the environment in .venv where it is missing or out of date, then do one of these:

    python start.py                    check the machine once, and open JupyterLab in work/
    python start.py reset 03           give notebook 03 back in work/, and keep yours beside it
    python start.py run [OPTIONS]      run the six notebooks: 'python -m helpers run' with OPTIONS
    python start.py test [--full]      run the tests; --full: those that take minutes, too
    python start.py doctor [OPTIONS]   look at the machine, and say what is wrong
    python start.py env [--dev]        no more than the environment; --dev: with what tests need
    python start.py wheelhouse [SYSTEM ...] [VERSION ...]
                                       fetch all packages, for machines without a network
    python start.py kit [SYSTEM ...] [VERSION ...]
                                       one zip with the project and its packages, for a USB stick

On Windows, 'py start.py'. Only Python 3.11 or newer is needed, and nothing besides it.
"""

import errno
import hashlib
import importlib.util
import itertools
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from contextlib import contextmanager
from pathlib import Path

if os.name == "nt":
    import msvcrt
    import winreg

    fcntl = None
else:
    import fcntl

if sys.version_info < (3, 11):  # noqa: UP036  # up to here, Python 3.6 understands this file
    sys.exit(
        f"Python 3.11 or newer is needed, and this is {platform.python_version()}: call a newer "
        "one by name, such as python3.12 or, on Windows, py -3.12."
    )

PROJECT = Path(__file__).resolve().parent
VENV = PROJECT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STATE, LOG = VENV / "start.json", VENV / "install.log"
LOCK, DEV_LOCK = PROJECT / "requirements.lock", PROJECT / "requirements-dev.lock"
# Free megabytes that an environment must find, and the longest path inside one (both measured).
NEEDED_MB = {False: 2000, True: 2200}
LONGEST_PATH = 195
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# What pip says of a package that it cannot get; the second where a constraint names it.
ABSENT = r"(?:No matching distribution found for|Cannot install) (\S+)"
FULL = "not gpu and not peers and not browser"
QUICK = f"not full and {FULL}"
TESTS = ["-n", "2", "--dist", "loadfile", "tests", "-m"]


class StartError(Exception):
    """What went wrong, as one sentence, and what would help."""


def say(text: str, end: str = "\n") -> None:
    """Print to standard error at once: the output of what is started stays clean."""
    print(text, end=end, file=sys.stderr, flush=True)


# ---- The environment ------------------------------------------------------------------------


def environment(whole: bool = False) -> str:
    """Make .venv, or bring it up to date, if that is needed.

    Args:
        whole: With the packages that only the tests need.

    Returns:
        The path of its Python, or of the running one if its own environment has all packages.
    """
    if in_another_environment() and not missing(LOCK, *[DEV_LOCK] * whole):
        return sys.executable
    if not is_current(whole):
        with one_at_a_time() as handle:
            if not is_current(whole):  # else the one that was waited for has done it
                make(whole, handle)
    return str(PYTHON)


def in_another_environment() -> bool:
    """Whether this Python belongs to an environment besides .venv, such as conda's or Colab's."""
    prefix = Path(sys.prefix).resolve()
    conda = (prefix / "conda-meta").is_dir() and not (prefix / "condabin").is_dir()
    hosted = any(name in os.environ for name in ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"))
    return prefix != VENV.resolve() and (sys.prefix != sys.base_prefix or conda or hosted)


def missing(*locks: Path) -> list[str]:
    """The packages, needed on every system, that this Python lacks or has in another version."""
    import importlib.metadata  # Python 3.6 lacks it

    found = []
    for name, version in re.findall(r"^([\w.-]+)==(\S+)$", "\n".join(map(read, locks)), re.M):
        try:
            installed = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            installed = None
        found += [name] if installed != version else []
    return found


def read(path: Path) -> str:
    """The text of a file, '' if there is none."""
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def read_state() -> dict[str, str]:
    """For what folder .venv was made, and which locks are installed in it."""
    try:
        return json.loads(read(STATE))
    except ValueError:
        return {}


def wanted_state(whole: bool) -> dict[str, str]:
    """The state of an environment that is up to date."""
    locks = [LOCK, DEV_LOCK] if whole else [LOCK]
    sums = {lock.name: hashlib.sha256(read(lock).encode()).hexdigest() for lock in locks}
    return {"folder": str(VENV.resolve()), **sums}


def is_current(whole: bool) -> bool:
    """Whether .venv was made here from the locks as they are now."""
    return PYTHON.exists() and wanted_state(whole).items() <= read_state().items()


def write_state(whole: bool | None) -> None:
    """Record what is installed; None: nothing so far."""
    state = wanted_state(False)
    state = {"folder": state["folder"]} if whole is None else {**read_state(), **state}
    STATE.write_text(json.dumps(state | (wanted_state(True) if whole else {})), encoding="utf-8")


@contextmanager
def one_at_a_time():
    """Wait until no other start.py works on .venv; the system frees the lock of a dead process."""
    with open(PROJECT / ".venv.lock", "a+b") as file:
        for attempt in itertools.count():
            try:
                if fcntl:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                else:
                    file.seek(0)
                    msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                    break  # a disk that knows no locks
                if not attempt:
                    say("Another start.py is making the environment; this one waits for it.")
                time.sleep(0.3)
        yield file.fileno()


def make(whole: bool, handle: int) -> None:
    """Make .venv, or install in it what is missing, and record that; `handle` is the lock's."""
    check_machine(whole)
    start, folder = time.monotonic(), read_state().get("folder")
    if VENV.exists():
        why = None
        if folder not in (None, str(VENV.resolve())):
            why = f"The project has been moved here from {Path(folder).parent}"
        elif not runs(str(PYTHON), "-m", "pip", "--version"):
            why = "The environment in .venv is not whole, or its Python is gone"
        if why:
            say(f"{why}: .venv is made anew.")
            shutil.rmtree(VENV.resolve())
    if not VENV.exists():
        say("Making .venv, once; this takes a few minutes, and goes on if it is interrupted.")
        if not runs(getattr(sys, "_base_executable", sys.executable), "-m", "venv", str(VENV)):
            raise StartError(f"{sys.executable} could not make {VENV}; 'python -m venv' says why.")
        write_state(None)
    else:
        say("Installing in .venv what is missing.")
    site = next(VENV.glob("lib/python3*/site-packages"), VENV / "Lib" / "site-packages")
    for broken in (p for p in site.glob("*.dist-info") if not (p / "INSTALLER").exists()):
        shutil.rmtree(broken)  # pip was killed within this package, and would take it as done
    # The project's folder, seen from .venv: right wherever both are, in every code page.
    line = "import os, sys; sys.path.append(os.path.dirname(sys.prefix))\n"
    (site / "clm_notebooks.pth").write_text(line, encoding="ascii")
    for options in sources(whole):
        install(options, site, handle)
    write_state(whole)
    say(f"The environment is ready, after {time.monotonic() - start:.0f} seconds.")


def runs(*command: str) -> bool:
    """Whether a command can be started and succeeds."""
    try:
        return subprocess.run(command, capture_output=True, cwd=PROJECT).returncode == 0
    except OSError:
        return False


def check_machine(whole: bool) -> None:
    """Refuse what could only fail later.

    Raises:
        StartError: If the Python or the disk will not do.
    """
    if not all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise StartError(
            f"This Python has no module venv: on Debian and Ubuntu, install python{version}-venv "
            f"with 'sudo apt install python{version}-venv'; elsewhere, take the one of python.org."
        )
    if sys.maxsize < 2**32:
        raise StartError("This is a 32-bit Python, which PyTorch no longer supports: take 64 bits.")
    free = shutil.disk_usage(PROJECT).free // 10**6
    if not VENV.exists() and free < NEEDED_MB[whole]:
        raise StartError(
            f"The environment needs {NEEDED_MB[whole]:,} MB, and the disk of {PROJECT} has "
            f"{free:,} MB free: make room, or move the project to another disk."
        )
    if os.name == "nt" and len(str(VENV)) + LONGEST_PATH > 259 and not long_paths():
        raise StartError(
            f"The path {PROJECT} is too long for Windows, whose limit is 260 characters: move the "
            f"project to a path of at most {250 - LONGEST_PATH}, such as C:\\clm."
        )


def long_paths() -> bool:
    """Whether this Windows allows paths of more than 260 characters."""
    try:
        key = r"SYSTEM\CurrentControlSet\Control\FileSystem"
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, key) as opened:
            return winreg.QueryValueEx(opened, "LongPathsEnabled")[0] == 1
    except OSError:
        return False


# ---- Packages -------------------------------------------------------------------------------


def sources(whole: bool) -> list[list[str]]:
    """The options of each call of pip: a wheelhouse for this system comes before the index."""
    rest = [["-r", str(DEV_LOCK if whole else LOCK)]]
    version = subprocess.run(
        [PYTHON, "-V"], capture_output=True, encoding="utf-8", errors="replace"
    ).stdout
    house = PROJECT / "wheelhouse" / house_name(re.findall(r"3\.\d+", version)[0])
    if not house.is_dir():
        others = sorted(p.name for p in house.parent.glob("*-*"))
        if others:
            say(f"wheelhouse/ is for {', '.join(others)}, and not for this system, {house.name}.")
    elif read(house / "requirements.lock") != read(LOCK):
        say(f"wheelhouse/{house.name} was made from another requirements.lock: it is not used.")
    else:
        say(f"Packages come from wheelhouse/{house.name}, without a network.")
        options = ["--no-index", "--find-links", str(house), "--require-hashes"]
        return [[*options, "-r", str(house / "requirements.txt")], *(rest if whole else [])]
    warn_of_gpu_build()
    return rest


def house_name(version: str) -> str:
    """The folder in wheelhouse/ for this system: win_amd64-3.12, macosx_arm64-3.12"""
    system = sysconfig.get_platform().replace("-", "_")
    return f"{f'macosx_{platform.machine()}' if sys.platform == 'darwin' else system}-{version}"


def warn_of_gpu_build() -> None:
    """Say how large PyTorch is where, on Linux, the index lacks the build for processors."""
    torch = re.search(r"^torch==(\S+)", read(LOCK), re.M)
    if sys.platform != "linux" or not torch or any(VENV.glob("lib/python3*/site-packages/torch")):
        return
    command = [PYTHON, "-m", "pip", "index", "versions", "torch"]
    listed = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace").stdout
    if listed and f"{torch[1]}+cpu" not in listed:
        say(
            "PyTorch comes with the libraries for NVIDIA GPUs, 2.7 GB to download: the package "
            "index has no smaller build. For that (0.2 GB), press Ctrl-C and call\n"
            f"    PIP_EXTRA_INDEX_URL={CPU_INDEX} python3 start.py"
        )


def install(options: list[str], site: Path, handle: int) -> None:
    """Call `pip install`, show how far it is, and explain its failure.

    Raises:
        StartError: If pip fails.
    """
    command = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    command += ["--progress-bar", "off", *options]
    # pip keeps the lock, should this process be killed.
    keep = {"pass_fds": (handle,)} if fcntl else {}
    locks = [LOCK, DEV_LOCK] if options[-1] == str(DEV_LOCK) else [LOCK]
    expected = len(re.findall(r"^[\w.-]+==\S+$", "".join(map(read, locks)), re.M))
    with LOG.open("wb") as log:
        pip = subprocess.Popen(command, stdout=log, stderr=log, cwd=PROJECT, **keep)
    terminal, start = sys.stderr.isatty(), time.monotonic()
    shown = start
    try:
        while pip.poll() is None:
            time.sleep(0.2)
            now = time.monotonic()
            if now - shown > (0.3 if terminal else 15):
                text = f"{progress(expected, site)}, {now - start:.0f} seconds"
                say(f"\r{text:<70}" if terminal else text, end="" if terminal else "\n")
                shown = now
    finally:
        pip.wait()  # after Ctrl-C, which pip gets too
        say(f"\r{'':<70}\r" if terminal else "", end="")
    if pip.returncode:
        raise StartError(explain(read(LOG), "--no-index" in options))


def progress(expected: int, site: Path) -> str:
    """How many packages pip has found, or installed, of how many."""
    text = read(LOG)
    listed = re.search(r"^Installing collected packages: (.+)$", text, re.M)
    if listed:
        names = {re.sub(r"[-_.]+", "_", name).lower() for name in listed[1].split(", ")}
        there = (p.parent.name.partition("-")[0] for p in site.glob("*.dist-info/INSTALLER"))
        done = sum(re.sub(r"[-_.]+", "_", name).lower() in names for name in there)
        return f"{done} of {len(names)} packages installed"
    steps = r"^(?:Collecting|Processing|Requirement already satisfied:) (\S+)"
    seen = len(set(re.findall(steps, text, re.M)))
    return f"{min(seen, expected)} of {expected} packages found"


def explain(log: str, from_house: bool) -> str:
    """Why pip failed, as a sentence, from what it has printed."""
    free = shutil.disk_usage(PROJECT).free // 10**6
    if "No space left on device" in log or "[Errno 28]" in log:
        return f"The disk is full ({free:,} MB are free): make room, and the same command goes on."
    absent = re.search(ABSENT, log)
    if from_house and (absent or "DO NOT MATCH THE HASHES" in log):
        return "A file in wheelhouse/ is missing or damaged: copy that folder anew."
    unreachable = r"NewConnectionError|NameResolutionError|ConnectTimeout|ProxyError|versions: none"
    if absent and re.search(unreachable, log):
        return (
            "The package index cannot be reached, and there is no wheelhouse for this system: "
            "connect to a network, or copy the folder wheelhouse/ from a machine that has one "
            "('python start.py wheelhouse' makes it). The same command goes on."
        )
    if absent:
        return (
            f"There is no {absent[1]} for Python {platform.python_version()} on "
            f"{platform.platform()}: README.md lists the systems that have all packages."
        )
    last = (re.findall(r"^ERROR: (.+)$", log, re.M) or ["no reason given"])[-1]
    return f"pip could not install the packages: {last} (all that it printed is in {LOG})."


# ---- Commands -------------------------------------------------------------------------------


def call(python: str, *arguments: str, **variables: str) -> int:
    """Run a Python command in the project's folder as if its environment were activated."""
    folder = Path(python).parent
    path = f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, "PATH": path, "PYTHONUTF8": "1", **variables}
    process = subprocess.Popen([python, *arguments], cwd=PROJECT, env=environment)
    # Ctrl-C reaches the process by itself; other signals are passed on. Both let it save its work.
    signal.signal(signal.SIGINT, lambda *_: None)
    for name in ("SIGTERM", "SIGHUP"):
        if os.name != "nt":
            signal.signal(getattr(signal, name), lambda number, _: process.send_signal(number))
    return process.wait()


def lab(*options: str) -> int:
    """Open JupyterLab; where the environment is new, look at the machine before."""
    new = not is_current(False)
    python = environment()
    if new and call(python, "-m", "helpers", "doctor"):
        say("What is marked [fail] may stop a notebook; JupyterLab opens all the same.")
    if call(python, "-m", "helpers.workshop.copies"):
        return 1
    first = min((PROJECT / "work" / "notebooks").glob("*.ipynb")).relative_to(PROJECT).as_posix()
    if getattr(os, "geteuid", lambda: 1)() == 0:
        say("JupyterLab runs as root: who has its address and token can do all on this machine.")
        options += ("--allow-root",)
    folders = [str(PROJECT / "workshop" / "jupyter"), os.environ.get("JUPYTER_CONFIG_PATH", "")]
    settings = {"JUPYTER_CONFIG_PATH": os.pathsep.join(filter(None, folders))}
    return call(python, "-m", "jupyterlab", "--notebook-dir=.", first, *options, **settings)


def reset(*names: str) -> int:
    """Give the originals of notebooks back to the learner."""
    if not names:
        raise StartError("reset needs the number of a notebook: python start.py reset 03")
    return call(environment(), "-m", "helpers.workshop.copies", *names)


def run(*options: str) -> int:
    """Run the notebooks."""
    return call(environment(), "-m", "helpers", "run", *options)


def test(*options: str) -> int:
    """Run the notebooks first, with every core; then the tests, two files at a time."""
    python, pytest = environment(whole=True), ("-m", "pytest", "-q")
    profile = {"HYPOTHESIS_PROFILE": "full"} if "--full" in options else {}
    threads = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
    chosen = FULL if "--full" in options else QUICK
    status = call(python, *pytest, "notebooks", **profile)
    return status or call(python, *pytest, *TESTS, chosen, **threads, **profile)


def doctor(*options: str) -> int:
    """Look at the machine, in the environment that somebody else has made if there is one."""
    names = missing(LOCK) if in_another_environment() and not PYTHON.exists() else []
    if names:
        say(
            f"[fail] {len(names)} packages of requirements.lock are missing here, or have another "
            f"version: {', '.join(names)}. Call {sys.executable} -m pip install -r {LOCK.name}"
        )
        return 1
    return call(environment(), "-m", "helpers", "doctor", *options)


def env(*options: str) -> int:
    """Make the environment, and no more."""
    environment(whole="--dev" in options)
    return 0


def wheelhouse(*names: str) -> int:
    """Fetch all packages for other systems."""
    return call(environment(), "-m", "tools.wheelhouse", *names)


def kit(*names: str) -> int:
    """Make one zip of all that a machine without a network needs."""
    return call(environment(), "-m", "tools.kit", *names)


COMMANDS = {f.__name__: f for f in (lab, reset, run, test, doctor, env, wheelhouse, kit)}


def main(arguments: list[str]) -> int:
    """Do what the first argument names, JupyterLab without one; the others belong to it."""
    name, *options = arguments or ["lab"]
    if name in ("-h", "--help", "help"):
        print(__doc__)
        return 0
    say(f"Python {platform.python_version()} on {platform.platform(terse=True)}")
    try:
        if name not in COMMANDS:
            raise StartError(f"There is no command {name!r}; there are {', '.join(COMMANDS)}.")
        return COMMANDS[name](*options)
    except StartError as error:
        say(str(error))
    except OSError as error:
        say(f"{error.filename or PROJECT}: {error.strerror}. Is it in use, or write-protected?")
    except KeyboardInterrupt:
        say("Interrupted; the same command goes on from here.")
        return 130
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
