"""How fast this machine multiplies matrices: the precision to choose, the share of it used."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.errors import ParameterError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def product_seconds(dtype: "torch.dtype", size: int = 768, device: str = "cpu") -> float:
    """Seconds for the product of two square matrices: the best of five, after one to warm up."""
    import torch

    generator = torch.Generator(device).manual_seed(0)
    # random, since a GPU multiplies ones faster
    a = torch.randn(size, size, device=device, generator=generator).to(dtype)
    times = []
    for _ in range(6):
        began = time.perf_counter()
        a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def bfloat16_is_faster() -> bool:
    """Whether this CPU multiplies at least 1.5 times as fast in bfloat16 as in float32.

    It is measured, since a processor with the instructions need not be any faster with them. Three
    times by turns: on a busy machine one measurement may fall into another program's time.
    """
    import torch

    rounds = [(product_seconds(torch.float32), product_seconds(torch.bfloat16)) for _ in range(3)]
    slow, fast = map(min, zip(*rounds, strict=True))
    return slow > 1.5 * fast


def choose_dtype(compute_dtype: str = "auto", folder: Path | None = None) -> str:
    """`float32` or `bfloat16`: the precision to compute in; weights are float32 in either case.

    Args:
        compute_dtype: One of the two, or `auto`: bfloat16 on a GPU that supports it, or on a CPU
            that multiplies at least 1.5 times as fast in it, which is measured.
        folder: Where the choice for `auto` is kept, so that a resumed training, and the other
            processes that train together, make the same.

    Raises:
        ParameterError: for bfloat16 on a GPU without it.
    """
    import torch
    from filelock import FileLock

    if compute_dtype == "auto" and folder is not None:
        choice = folder / "compute_dtype"
        with FileLock(f"{choice}.lock"):
            if not choice.exists() or not choice.read_text(encoding="utf-8"):
                choice.write_text(choose_dtype(), encoding="utf-8")
            compute_dtype = choice.read_text(encoding="utf-8")
    cuda = torch.cuda.is_available()
    supported = not cuda or torch.cuda.is_bf16_supported(including_emulation=False)
    if compute_dtype == "auto":
        return "bfloat16" if (supported if cuda else bfloat16_is_faster()) else "float32"
    if compute_dtype == "bfloat16" and not supported:
        needed = "this GPU has no bfloat16, use 'float32'"
        raise ParameterError("compute_dtype", compute_dtype, needed)
    return compute_dtype


@contextmanager
def tf32(device: str) -> Iterator[None]:
    """While it lasts, a `cuda` device multiplies float32 matrices in TF32, if the GPU has it.

    The argument `tf32` of `TrainingArguments` is an error on GPUs without it, and sets a switch
    after which torch.compile fails: it reads the older one, and PyTorch refuses a mixture.
    """
    import torch

    if device != "cuda":
        yield
        return
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # `TrainingArguments` has set one switch of the two
        before = "highest"
    torch.set_float32_matmul_precision("high")  # both
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def peak_share(
    model: "PreTrainedModel", tokens_per_second: float, length: int, dtype: str
) -> float:
    """Model FLOPs utilization (PaLM, Chowdhery et al. 2022): the share of the arithmetic peak used.

    The peak is that of a product of large matrices in `dtype`, measured now. For each weight of a
    linear layer, a token takes 2 operations forward and 4 backward (2 if the weight is frozen).
    Attention takes 12 for each layer, unit of width and token of the `length` of a block.
    """
    import torch

    size = 8192 if model.device.type == "cuda" else 1536
    with tf32(model.device.type):
        peak = 2 * size**3 / product_seconds(getattr(torch, dtype), size, model.device.type)
    layers = [m.weight for m in model.modules() if type(m).__name__ in ("Linear", "Conv1D")]
    config = model.config.get_text_config()
    operations = sum(weight.numel() * (6 if weight.requires_grad else 4) for weight in layers)
    operations += 12 * config.num_hidden_layers * config.hidden_size * length
    return tokens_per_second * operations / peak
