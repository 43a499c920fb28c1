"""How a run ended, in `run.json`: its profile, settings and times."""

import json
from collections.abc import Mapping
from pathlib import Path

from helpers.errors import RunError
from helpers.hub.sources import resolve
from helpers.runs.folder import Run, write_json
from helpers.runs.profiles import Settings, expand_settings

FORMAT = 1


def start_record(
    run: Run, profile: str, settings: Settings, parameters: Mapping, message: str
) -> dict[str, object]:
    """Write the record of a run that has not ended; `message` says why if it never does."""
    record = {"format": FORMAT, "status": "interrupted", "message": message}
    if profile:
        keys = [key.partition(".") for key in expand_settings(settings)]
        chosen = {f"{step}.{name}": parameters[step][name] for step, _, name in keys}
        record |= {"profile": profile, "settings": chosen}
    record |= {"parameters": {}, "steps": {}}
    write_json(run.folder / "run.json", record)
    return record


def read_record(folder: Path, complete: bool = False) -> dict[str, object]:
    """The record of a run.

    Raises RunError where there is none, where newer code has written it, or, with `complete`,
    where the run did not succeed.
    """
    path = resolve(folder) / "run.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        version = record["format"]
    except FileNotFoundError:
        raise RunError(
            f"{str(folder)!r} is not a run: it has no run.json; "
            f"make it with `python -m helpers run --run-dir {folder}`."
        ) from None
    except (ValueError, KeyError, TypeError, OSError):
        raise RunError(f"{path} is damaged: do the run again, with the same command.") from None
    if version > FORMAT:
        raise RunError(
            f"{path} has format {version}, this code reads up to {FORMAT}: update the code."
        )
    if complete and record["status"] != "ok":
        raise RunError(
            f"{str(folder)!r} did not succeed ({record['status']}: "
            f"{record['message'].rstrip('.')}); do the run again, or leave it out."
        )
    return record
