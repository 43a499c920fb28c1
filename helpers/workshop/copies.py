"""The learner's copies of the notebooks and exercises, in `work/`; runs take the originals.

`work/` has the folders of the project, so that links between its pages lead from copy to copy.
`python start.py` makes what is missing in it, `python start.py reset 03` gives notebook 03 back.
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path

from helpers.engine.files import fingerprint, move, replace
from helpers.errors import UserError, nearest
from helpers.hub.sources import PROJECT

WORK = PROJECT / "work"
COPIED = (
    "notebooks/*.ipynb",
    "workshop/exercises/*.ipynb",
    "workshop/glossary.md",
    "docs/gallery.md",
)
STATE = "copies.json"  # the fingerprint of each original when it was copied


def make_copies() -> None:
    """Copy what `work/` lacks, and what has not been edited there since it was copied.

    A copy that has been edited is left alone; where its original has changed, that is said.
    """
    state, changed = _read_state(), []
    for original in _originals():
        name = original.relative_to(PROJECT).as_posix()
        copy, now = WORK / name, fingerprint(original)
        if not copy.exists() or fingerprint(copy) in (state.get(name), now):
            _copy(original, copy)
            state[name] = now
        elif state.get(name) != now:
            changed.append(original.stem)
    _write_state(state)
    if changed:
        names = list(dict.fromkeys(changed))
        print(
            f"{', '.join(names)}: changed in the project since you edited the copy in work/, which "
            f"stays as it is; `python start.py reset {names[0]}` gives the new one, keeping yours."
        )


def give_back(name: str) -> None:
    """Put the originals of a notebook and its exercises into `work/`, and keep what was there.

    Args:
        name: the number of a notebook, or its name: `03`, `03_chunk`, `appendix_traps`.

    Raises:
        UserError: there is no such notebook.
    """
    notebooks = [path for path in _originals() if path.suffix == ".ipynb"]
    wanted = Path(name).stem.zfill(2)
    chosen = [path for path in notebooks if wanted in (path.stem, _number(path))]
    if not chosen:
        known = nearest(name, {_number(path) for path in notebooks})
        raise UserError(f"There is no notebook {name!r} to give back: {known}.")
    state, now = _read_state(), time.strftime("%Y-%m-%d_%H-%M-%S")
    for original in chosen:
        path = original.relative_to(PROJECT).as_posix()
        copy = WORK / path
        if copy.exists() and fingerprint(copy) == fingerprint(original):
            print(f"work/{path} is as it was given out.")
            continue
        said = f"work/{path} is new"
        if copy.exists():
            kept = copy.with_name(f"{copy.stem}.{now}.ipynb")
            move(copy, kept)
            said += f"; yours is {kept.name} beside it"
        _copy(original, copy)
        state[path] = fingerprint(original)
        print(f"{said}.")
    _write_state(state)
    print("Where JupyterLab has it open: File > Reload Notebook from Disk, and restart its kernel.")


def _originals() -> list[Path]:
    return [path for pattern in COPIED for path in sorted(PROJECT.glob(pattern))]


def _number(path: Path) -> str:
    """How a notebook is called on the command line: by its number, an appendix by its name."""
    return path.stem[:2] if path.stem[:2].isdigit() else path.stem


def _copy(original: Path, copy: Path) -> None:
    """Copy a file as a whole or not at all, unless it is there already."""
    if copy.exists() and fingerprint(copy) == fingerprint(original):
        return
    copy.parent.mkdir(parents=True, exist_ok=True)
    temporary = copy.with_name(f".{copy.name}.{os.getpid()}")
    shutil.copyfile(original, temporary)
    move(temporary, copy)


def _read_state() -> dict[str, str]:
    """The recorded fingerprints; a damaged file counts as none, and copies then as edited."""
    try:
        return json.loads((WORK / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _write_state(state: dict[str, str]) -> None:
    WORK.mkdir(exist_ok=True)
    replace(WORK / STATE, json.dumps(state, indent=1) + "\n")


def main(names: list[str]) -> int:
    """Make the copies, or give those of the named notebooks back."""
    try:
        for name in names:
            give_back(name)
        if not names:
            make_copies()
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename or WORK}: {error.strerror}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
