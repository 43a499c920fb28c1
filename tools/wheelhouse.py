"""Fetch the wheels of requirements.lock, with their hashes, for machines without a network.

    python start.py wheelhouse                                 for this system and Python
    python start.py wheelhouse win_amd64 macosx_14_0_arm64 3.11 3.12

Each system and Python gets a folder in `wheelhouse/`, which start.py finds there by its name.
"""

import hashlib
import re
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from start import ABSENT, CPU_INDEX, LOCK, PROJECT, StartError, house_name, read

MANYLINUX = [f"manylinux_2_{minor}" for minor in range(28, 4, -1)]
MANYLINUX += ["manylinux2014", "manylinux2010", "manylinux1"]
# What pip's tags do not say and the lock's conditions look at.
MARKERS = {
    "win": {"sys_platform": "win32", "os_name": "nt", "platform_system": "Windows"},
    "macosx": {"sys_platform": "darwin", "os_name": "posix", "platform_system": "Darwin"},
    "manylinux": {"sys_platform": "linux", "os_name": "posix", "platform_system": "Linux"},
}


def this_system() -> str:
    """The platform tag of this system's wheels."""
    system, machine = house_name("").rstrip("-").split("_", 1)
    return {"linux": "manylinux_2_28", "macosx": "macosx_14_0"}.get(system, system) + f"_{machine}"


def split_tag(tag: str) -> tuple[str, str]:
    """The system and the machine of a platform tag.

    Raises:
        StartError: If it is none.
    """
    parts = re.fullmatch(r"(win|macosx(?=_\d)|manylinux(?=_\d))(?:_\d+_\d+)?_([a-z]\w+)", tag)
    if not parts:
        raise StartError(
            f"{tag!r} is neither a version of Python such as 3.12 nor a system such as win_amd64, "
            "macosx_14_0_arm64 or manylinux_2_28_x86_64."
        )
    return parts[1], parts[2]


def lines_for(tag: str, full_version: str) -> list[Requirement]:
    """What the lock lists for a system and a version of Python such as 3.11.5."""
    system, machine = split_tag(tag)
    environment = MARKERS[system] | {
        "platform_machine": machine.upper() if system == "win" else machine,
        "python_version": ".".join(full_version.split(".")[:2]),
        "python_full_version": full_version,
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    listed = [Requirement(x) for x in read(LOCK).splitlines() if x and not x.startswith("#")]
    return [r for r in listed if not r.marker or r.marker.evaluate(environment)]


def download(tag: str, version: str, pins: list[str], folder: Path) -> None:
    """Fetch one set of wheels.

    Raises:
        StartError: If one cannot be had.
    """
    system, machine = split_tag(tag)
    tags = [f"{name}_{machine}" for name in MANYLINUX] if system == "manylinux" else [tag]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
    command += ["--only-binary=:all:", "--python-version", version, "--implementation", "cp"]
    command += [f"--platform={name}" for name in tags]
    done = subprocess.run([*command, *pins], capture_output=True, text=True)
    if done.returncode == 0:
        return
    absent = re.search(ABSENT, done.stderr)
    if not absent:
        errors = re.findall(r"^ERROR: (.+)$", done.stderr, re.M)
        raise StartError(f"pip could not fetch the packages: {(errors or [done.stderr])[-1]}")
    advice = "take another system or Python, which README.md lists."
    if absent[1].endswith("+cpu"):
        advice = f"set PIP_EXTRA_INDEX_URL={CPU_INDEX}, where PyTorch's builds for processors are."
    raise StartError(f"There is no {absent[1]} for {tag} and Python {version}: {advice}")


def fill(tag: str, version: str) -> Path:
    """Fetch all wheels for a system and a Python into their folder of the wheelhouse.

    Args:
        tag: A platform tag, such as `win_amd64`.
        version: Two numbers, such as `3.12`.

    Returns:
        The folder, with the wheels, `requirements.txt` with their hashes, and the lock.
    """
    system, machine = split_tag(tag)
    name = f"{'linux' if system == 'manylinux' else system}_{machine}-{version}"
    folder = PROJECT / "wheelhouse" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "requirements.lock").unlink(missing_ok=True)  # written last: it says that all is here
    # A lock may distinguish between the first and the later releases of a Python.
    ends = [lines_for(tag, f"{version}.{patch}") for patch in (0, 99)]
    print(f"wheelhouse/{name}: fetching {len(ends[1])} packages", flush=True)
    start = time.monotonic()
    for patch, wanted in ((0, ends[0]), (99, [pin for pin in ends[1] if pin not in ends[0]])):
        pins = [f"{r.name}{r.specifier}" for r in wanted]
        if system == "manylinux":  # the build without the gigabytes for GPUs
            pins = [re.sub(r"^(torch==[\d.]+)$", r"\1+cpu", pin) for pin in pins]
        if pins:
            download(tag, f"{version}.{patch}", pins, folder)
    lines, kept = [], set()
    for requirement in dict.fromkeys(ends[0] + ends[1]):
        for wheel in folder.glob("*.whl"):
            found, release, *_ = parse_wheel_filename(wheel.name)
            if found == canonicalize_name(requirement.name) and release in requirement.specifier:
                digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
                lines.append(f"{requirement} --hash=sha256:{digest}")
                kept.add(wheel)
    for wheel in set(folder.glob("*.whl")) - kept:
        wheel.unlink()
    (folder / "requirements.txt").write_text("\n".join([*lines, ""]), encoding="utf-8")
    (folder / "requirements.lock").write_text(read(LOCK), encoding="utf-8", newline="\n")
    size = sum(wheel.stat().st_size for wheel in kept) / 1e6
    print(f"  {len(kept)} wheels, {size:.0f} MB, in {time.monotonic() - start:.0f} seconds")
    return folder


def fill_all(names: list[str]) -> list[Path]:
    """Fill the wheelhouse for every system and every Python that is named, by default for these.

    Raises:
        StartError: If a name is neither, or a package cannot be had.
    """
    here = sysconfig.get_python_version()
    versions = [name for name in names if re.fullmatch(r"3\.\d+", name)] or [here]
    systems = [name for name in names if name not in versions] or [this_system()]
    for tag in systems:
        split_tag(tag)
    return [fill(tag, version) for tag in systems for version in versions]


def main(names: list[str]) -> int:
    """Fill the wheelhouse for what is named."""
    try:
        fill_all(names)
    except StartError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
