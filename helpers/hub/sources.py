"""Where data sets and models lie: embedded in this package, on this machine, in a package from PyPI, or on the Hub."""

import contextlib
import difflib
import json
import os
from pathlib import Path

from helpers.errors import DataError, ModelError
from helpers.hub import packages as packaged

PROJECT = Path(__file__).parents[2]
ASSETS = Path(__file__).parents[1] / "assets"
EMBEDDED = {"dataset": ASSETS / "eli5_simple" / "records.jsonl", "model": ASSETS / "base_model"}
READERS = {  # endings of files, and which reader of the library is for them
    "json": {"path": "json"},
    "jsonl": {"path": "json"},
    "ndjson": {"path": "json"},
    "csv": {"path": "csv"},
    "tsv": {"path": "csv", "delimiter": "\t"},
    "parquet": {"path": "parquet"},
    "txt": {"path": "text", "encoding": "utf-8-sig"},  # some editors begin a file with a mark
    "text": {"path": "text", "encoding": "utf-8-sig"},
}


def resolve(path: str | Path) -> Path:
    """A path as given by a person: relative ones start at the project's folder, `~` is the home."""
    path = Path(path)
    with contextlib.suppress(RuntimeError):  # ~ and the name of nobody
        path = path.expanduser()
    return PROJECT / path


def source_of(kind: str, name: str) -> Path | None:
    """Where a `dataset` or `model` lies on this machine without the Hub, or None for a name on the Hub."""
    if kind == "model" and name in packaged.MODELS:
        return packaged.folder_of(name)
    path = EMBEDDED[kind] if name == "embedded" else resolve(name)
    return path if path.exists() or (kind == "dataset" and files_of(path)) else None


def files_of(path: Path) -> list[Path]:
    """The path itself, or if it is not there the files that it means as a pattern (`data/*.jsonl`)."""
    if path.exists():
        return [path]
    folder = next(parent for parent in path.parents if parent.exists())  # its name is no pattern
    try:
        return sorted(p for p in folder.glob(str(path.relative_to(folder))) if p.is_file())
    except ValueError:  # no pattern
        return []


def needs_fetching(kind: str, name: str) -> bool:
    """Whether a data set or model has to be fetched before it can be used."""
    from helpers.hub import download as hub

    path = source_of(kind, name)
    return not files_of(path) if path else hub.cached(kind, name) is None


def obtain(kind: str, name: str, command: str | None = None) -> Path:
    """The file or folder of a `dataset` or `model`, fetched first where it is not on this machine.

    Raises DataError or ModelError where it cannot be had; they name the `command` that fetches it where there is a network.
    """
    from helpers.hub import download as hub

    path = source_of(kind, name)
    if path is None:
        _refuse_missing(kind, name)
        return (hub.cached(kind, name) or hub.fetch(kind, name, command)).folder
    return path if files_of(path) else packaged.make(name, command)


def _refuse_missing(kind: str, name: str) -> None:
    """DataError or ModelError for what can only be a file or folder here, and is not there."""
    what, fail = ("file", DataError) if kind == "dataset" else ("folder", ModelError)
    meant = Path(name).absolute()  # in the folder that the command is called from
    if meant.exists():
        where = os.path.relpath(meant, PROJECT)
        raise fail(
            f"{kind} is {name!r}: relative paths start at the project's folder, and there it is {where!r}."
        )
    endings = {s.lstrip(".").lower() for s in Path(name).suffixes} if kind == "dataset" else set()
    near = endings and resolve(name).parent.is_dir() and _nearest_file(resolve(name))
    known = endings & set(READERS) and not name.startswith("hf://")
    if name.startswith((".", "/", "~")) or known or near:
        hint = "relative paths start at the project's folder"
        if near:
            hint = f"the nearest is {str(Path(name).parent / near)!r}"
        raise fail(f"{kind} is {name!r}: there is no such {what}; {hint}.")


def _nearest_file(path: Path) -> str:
    """The name in the same folder that is most like that of a path, if any is."""
    names = [p.name for p in path.parent.iterdir()]
    return next(iter(difflib.get_close_matches(path.name, names, 1)), "")


def base_of(folder: Path) -> str | None:
    """The model that the adapters (LoRA) in a folder belong to; None where there are none, or none is named."""
    try:
        adapter = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        base, revision = adapter["base_model_name_or_path"], adapter.get("revision")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return f"{base}@{revision}" if base and revision and not source_of("model", base) else base
