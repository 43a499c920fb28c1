"""RESULTS.md: one section for each benchmark, written anew by the one that ran."""

import os
import platform
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

PATH = Path(__file__).with_name("RESULTS.md")


def machine() -> str:
    """The machine in general terms."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    features = [
        name for flag, name in (("avx512_bf16", "AVX512-BF16"), ("amx_bf16", "AMX")) if flag in info
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    kind = f"{platform.machine()} processor" + (
        f" with {' and '.join(features)}" if features else ""
    )
    gpu = f"one {torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    return (
        f"{gpu}{os.cpu_count()} cores of an {kind}, {memory:.0f} GiB; Python "
        f"{platform.python_version()}, PyTorch {torch.__version__}"
    )


def status(name: str) -> int:
    """A figure of this process that Linux keeps, in bytes."""
    [line] = [
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)
    ]
    return int(line.split()[1]) * 1024


@contextmanager
def watched() -> Iterator[dict[str, int]]:
    """Anonymous memory of this process in bytes: `before`, and `peak`, sampled every 2 ms."""
    memory, done = dict.fromkeys(("before", "peak"), status("RssAnon")), threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            memory["peak"] = max(memory["peak"], status("RssAnon"))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield memory
    finally:
        done.set()
        thread.join()


def table(rows: list[dict[str, object]]) -> str:
    """Rows as a Markdown table, the first column to the left."""
    names = list(rows[0])
    lines = [
        names,
        [":--"] + ["--:"] * (len(names) - 1),
        *([str(row[name]) for name in names] for row in rows),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def record(title: str, text: str) -> None:
    """Print a section, and put it in the place of the one with the same title, or at the end."""
    head = "# Benchmarks\n\nEach section is written by the command that it names.\n"
    old = PATH.read_text() if PATH.exists() else head
    section = f"## {title}\n\n{text.strip()}\n\nMachine: {machine()}.\n"
    print(section)
    pattern = rf"## {re.escape(title)}\n.*?(?=\n## |\Z)"
    found = re.search(pattern, old, re.DOTALL)
    new = old[: found.start()] + section + old[found.end() :] if found else f"{old}\n{section}"
    PATH.write_text(new)
