"""Where data sets and models lie: in this package, on this machine, in a package, on the Hub."""

import contextlib
import difflib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from helpers.errors import DataError, ModelError, ParameterError, first_line
from helpers.hub import download, packages

PROJECT = Path(__file__).parents[2]
ASSETS = Path(__file__).parents[1] / "assets"
EMBEDDED = {"dataset": ASSETS / "eli5_simple" / "records.jsonl", "model": ASSETS / "base_model"}
# of files that can be read as data, as in helpers.data
ENDINGS = {"json", "jsonl", "ndjson", "csv", "tsv", "parquet", "arrow", "txt", "text"}
ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Location:
    """Where a data set or model lies on this machine.

    `folder` is the file itself where a file was named. `files` of a data set are those to read,
    None where a repository is to be read as a whole. `adapters` of a model are the folders of
    adapters (LoRA) for it, the last to be merged first. `name` is the one that it was fetched by
    from the Hub, and `commit` its state there. `streamed`: it is still there, `folder` its name.
    """

    folder: Path
    files: list[str] | None = None
    adapters: list[Path] = field(default_factory=list)
    name: str = ""
    commit: str | None = None
    streamed: bool = False


def locate(kind: str, name: str, command: str | None = None, streaming: bool = False) -> Location:
    """Find a data set or model, and fetch it first where it is not on this machine.

    Args:
        kind: `dataset` or `model`.
        name: `embedded`, a file or folder, the name of a package's model, or a name on the Hub.
        command: fetches it where there is a network, for the message if there is none.
        streaming: whether a data set that is not on this machine stays on the Hub.

    Raises:
        ParameterError: where a data set that is to be streamed lies on this machine.
        DataError, ModelError: where it cannot be had, or has adapters that cannot be used.
    """
    location = _locate(kind, name, command, streaming)
    folders = [location.folder]
    if kind == "dataset":
        return location
    while (folders[-1] / ADAPTER).exists():
        folders.append(_locate("model", _usable_base(name, folders[-1]), command).folder)
        if folders[-1] in folders[:-1]:
            raise ModelError(
                f"model is {name!r}: its adapters belong to themselves, name a base model in "
                f"{folders[-2] / ADAPTER}."
            )
    return Location(folders[-1], adapters=folders[:-1], name=location.name, commit=location.commit)


def _locate(kind: str, name: str, command: str | None, streaming: bool = False) -> Location:
    """`locate` without a look at adapters."""
    path = local_path(kind, name)
    if path is None:
        _refuse_missing(kind, name)
        copy = download.cached(kind, name) or download.fetch(kind, name, command, streaming)
        found = {"name": copy.name, "commit": copy.commit}
        return Location(
            copy.folder, copy.files or None, **found, streamed=copy.streamed is not None
        )
    if streaming:
        needed = f"only a data set on the Hub is streamed, and {name!r} is here: leave it false"
        raise ParameterError("streaming", streaming, needed)
    if not path.exists() and kind == "model":
        return Location(packages.make(name, command))
    if kind == "dataset" and path.is_dir():
        inside = (p for p in path.rglob("[!.]*") if p.is_file() and p.suffix not in ("", ".md"))
        files = sorted(p for p in inside if "/." not in f"/{p.relative_to(path).as_posix()}")
    else:
        files = matching_files(path)
    return Location(path, [str(file) for file in files])


def resolve(path: str | Path) -> Path:
    """A path that a user gave: relative ones start at the project's folder, `~` is the home."""
    path = Path(path)
    with contextlib.suppress(RuntimeError):  # ~ and the name of no user
        path = path.expanduser()
    return PROJECT / path


def local_path(kind: str, name: str) -> Path | None:
    """The file, folder or pattern on this machine that a name means; None for one on the Hub.

    The folder of a package's model may have to be made yet.
    """
    if kind == "model" and name in packages.MODELS:
        return packages.folder_of(name)
    path = EMBEDDED[kind] if name == "embedded" else resolve(name)
    return path if path.exists() or (kind == "dataset" and matching_files(path)) else None


def matching_files(path: Path) -> list[Path]:
    """The path itself, or where it is not there the files that match it (`data/*.jsonl`)."""
    if path.exists():
        return [path]
    folder = next(parent for parent in path.parents if parent.exists())  # may have a * in its name
    try:
        return sorted(p for p in folder.glob(str(path.relative_to(folder))) if p.is_file())
    except ValueError:  # no pattern
        return []


def needs_fetching(kind: str, name: str) -> bool:
    """Whether a data set or model has to be fetched before it can be used."""
    path = local_path(kind, name)
    return not matching_files(path) if path else download.cached(kind, name) is None


def _refuse_missing(kind: str, name: str) -> None:
    """DataError or ModelError for a name that cannot be one on the Hub, of nothing that is here."""
    noun, error = ("file", DataError) if kind == "dataset" else ("folder", ModelError)
    from_here = Path(name).absolute()
    if from_here.exists():
        there = from_here  # where it is on another drive
        if from_here.drive == PROJECT.drive:
            there = Path(os.path.relpath(from_here, PROJECT))
        raise error(
            f"{kind} is {name!r}: relative paths start at the project's folder, and there it is "
            f"{there.as_posix()!r}."
        )
    endings = {s.lstrip(".").lower() for s in Path(name).suffixes} if kind == "dataset" else set()
    folder, near = resolve(name).parent, []
    if endings and folder.is_dir():
        near = difflib.get_close_matches(Path(name).name, [p.name for p in folder.iterdir()], 1)
    is_file = endings & ENDINGS and not name.startswith("hf://")
    if name.startswith((".", "/", "~")) or "\\" in name or is_file or near:
        hint = "relative paths start at the project's folder"
        if near:
            hint = f"the nearest is {str(Path(name).parent / near[0])!r}"
        raise error(f"{kind} is {name!r}: there is no such {noun}; {hint}.")


def base_of(folder: Path) -> str | None:
    """The base model that the adapters (LoRA) in a folder name, with its revision, if any."""
    try:
        adapter = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
        base, revision = adapter["base_model_name_or_path"], adapter.get("revision")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return f"{base}@{revision}" if base and revision and not local_path("model", base) else base


def _usable_base(name: str, folder: Path) -> str:
    """The base model of adapters; ModelError where they are no LoRA of a named causal model."""
    try:
        adapter = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
        if not isinstance(adapter, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or first_line(error)
        why = f"no adapters could be loaded from it ({ADAPTER}: {why})"
        raise ModelError(f"model is {name!r}: {why}.") from None
    for key, usable in (("peft_type", ["LORA"]), ("task_type", [None, "CAUSAL_LM"])):
        if (value := adapter.get(key)) not in usable:
            why = f"its adapters have {key} {value}, only LoRA of a causal model can be used"
            raise ModelError(f"model is {name!r}: {why}.")
    if not (base := base_of(folder)):
        why = f"its {ADAPTER} names no base model, write it there as base_model_name_or_path"
        raise ModelError(f"model is {name!r}: {why}.")
    return base
