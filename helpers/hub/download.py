"""The Hugging Face Hub: fetching a data set or model once, so that everything after it needs no network.

What is fetched lies in the cache of `huggingface_hub`, whole; its commit stays the same until it is fetched anew, and is written into a
run's records. Logging in is never part of a run.
"""

import errno
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from helpers.errors import DataError, ModelError, UserError, first_line

MIRRORS = {  # names under which a data set is known, and where it lies today: the first place that gives it is taken
    "eli5_category": (
        "dany0407/eli5_category",
        "hf://datasets/rexarski/eli5_category/eli5-category-train.json.gz",
    )
}
LOG_IN = "log in with `hf auth login` in a terminal, or set the variable HF_TOKEN"
_FILE = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:@(refs/(?:convert|pr)/[^/]+|[^/]+))?/(.+)")
_ERRORS = {"dataset": DataError, "model": ModelError}


@dataclass(frozen=True)
class Place:
    """A repository on the Hub: its id, a revision (branch, tag or commit), and which of its files are meant (all, if empty)."""

    kind: str
    repo: str
    revision: str | None
    files: str = ""


def place_of(kind: str, name: str) -> Place:
    """What `user/name`, `user/name@revision` or `hf://datasets/user/name@revision/file` (`*` stands for anything) mean."""
    if match := _FILE.fullmatch(name):
        return Place(kind, match[1], match[2], match[3])
    repo, _, revision = name.partition("@")
    return Place(kind, repo, revision or None)


@dataclass(frozen=True)
class Copy:
    """A copy in the cache: the name that it was fetched by, its commit, and the folder it lies in."""

    name: str
    commit: str
    folder: Path

    @property
    def files(self) -> list[str]:
        """The files that a name with a file in it means, as paths; empty where the whole folder is meant."""
        files = place_of("dataset", self.name).files
        return sorted(str(path) for path in self.folder.glob(files)) if files else []


def cached(kind: str, name: str) -> Copy | None:
    """The copy of a data set or model in the cache, or None where it has not been fetched whole. Asks no server."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    for candidate in MIRRORS.get(name, (name,)):
        try:
            folder = Path(
                snapshot_download(**_wanted(place_of(kind, candidate)), local_files_only=True)
            )
        except (LocalEntryNotFoundError, HFValidationError):
            continue
        copy, listing = (
            Copy(candidate, folder.name, folder),
            folder.parent.parent / "trees" / f"{folder.name}.json",
        )
        whole = (
            kind == "model" or listing.exists()
        )  # without the listing, nobody knows whether all of the data is there
        if whole and (copy.files or not place_of(kind, candidate).files):
            return copy
    return None


def _wanted(place: Place) -> dict[str, object]:
    """What of a repository is fetched: of a model configuration, tokenizer and safetensors, no pickle and no code; of a data set what is named."""
    if place.kind == "model":
        files = {
            "allow_patterns": ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"],
            "ignore_patterns": ["*/*"],
        }
    else:
        files = {"allow_patterns": place.files or None, "ignore_patterns": [".gitattributes"]}
    return {"repo_id": place.repo, "repo_type": place.kind, "revision": place.revision, **files}


def fetch(kind: str, name: str, command: str | None = None) -> Copy:
    """Fetch a `dataset` or `model` whole, or what is missing of it, and return its copy; what is there already is not fetched again.

    Raises DataError or ModelError with what to do: where the Hub cannot be reached, `command` is named, which fetches it elsewhere.
    """
    candidates = MIRRORS.get(name, (name,))
    for number, candidate in enumerate(candidates):
        try:
            return _fetch(kind, candidate, command)
        except (DataError, ModelError) as error:
            if isinstance(error.__cause__, OSError) or number + 1 == len(candidates):
                raise
            print(f"{error} The next place is tried, {candidates[number + 1]}.")
    raise AssertionError("a data set has at least one place")


def _fetch(kind: str, name: str, command: str | None) -> Copy:
    from httpx2 import HTTPError
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
    from huggingface_hub.utils import filter_repo_objects, get_session, validate_repo_id

    place, api, fail = place_of(kind, name), HfApi(), _ERRORS[kind]
    wanted, said, here = (
        _wanted(place),
        f"{kind} is {name!r}: ",
        "file" if kind == "dataset" else "folder",
    )
    command = (
        command
        or f"python -m helpers prefetch -p {'load.dataset' if kind == 'dataset' else 'model'}={name}"
    )
    try:
        validate_repo_id(place.repo)
        get_session().head(api.endpoint, timeout=3)
        info = api.repo_info(
            place.repo, repo_type=kind, revision=place.revision, files_metadata=True, timeout=30
        )
        patterns = {key: value for key, value in wanted.items() if key.endswith("patterns")}
        files = list(
            filter_repo_objects(info.siblings, **patterns, key=lambda file: file.rfilename)
        )
        if not files:
            raise fail(f"{said}{place.repo} has no file {place.files or 'that would do'}.")
        size = sum(file.size or 0 for file in files)
        print(
            f"Fetching {name} at commit {info.sha[:12]}: {len(files)} files, {size / 1e6:,.1f} MB."
        )
        _check_room(size, said, fail)
        return Copy(name, info.sha, Path(_patiently(snapshot_download, **wanted)))
    except HFValidationError:
        raise fail(
            f"{said}it is no {here} here, and no name on the Hub, which is USER/NAME."
        ) from None
    except HfHubHTTPError as error:
        raise fail(said + _refusal(error, place)) from None
    except (HTTPError, OfflineModeIsEnabled) as error:
        raise fail(
            f"{said}it is no {here} here, and the Hub does not answer ({type(error).__name__}); "
            f"where there is a network, `{command}` fetches it."
        ) from OSError()
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = (
            "the disk is full: make room, and the same command goes on"
            if full
            else first_line(error)
        )
        raise fail(f"{said}it could not be fetched ({why}).") from None


def _patiently(download: Callable[..., str], **wanted: object) -> str:
    """Three attempts while the Hub is unwell: the client asks again by itself where there were too many requests, but not for this."""
    from huggingface_hub.errors import HfHubHTTPError

    for pause in (1, 4):
        try:
            return download(**wanted)
        except HfHubHTTPError as error:
            if error.response.status_code < 500:
                raise
        time.sleep(pause)
    return download(**wanted)


def _check_room(size: int, said: str, fail: type[UserError]) -> None:
    from huggingface_hub.constants import HF_HUB_CACHE

    there = next(p for p in [Path(HF_HUB_CACHE), *Path(HF_HUB_CACHE).parents] if p.exists())
    free = shutil.disk_usage(there).free
    if size > free:
        raise fail(
            f"{said}it needs {size / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free in the cache: make room, or set HF_HOME to another disk."
        )


def _refusal(error: Exception, place: Place) -> str:
    """What a refusal of the Hub means, and what to do."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    status = error.response.status_code
    page = f"https://huggingface.co/{'datasets/' if place.kind == 'dataset' else ''}{place.repo}"
    if isinstance(error, GatedRepoError):
        return f"it is gated: ask for access on {page}" + (
            "." if get_token() else f", then {LOG_IN}."
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{place.repo} has no revision {place.revision!r}."
    if status == 401 and get_token():
        return "the Hub does not accept the token that is set on this machine: log in again with `hf auth login`."
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return (
            f"the Hub has no such {'data set' if place.kind == 'dataset' else 'model'} that you may read: look at the name; if it is private, "
            + ("log in as somebody who may." if get_token() else LOG_IN + ".")
        )
    if status == 429:
        return "the Hub has had too many requests from here: wait some minutes, or log in, and the same command goes on."
    return f"the Hub answers with status {status}: try later, the same command goes on."


def login_state() -> str:
    """Who is logged in to the Hub on this machine, in a sentence that does not show the token. Where no server answers within 3 seconds, it says so."""
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.utils import get_session

    if not get_token():
        return "Nobody is logged in to the Hub here: public repositories and everything on this machine can be loaded."
    try:
        get_session().head(constants.ENDPOINT, timeout=3)
        name = HfApi().whoami()["name"]
    except Exception:  # whatever it is, it must not stop anybody who does not need the Hub
        return "A token for the Hub is set on this machine; whose it is could not be asked."
    return f"Logged in to the Hub as {name}: what {name} may read can be loaded."
