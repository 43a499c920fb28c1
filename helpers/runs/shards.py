"""Shards: runs that did `preprocess` and `chunk` for a part of the documents each, made one run."""

import json
import shutil
from dataclasses import fields
from pathlib import Path

from helpers.chunking import Account, totals
from helpers.engine.arrow import join
from helpers.engine.files import fingerprint, link
from helpers.errors import RunError
from helpers.hub.sources import resolve
from helpers.runs.folder import NEEDS, Run
from helpers.runs.locking import folder_lock
from helpers.runs.parameters import folder_of
from helpers.runs.profiles import plan, resume
from helpers.runs.record import start_record

JOINED = ("load", "preprocess", "chunk")


def join_shards(folder: str, run_dir: str) -> None:
    """Make one run of shards, up to its step `chunk`; a later `run` goes on from there.

    Its documents are those of a run without shards, in the same order. Blocks end where a shard
    ends. The account of tokens is the sum of theirs.

    Args:
        folder: where the runs of the shards lie.
        run_dir: the folder of the new run.

    Raises:
        RunError: a shard is missing, or it was made in another way than the first one.
    """
    shards, run = _shards(folder), Run(run_dir)
    profile, settings = resume(str(shards[0].folder), None, [])
    settings.pop("preprocess.shard", None)
    with folder_lock(run.folder):
        for step in JOINED:
            lock = run.lock(step)
            try:
                partial = run.make_partial(step)
                _write(step, shards, run, partial)
                run.publish(step, partial)
            finally:
                lock.release()
        run.write_metrics()
        start_record(run, profile, settings, plan(profile, settings), "it was made of shards")
    print(f"{run.shown} has all {len(shards)} shards: `python -m helpers run` with it goes on.")


def _shards(folder: str) -> list[Run]:
    """The runs of all shards in a folder, in order, each complete and made in the same way."""
    step, found = folder_of("preprocess"), {}
    for path in sorted(resolve(folder).glob(f"*/{step}/step.json")):
        run = Run(path.parents[1])
        if shard := run.record("preprocess")["parameters"].get("shard"):
            found[shard] = run
    counts = sorted({int(shard.partition("/")[2]) for shard in found})
    if len(counts) != 1:
        some = f"some of {' and of '.join(map(str, counts))}" if counts else "none"
        raise RunError(f"{folder!r} must have the shards of one data set, it has {some}.")
    names = [f"{number}/{counts[0]}" for number in range(1, counts[0] + 1)]
    for name in names:
        if name not in found:
            raise RunError(f"{folder!r} lacks shard {name}: do it, then join them.")
        if why := found[name].problem("chunk"):
            raise RunError(f"Shard {name} is not complete: {why}.")
        if _origin(found[name]) != _origin(found[names[0]]):
            raise RunError(
                f"Shard {name} has other parameters, data or code than {names[0]}: "
                "do one of them again."
            )
    return [found[name] for name in names]


def _origin(run: Run) -> list[object]:
    """All that must be the same for every shard."""
    first, second = (run.record(step) for step in ("preprocess", "chunk"))
    parameters = [first["parameters"] | {"shard": ""}, second["parameters"]]
    return [
        parameters,
        first["inputs"],
        *(made[k] for made in (first, second) for k in ("sources", "code")),
    ]


def _write(step: str, shards: list[Run], run: Run, folder: Path) -> None:
    """Write a step of all shards into a folder, with its record."""
    if step == "load":  # it is the same for all
        shutil.copytree(shards[0].path(step), folder, copy_function=link, dirs_exist_ok=True)
        return
    paths, records = [s.path(step) for s in shards], [s.record(step) for s in shards]
    join([path / "data" for path in paths], folder / "data")
    metrics, parameters = records[0]["metrics"], records[0]["parameters"]
    if step == "preprocess":
        parameters = parameters | {"shard": ""}
    else:
        accounts = _sum(
            [json.loads((path / "account.json").read_text(encoding="utf-8")) for path in paths]
        )
        numbers = {name: account.numbers() for name, account in accounts.items()}
        (folder / "account.json").write_text(json.dumps(numbers, indent=1), encoding="utf-8")
        metrics = totals(accounts)
    record = records[0] | {
        "parameters": parameters,
        "inputs": {need: run.record(need)["fingerprint"] for need in NEEDS[step]},
        "shards": len(shards),
        "fingerprint": fingerprint(folder),
        "metrics": metrics,
        "seconds": round(sum(made["seconds"] for made in records), 2),
        "peak_memory_mb": max(made["peak_memory_mb"] for made in records),
    }
    (folder / "step.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _sum(accounts: list[dict[str, dict[str, int]]]) -> dict[str, Account]:
    """The account of each split, with all counts of all shards."""
    names = [field.name for field in fields(Account) if field.name != "block_size"]
    return {
        split: Account(
            first["block_size"], **{n: sum(a[split][n] for a in accounts) for n in names}
        )
        for split, first in accounts[0].items()
    }
