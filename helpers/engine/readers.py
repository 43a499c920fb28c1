"""The readers of the library `datasets` for files, and what their errors mean."""

import errno
import glob
import re
from pathlib import Path

from helpers.errors import DataError, ParameterError, UserError, first_line

TEXT = {"path": "text", "encoding": "utf-8-sig"}  # some editors begin a file with a mark
DOCUMENTS = {"line": "line", "paragraph": "paragraph", "file": "document"}  # sample_by of `text`
READERS = {  # arguments of load_dataset, by the ending of a file
    "json": {"path": "json"},
    "jsonl": {"path": "json"},
    "ndjson": {"path": "json"},
    "csv": {"path": "csv"},
    "tsv": {"path": "csv", "delimiter": "\t"},
    "parquet": {"path": "parquet"},
    "arrow": {"path": "arrow"},
    "txt": TEXT,
    "text": TEXT,
}


def reader_for(
    dataset: str, folder: Path, files: list[str] | None, configuration: str, documents: str = "line"
) -> dict[str, object]:
    """The arguments of `load_dataset` for a repository's folder, or for files of one kind.

    `documents` says what is a row of a text file, see `DOCUMENTS`.
    """
    if documents not in DOCUMENTS:
        needed = "it must be one of " + ", ".join(map(repr, DOCUMENTS))
        raise ParameterError("documents", documents, needed)
    if files is None and documents == "line":
        return {"path": str(folder)} | ({"name": configuration} if configuration else {})
    if files is None or not (documents == "line" or all(map(_is_text, files))):
        needed = "only text files (.txt) are cut into documents, use 'line'"
        raise ParameterError("documents", documents, needed)
    if configuration:
        raise ParameterError("configuration", configuration, "a file has none, leave it empty")
    endings = list(map(_ending, files))
    unknown = [f for f, ending in zip(files, endings, strict=True) if ending not in READERS]
    if not files or unknown:
        name, known = Path(unknown[0]).name if unknown else dataset, ", .".join(READERS)
        raise DataError(
            f"dataset is {name!r}: a file must end in .{known}, or one of these and .gz."
        )
    reader = READERS[endings[0]]
    if any(READERS[ending] != reader for ending in endings):
        raise DataError(
            f"dataset is {dataset!r}: its files are of several kinds, name those of one."
        )
    if reader is TEXT:
        reader = TEXT | {"sample_by": DOCUMENTS[documents]}
    return reader | {"data_files": [glob.escape(file) for file in files]}


def _ending(file: str) -> str:
    return Path(file).name.lower().removesuffix(".gz").rpartition(".")[2]


def _is_text(file: str) -> bool:
    return READERS.get(_ending(file)) is TEXT


def reading_error(
    dataset: str, reader: dict[str, object], folder: Path, error: Exception
) -> UserError:
    """What an error of `load_dataset` means, and what to do."""
    full = getattr(error.__cause__, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    if full or "enough disk space" in str(error):
        why = (
            "there is no room for it in the cache of datasets, make room or set HF_DATASETS_CACHE "
            "to a folder on another disk"
        )
    elif "data files found" in str(error) and any(folder.glob("*.py")):
        why = (
            "it is a Python script, which the library does not run any more; look for a copy in "
            f"plain files, or try '{dataset.partition('@')[0]}@refs/convert/parquet'"
        )
    elif "BuilderConfig" in str(error) or "onfig name is missing" in str(error):
        needed = f"{dataset!r} has others ({' '.join(str(error).split()).rstrip('.')})"
        return ParameterError("configuration", reader.get("name", ""), needed)
    else:
        reason = first_line(error.__cause__ or error)
        if re.search("utf-?8", reason, re.IGNORECASE):
            reason += "; convert it to UTF-8"
        elif reason == "Couldn't cast":
            reason += "; its records must have the same fields"
        kind = f" as {reader['path']}" if "data_files" in reader else ""
        why = f"nothing in it could be read{kind} ({reason})"
    return DataError(f"dataset is {dataset!r}: {why}.")
