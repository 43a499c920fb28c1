"""The loss of a language model without the logits of a whole batch.

Logits are the largest tensor of a small model: with a vocabulary of 50,000, each token takes
200 kB, and half the time of a training step goes into the output layer. Here it is applied to the
last hidden states tile by tile. In a training, the gradients are complete when the loss is; see
`helpers.engine.linear_loss`.
"""

import functools
import types
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from helpers.engine.attention import causal_without_mask
from helpers.engine.blocks import IGNORED
from helpers.engine.speed import tf32

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel, TrainingArguments

SMALL = 2**24  # logits; for a batch with fewer, the model's own loss is as fast


def tiled_losses(
    model: "PreTrainedModel", inputs: "torch.Tensor", targets: "torch.Tensor"
) -> "torch.Tensor":
    """The loss at each position, with logits computed tile by tile; for scoring, without gradients.

    Args:
        inputs: Token ids: (rows, length), int64.
        targets: The token to predict at each position, or -100: (rows, length), int64.

    Returns:
        Nats, 0 where the target is -100: (rows, length), float32.
    """
    import torch

    from helpers.engine.linear_loss import tile_size

    targets = targets.to(model.device)
    scored = targets != IGNORED
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    hidden = decoder(input_ids=inputs.to(model.device), use_cache=False).last_hidden_state[scored]
    rows, _ = tile_size(model.device)
    parts = zip(hidden.split(rows), targets[scored].split(rows), strict=True)
    losses = torch.zeros(targets.shape, device=model.device)
    losses[scored] = torch.cat([_head_losses(head, *part) for part in parts])
    return losses


def _head_losses(
    head: "torch.nn.Linear", hidden: "torch.Tensor", targets: "torch.Tensor"
) -> "torch.Tensor":
    """The cross-entropy of `head(hidden)` with the targets: (tokens,), float32."""
    import torch
    from torch.nn.functional import linear

    from helpers.engine.linear_loss import Logits, log_sums, targets_in, tile_size

    if len(head.weight) <= tile_size(hidden.device)[1]:
        logs = linear(hidden, head.weight, head.bias).log_softmax(1, dtype=torch.float32)
        return -logs.gather(1, targets[:, None])[:, 0]

    def logits_of(tile: slice) -> Logits:
        bias = None if head.bias is None else head.bias[tile]
        logits = linear(hidden, head.weight[tile], bias).float()
        return logits, *targets_in(tile, logits, targets)

    total, own = log_sums(logits_of, targets, len(head.weight))
    return total - own


def full_losses(
    model: "PreTrainedModel", inputs: "torch.Tensor", targets: "torch.Tensor"
) -> "torch.Tensor":
    """The same from the logits of the model's own forward, made float32 one row at a time."""
    import torch
    from torch.nn.functional import cross_entropy

    logits = model(input_ids=inputs.to(model.device), use_cache=False).logits
    rows = zip(logits, targets.to(model.device), strict=True)
    return torch.stack(
        [cross_entropy(x.float(), t, ignore_index=IGNORED, reduction="none") for x, t in rows]
    )


def sliceable(model: "PreTrainedModel", inputs: "torch.Tensor") -> bool:
    """Whether the output layer on the last hidden states gives what the model's own forward gives.

    It is compared on 16 tokens, once as they are and once with hidden states a thousand times as
    large, so that a soft cap shows, which leaves small logits unchanged.
    """
    import torch

    decoder, head = model.get_decoder(), model.get_output_embeddings()
    plain = getattr(type(head), "forward", None) is torch.nn.Linear.forward
    sharded = plain and hasattr(head.weight, "full_tensor")
    if decoder is model or not hasattr(decoder, "config") or not plain or sharded:
        return False
    return all(_same_logits(model, decoder, head, inputs[:, :16], factor) for factor in (1, 1000))


def _same_logits(model, decoder, head, inputs: "torch.Tensor", factor: int) -> bool:
    """Whether both ways give the same logits for the hidden states times a factor."""
    from torch.nn.functional import linear

    states = []

    def enlarge(module: object, args: object, output: dict) -> dict:
        output["last_hidden_state"] = output["last_hidden_state"] * factor
        states.append(output["last_hidden_state"])
        return output

    hook = decoder.register_forward_hook(enlarge)
    try:
        expected = model(input_ids=inputs.to(model.device), use_cache=False).logits.float()
    finally:
        hook.remove()
    widths = (head.in_features, head.out_features)
    if not states or (states[-1].shape[-1], expected.shape[-1]) != widths:
        return False
    logits = linear(states[-1], head.weight, head.bias).float()
    close = (logits - expected).abs().max() <= 1e-5 * expected.abs().max()
    return bool(expected.isfinite().all() and close)


def use_tiled_loss(model: "PreTrainedModel", compiled: bool = False) -> bool:
    """Replace the model's `forward` by one that computes the loss of large batches tile by tile.

    Given labels, it returns the loss alone, summed over targets and divided by
    `num_items_in_batch`, or by the number of targets. For small batches it calls the model's own.
    Nothing is replaced if the model does more to get its logits than apply the output layer.

    Args:
        compiled: Whether the model is compiled. The loss is compiled by itself then, where the
            whole vocabulary makes one tile: torch.compile would unroll the tiles.

    Returns:
        Whether `forward` was replaced.
    """
    import torch
    from transformers.modeling_outputs import CausalLMOutput

    from helpers.engine.linear_loss import LinearCrossEntropy, loss_and_gradient

    training, vocabulary = model.training, model.config.get_text_config().vocab_size
    with torch.inference_mode():
        can = sliceable(model.eval(), torch.arange(16)[None] % vocabulary)
    model.train(training)
    if not can:
        return False
    own, decoder, head = model.forward, model.get_decoder(), model.get_output_embeddings()
    fused = torch.compile(loss_and_gradient) if compiled else loss_and_gradient
    summed = torch.compiler.disable(functools.partial(LinearCrossEntropy.apply))

    def forward(
        self, input_ids=None, position_ids=None, labels=None, num_items_in_batch=None, **kwargs
    ):
        kwargs |= {"input_ids": input_ids, "position_ids": position_ids}
        if labels is None or labels.numel() * len(head.weight) < SMALL:
            if labels is not None and num_items_in_batch is not None:
                kwargs["num_items_in_batch"] = num_items_in_batch
            return own(**kwargs, labels=labels)
        # rows are taken by number: the gradient of a selection by a mask is slow on a GPU
        targets = labels[:, 1:].flatten()
        scored = (targets != IGNORED).nonzero()[:, 0]
        hidden = decoder(**kwargs).last_hidden_state[:, :-1].flatten(0, 1)
        hidden, targets = hidden.index_select(0, scored), targets.index_select(0, scored)
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        bias = None if head.bias is None else head.bias.to(dtype)
        inputs = (hidden.to(dtype), head.weight.to(dtype), bias, targets)
        with torch.autocast(kind, enabled=False):
            loss = summed(*inputs, fused)
        items = max(len(targets), 1) if num_items_in_batch is None else num_items_in_batch
        return CausalLMOutput(loss=loss / items)

    model.forward = types.MethodType(forward, model)
    return True


@contextmanager
def training_forward(
    model: "PreTrainedModel", arguments: "TrainingArguments", blocks: "Dataset"
) -> Iterator[None]:
    """While it lasts, a model or one with adapters is set up to train; its own forward is back
    afterwards.
    """
    network = model.get_base_model() if hasattr(model, "peft_config") else model
    compiled = arguments.torch_compile
    try:
        with ExitStack() as stack:
            stack.enter_context(tf32(arguments.device.type))
            if compiled and "position_ids" not in blocks.column_names:
                length = len(blocks[0]["input_ids"])
                stack.enter_context(causal_without_mask(network, length))
            use_tiled_loss(network, compiled)
            yield
    finally:
        # Accelerate leaves a forward that always computes in bfloat16, and a mark that keeps a
        # later training from getting one.
        for one in (model, network):
            for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
                one.__dict__.pop(name, None)
