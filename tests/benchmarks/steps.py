"""Steps 01 to 03 on many documents, beside other libraries: `python -m tests.benchmarks.steps
[DOCUMENTS ...]`.

Documents are made up (`tests.benchmarks.corpus`) and written as JSON Lines. Our steps run in the
notebooks, by the runner, each with a kernel of its own; the others are functions in a process of
their own. Seconds are those of the clock, memory is the peak of the process, files that are mapped
into it included.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path

from helpers.runs.process import run_notebook
from tests.benchmarks.corpus import write
from tests.benchmarks.results import record, table

SIZES = [10_000, 100_000, 1_000_000]
STEPS = ("load", "preprocess", "chunk")
BLOCK = 128


def steps_of(path: Path, folder: Path) -> dict[str, dict[str, float]]:
    """Seconds and megabytes of each step, as run by the runner."""
    found, given = {}, {"load": {"dataset": str(path), "text_column": "text"}}
    for step in STEPS:
        parameters = {"run_dir": str(folder / "run"), **given.get(step, {})}
        outcome = run_notebook(step, folder / f"{step}.ipynb", parameters)
        if outcome.status != "ok":
            raise RuntimeError(outcome.message)
        [done] = (folder / "run").glob(f"*_{step}/step.json")
        memory = json.loads(done.read_text())["peak_memory_mb"]
        found[step] = {"seconds": outcome.seconds, "memory": memory}
    return found


def guide(path: str) -> str:
    """The guide's cells for these steps as written, in four processes."""
    return _mapped(path, lambda lists: sum(lists, []), 4)


def library(path: str) -> str:
    """`datasets` alone, with the usual repair of the guide's quadratic time, in this process."""
    return _mapped(path, lambda lists: list(chain(*lists)), None)


def _mapped(path: str, joined: Callable, processes: int | None) -> str:
    from datasets import load_dataset

    from helpers.models import load_tokenizer

    tokenizer = load_tokenizer("embedded")

    def group_texts(examples: dict[str, list]) -> dict[str, list]:
        whole = {name: joined(lists) for name, lists in examples.items()}
        total = len(whole["input_ids"]) // BLOCK * BLOCK
        cut = {n: [t[i : i + BLOCK] for i in range(0, total, BLOCK)] for n, t in whole.items()}
        return cut | {"labels": cut["input_ids"].copy()}

    parts = load_dataset("json", data_files=path, split="train").train_test_split(test_size=0.2)
    tokens = parts.map(
        lambda rows: tokenizer([" ".join([text]) for text in rows["text"]]),
        batched=True,
        num_proc=processes,
        remove_columns=["text"],
    )
    blocks = tokens.map(group_texts, batched=True, num_proc=processes)
    return f"{sum(map(len, blocks.values())):,} blocks"


def pack(path: str) -> str:
    """TRL's `pack_dataset` (`bfd_split`), on tokens that `datasets` has made before."""
    from datasets import load_dataset
    from trl.data_utils import pack_dataset

    from helpers.tokenization import tokenize

    examples = load_dataset("json", data_files=path, split="train")
    from helpers.models import load_tokenizer

    tokens = tokenize(examples, "text", load_tokenizer("embedded"))
    began = time.perf_counter()
    blocks = pack_dataset(tokens, BLOCK, "bfd_split")
    return f"{len(blocks):,} blocks, the packing alone {time.perf_counter() - began:.1f} s"


def minhash(path: str) -> str:
    """rensa's MinHash with banding on the same runs of eight words; candidates are not checked."""
    import re

    from datasets import load_dataset
    from rensa import RMinHash, RMinHashLSH

    def shingles(text: str) -> set[str]:
        words = re.findall(r"\w+", text.lower())
        return {" ".join(words[i : i + 8]) for i in range(max(1, len(words) - 7))}

    index, count, found = RMinHashLSH(0.5, 128, 32), 0, 0
    for batch in load_dataset("json", data_files=path, split="train").iter(10_000):
        sets = [shingles(text) for text in batch["text"]]
        matrix = RMinHash.digest_matrix_from_token_sets(sets, 128, 42)
        found += sum(index.insert_matrix_and_query_duplicate_flags(matrix, count))
        count += len(sets)
    return f"{found:,} documents share a band with an earlier one or one of their 10,000"


def near_duplicates(path: str) -> str:
    """Our exact groups, on the same file, outside of a notebook."""
    import numpy as np
    from datasets import load_dataset

    from helpers.data import Texts
    from helpers.splitting import near_duplicates

    documents = Texts(load_dataset("json", data_files=path, split="train"), "text")
    groups = near_duplicates(documents)
    return f"{len(groups) - len(np.unique(groups)):,} documents belong to an earlier one"


OTHERS: dict[str, tuple[Callable[[str], str], int]] = {  # and up to how many documents
    "the guide's cells as written": (guide, 10_000),
    "`datasets` alone": (library, 100_000),
    "TRL's `pack_dataset`": (pack, 100_000),
    "near-duplicates by rensa's MinHash": (minhash, 1_000_000),
    "`near_duplicates`, alone": (near_duplicates, 1_000_000),
}


def measured(name: str, path: str) -> dict[str, float | str]:
    """One of the others, in this process."""
    from datasets import disable_progress_bars

    disable_progress_bars()
    began = time.perf_counter()
    note = OTHERS[name][0](path)
    used = [
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    cpu = time.process_time()
    return {
        "seconds": time.perf_counter() - began,
        "cpu": cpu,
        "memory": max(used) / 1024,
        "note": note,
    }


def in_process(name: str, path: Path, folder: Path) -> dict[str, float | str]:
    """The same in a process of its own, with an empty cache."""
    command = [sys.executable, "-m", "tests.benchmarks.steps", "--one", name, str(path)]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(folder / f"cache-{len(name)}")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def main(sizes: list[int]) -> None:
    """Measure every size, and write the section."""
    rows, together, others = [], {}, []
    for count in sizes:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            size = write(folder / "documents.jsonl", count)
            os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
            found = steps_of(folder / "documents.jsonl", folder)
            together[count] = sum(f["seconds"] for f in found.values())
            rows.append(
                {"documents": f"{count:,}", "MB": f"{size / 1e6:,.0f}"}
                | {
                    f"{n}, s (MB)": f"{f['seconds']:.0f} ({f['memory']:,})"
                    for n, f in found.items()
                }
                | {"together, s": f"{together[count]:.0f}"}
            )
            print(rows[-1], flush=True)
            for name, (_, most) in OTHERS.items():
                if count <= most:
                    other = in_process(name, folder / "documents.jsonl", folder)
                    others.append(
                        {
                            "": name,
                            "documents": f"{count:,}",
                            "seconds": f"{other['seconds']:.0f}",
                            "memory (MB)": f"{other['memory']:,.0f}",
                            "found": other["note"],
                        }
                    )
                    print(others[-1], flush=True)
    text = ["`make bench-scale`. Notebooks 01 to 03, each in a kernel of its own.", table(rows)]
    if len(sizes) > 1:
        more, most = sorted(sizes)[-2:]
        ratio = together[most] / most / (together[more] / more)
        text.append(
            f"From {more:,} to {most:,} documents the time per document changes by "
            f"{ratio - 1:+.0%}."
        )
    record("Many documents", "\n\n".join([*text, "Beside it:", table(others)]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measured(*sys.argv[2:])))
    else:
        main([int(argument) for argument in sys.argv[1:]] or SIZES)
