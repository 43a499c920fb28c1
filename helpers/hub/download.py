"""The Hugging Face Hub: fetching a data set or model once, so that later steps need no network.

Copies lie whole in the cache of `huggingface_hub`. Their commit stays the same until they are
fetched anew, and is written into a run's records. Logging in is never part of a run.
"""

import errno
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

from helpers.errors import DataError, ModelError, UserError, first_line

MIRRORS = {  # places of a data set that is known under another name; the first that has it is used
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
    """A repository on the Hub; a branch, tag or commit of it; a pattern for its files, or ''."""

    kind: str
    repo: str
    revision: str | None
    files: str = ""


def place_of(kind: str, name: str) -> Place:
    """The place that a name means.

    It is `user/name`, `user/name@revision` or `hf://datasets/user/name@revision/file`, in which `*`
    stands for anything.
    """
    if match := _FILE.fullmatch(name):
        return Place(kind, match[1], match[2], match[3])
    repo, _, revision = name.partition("@")
    return Place(kind, repo, revision or None)


@dataclass(frozen=True)
class Copy:
    """A copy in the cache: the name that it was fetched by, its commit, and its folder.

    Of what is to be streamed, `folder` is the name of the repository, and `streamed` has the
    addresses of single files.
    """

    name: str
    commit: str
    folder: PurePath
    streamed: tuple[str, ...] | None = None

    @property
    def files(self) -> list[str]:
        """Paths of the files that the name means; empty where it means the whole folder."""
        files = place_of("dataset", self.name).files
        if self.streamed is not None:
            return sorted(self.streamed)
        return sorted(str(path) for path in self.folder.glob(files)) if files else []


def cached(kind: str, name: str) -> Copy | None:
    """The copy in the cache, or None where it has not been fetched whole; no server is asked."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    for candidate in MIRRORS.get(name, (name,)):
        place = place_of(kind, candidate)
        try:
            folder = Path(snapshot_download(**_selection(place), local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError):
            continue
        copy = Copy(candidate, folder.name, folder)
        # without the list of its files, a data set may have been fetched in part
        listing = folder.parent.parent / "trees" / f"{folder.name}.json"
        if (kind == "model" or listing.exists()) and (copy.files or not place.files):
            return copy
    return None


def _selection(place: Place) -> dict[str, object]:
    """Arguments of `snapshot_download`: what of a repository is fetched.

    Of a model, these are configuration, tokenizer and safetensors, no pickles and no code.
    """
    allowed, ignored = place.files or None, [".gitattributes"]
    if place.kind == "model":
        allowed, ignored = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"], ["*/*"]
    return {
        "repo_id": place.repo,
        "repo_type": place.kind,
        "revision": place.revision,
        "allow_patterns": allowed,
        "ignore_patterns": ignored,
    }


def fetch(kind: str, name: str, command: str | None = None, streaming: bool = False) -> Copy:
    """Fetch what is missing of a `dataset` or `model`, and return its copy.

    With `streaming`, nothing is fetched but the names of its files.

    Raises DataError or ModelError with what to do; where the Hub cannot be reached, that is to run
    `command` where it can.
    """
    *others, last = MIRRORS.get(name, (name,))
    for number, candidate in enumerate(others, 1):
        try:
            return _fetch(kind, candidate, command, streaming)
        except (DataError, ModelError) as error:
            if isinstance(error.__cause__, OSError):
                raise
            print(f"{error} The next place is tried, {[*others, last][number]}.")
    return _fetch(kind, last, command, streaming)


def _fetch(kind: str, name: str, command: str | None, streaming: bool) -> Copy:
    from httpx2 import HTTPError
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
    from huggingface_hub.utils import filter_repo_objects, get_session, validate_repo_id

    place, api, fail = place_of(kind, name), HfApi(), _ERRORS[kind]
    subject, noun = f"{kind} is {name!r}: ", "file" if kind == "dataset" else "folder"
    selection = _selection(place)
    parameter = "load.dataset" if kind == "dataset" else "model"
    command = command or f"python -m helpers prefetch -p {parameter}={name}"
    try:
        validate_repo_id(place.repo)
        get_session().head(api.endpoint, timeout=3)
        info = api.repo_info(
            place.repo, repo_type=kind, revision=place.revision, files_metadata=True, timeout=30
        )
        patterns = {key: selection[key] for key in ("allow_patterns", "ignore_patterns")}
        files = list(filter_repo_objects(info.siblings, **patterns, key=lambda f: f.rfilename))
        if not files:
            raise fail(f"{subject}{place.repo} has no file {place.files or 'that would do'}.")
        if streaming:
            at = f"hf://datasets/{place.repo}@{info.sha}/"
            addresses = tuple(at + file.rfilename for file in files) if place.files else ()
            return Copy(name, info.sha, PurePosixPath(place.repo), addresses)
        size = sum(file.size or 0 for file in files)
        print(
            f"Fetching {name} at commit {info.sha[:12]}: {len(files)} files, {size / 1e6:,.1f} MB."
        )
        _check_room(size, subject, fail)
        return Copy(name, info.sha, Path(_with_retries(snapshot_download, **selection)))
    except HFValidationError:
        why = f"it is no {noun} here, and no name on the Hub, which is USER/NAME."
        raise fail(subject + why) from None
    except HfHubHTTPError as error:
        raise fail(subject + _refusal(error, place)) from None
    except (HTTPError, OfflineModeIsEnabled) as error:
        raise fail(
            f"{subject}it is no {noun} here, and the Hub does not answer ({type(error).__name__}); "
            f"where there is a network, `{command}` fetches it."
        ) from OSError()
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = "the disk is full: make room, and the same command goes on"
        why = why if full else first_line(error)
        raise fail(f"{subject}it could not be fetched ({why}).") from None


def _with_retries(download: Callable[..., str], **selection: object) -> str:
    """Try again on server errors, which the client does not; it does on too many requests."""
    from huggingface_hub.errors import HfHubHTTPError

    for pause in (1, 4):
        try:
            return download(**selection)
        except HfHubHTTPError as error:
            if error.response.status_code < 500:
                raise
        time.sleep(pause)
    return download(**selection)


def _check_room(size: int, subject: str, fail: type[UserError]) -> None:
    """Refuse a download of more bytes than are free where the cache is."""
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(HF_HUB_CACHE)
    free = shutil.disk_usage(next(p for p in [cache, *cache.parents] if p.exists())).free
    if size > free:
        raise fail(
            f"{subject}it needs {size / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free in the "
            "cache: make room, or set HF_HOME to another disk."
        )


def _refusal(error: Exception, place: Place) -> str:
    """What a refusal of the Hub means, and what to do."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    status, is_data = error.response.status_code, place.kind == "dataset"
    if isinstance(error, GatedRepoError):
        page = f"https://huggingface.co/{'datasets/' if is_data else ''}{place.repo}"
        return f"it is gated: ask for access on {page}{'' if get_token() else f', then {LOG_IN}'}."
    if isinstance(error, RevisionNotFoundError):
        return f"{place.repo} has no revision {place.revision!r}."
    if status == 401 and get_token():
        return (
            "the Hub does not accept the token that is set on this machine: log in again with "
            "`hf auth login`."
        )
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return (
            f"the Hub has no such {'data set' if is_data else 'model'} that you may read: look at "
            "the name; if it is private, "
            f"{'log in with an account that has access' if get_token() else LOG_IN}."
        )
    if status == 429:
        return (
            "the Hub has had too many requests from here: wait some minutes, or log in, and the "
            "same command goes on."
        )
    return f"the Hub answers with status {status}: try later, the same command goes on."


def login_state() -> str:
    """Who is logged in to the Hub on this machine, in a sentence without the token.

    It takes 3 seconds at most where no server answers.
    """
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.utils import get_session

    if not get_token():
        return (
            "Nobody is logged in to the Hub here: public repositories and everything on this "
            "machine can be loaded."
        )
    try:
        get_session().head(constants.ENDPOINT, timeout=3)
        name = HfApi().whoami()["name"]
    except Exception:  # no error may stop a user who does not need the Hub
        return "A token for the Hub is set on this machine; its owner could not be looked up."
    return f"Logged in to the Hub as {name}: what {name} may read can be loaded."
