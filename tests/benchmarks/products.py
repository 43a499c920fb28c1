"""The processor's limit: the matrix products of a model by themselves, without the model.

The shapes are taken from one forward pass. What a step takes beyond these products is the
optimizer, normalization, activations, masks, the loss, copies, and Python.
"""

import time

import torch
from transformers import PreTrainedModel

REPEATS = 5


def shapes_of(model: PreTrainedModel, batch: int, length: int) -> list[tuple[int, ...]]:
    """(copies, rows, inner, columns) of each matrix product of a forward pass.

    Linear layers have one copy; attention's two products have one for each head of each block.
    """
    found: list[tuple[int, ...]] = []

    def note(layer, inputs, output) -> None:
        found.append((1, batch * length, inputs[0].shape[-1], output.shape[-1]))

    layers = [m for m in model.modules() if type(m).__name__ in ("Linear", "Conv1D")]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    with torch.no_grad():
        model(torch.ones(batch, length, dtype=torch.int64, device=model.device), use_cache=False)
    for hook in hooks:
        hook.remove()
    config = model.config.get_text_config()
    heads = batch * config.num_attention_heads
    width = config.hidden_size // config.num_attention_heads
    attention = [(heads, length, width, length), (heads, length, length, width)]
    return found + attention * config.num_hidden_layers


def seconds_of(shapes: list[tuple[int, ...]], dtype: torch.dtype, backward: bool) -> float:
    """Seconds of these products, each the best of five; with `backward`, its two gradients too."""
    total = 0.0
    for shape in set(shapes):
        copies, rows, inner, columns = shape
        a, b = torch.randn(copies, rows, inner), torch.randn(copies, inner, columns)
        a, b, c = (x.to(dtype) for x in (a, b, torch.randn(copies, rows, columns)))
        pairs = [(a, b)]
        if backward:
            pairs += [(c, b.transpose(1, 2)), (a.transpose(1, 2), c)]
        total += shapes.count(shape) * sum(_best(left, right) for left, right in pairs)
    return total


def _best(left: torch.Tensor, right: torch.Tensor) -> float:
    times = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - began)
    return min(times[1:])
