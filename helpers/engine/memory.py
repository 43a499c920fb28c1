"""How much fits into memory, and memory that is reused instead of given back."""

import ctypes
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil
    from transformers import PreTrainedModel

MOST = {"cpu": 1024, "cuda": 65_536}  # tokens in a batch by device; larger batches are no faster


def tokens_at_once(model: "PreTrainedModel", longest: int, tiled: bool) -> int:
    """The tokens in a batch to score: what fits into a quarter of the free memory, at most MOST.

    This is a rough estimate; `longest` is the length of the longest window (tokens), and `tiled`
    says whether logits are computed tile by tile.
    """
    config, kind = model.config.get_text_config(), model.device.type
    each = 64 * config.hidden_size  # bytes: a dozen float32 vectors, some as wide as the MLP
    if config._attn_implementation == "eager" and hasattr(config, "num_attention_heads"):
        each += 8 * config.num_attention_heads * longest
    if not tiled:
        each += 8 * config.vocab_size
    return min(MOST.get(kind, MOST["cpu"]), free_memory(kind) // 4 // each)


def keep_memory() -> None:
    """Let glibc keep freed memory for the next batch; other C libraries are left alone.

    By default, it returns large pieces to the system at once and maps them anew, page by page,
    which can take as long as the arithmetic.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        libc.mallopt(-4, 0)  # M_MMAP_MAX
    except (OSError, AttributeError):
        return


def peak_memory() -> int:
    """The most memory that this process has used at a time, until now, in bytes."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory_of(processes: Iterable["psutil.Process"]) -> int:
    """The memory that these processes use now, in bytes; those that have ended use none."""
    import psutil

    used = 0
    for process in processes:
        with suppress(psutil.Error):
            used += process.memory_info().rss
    return used


def free_memory(kind: str) -> int:
    """Free bytes on the current `cuda` device, or of what this process may use of the machine."""
    import psutil
    import torch

    if kind == "cuda":
        cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return torch.cuda.mem_get_info()[0] + cached
    free, group = psutil.virtual_memory().available, Path("/sys/fs/cgroup")
    try:
        files = {name: group / f"memory.{name}" for name in ("max", "current", "stat")}
        found = {name: file.read_text(encoding="utf-8") for name, file in files.items()}
        left = int(found["max"]) - int(found["current"])
        left += int(re.search(r"^inactive_file (\d+)", found["stat"], re.M)[1])  # can be dropped
    except (OSError, ValueError, TypeError):  # no such file, or no limit
        return free
    return max(0, min(free, left))
