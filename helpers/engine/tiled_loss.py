"""The loss of a language model without the logits of a whole batch.

Logits are the largest tensor of a small model: with a vocabulary of 50,000, each token takes
200 kB, and half the time of a training step goes into the output layer. Here it is applied to the
last hidden states tile by tile. In a training that happens twice: once for the sum over the
vocabulary, and once, with that sum, for the gradients, which are complete when the loss is.
"""

import types
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy, linear

from helpers.engine.blocks import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Size of a tile by device: tokens, entries of the vocabulary. Larger tiles are no faster.
TILE = {"cpu": (1024, 1024), "cuda": (8192, 8192)}
SMALL = 2**24  # logits; for a batch with fewer, the model's own loss is as fast

Logits = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def tile_size(device: torch.device) -> tuple[int, int]:
    """Tokens and entries of the vocabulary in a tile."""
    return TILE.get(device.type, TILE["cpu"])


def tiled_losses(
    model: "PreTrainedModel", inputs: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """The loss at each position, with logits computed tile by tile; for scoring, without gradients.

    Args:
        inputs: Token ids: (rows, length), int64.
        targets: The token to predict at each position, or -100: (rows, length), int64.

    Returns:
        Nats, 0 where the target is -100: (rows, length), float32.
    """
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
    head: torch.nn.Linear, hidden: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """The cross-entropy of `head(hidden)` with the targets: (tokens,), float32."""

    def logits_of(tile: slice) -> Logits:
        bias = None if head.bias is None else head.bias[tile]
        logits = linear(hidden, head.weight[tile], bias).float()
        return logits, *_targets_in(tile, logits, targets)

    total, own = _log_sums(logits_of, targets, len(head.weight))
    return total - own


def full_losses(
    model: "PreTrainedModel", inputs: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """The same from the logits of the model's own forward, made float32 one row at a time."""
    logits = model(input_ids=inputs.to(model.device), use_cache=False).logits
    rows = zip(logits, targets.to(model.device), strict=True)
    return torch.stack(
        [cross_entropy(x.float(), t, ignore_index=IGNORED, reduction="none") for x, t in rows]
    )


def sliceable(model: "PreTrainedModel", inputs: torch.Tensor) -> bool:
    """Whether the output layer on the last hidden states gives what the model's own forward gives.

    It is compared on 16 tokens, once as they are and once with hidden states a thousand times as
    large, so that a soft cap shows, which leaves small logits unchanged.
    """
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    plain = getattr(type(head), "forward", None) is torch.nn.Linear.forward
    sharded = plain and hasattr(head.weight, "full_tensor")
    if decoder is model or not hasattr(decoder, "config") or not plain or sharded:
        return False
    return all(_same_logits(model, decoder, head, inputs[:, :16], factor) for factor in (1, 1000))


def _same_logits(model, decoder, head, inputs: torch.Tensor, factor: int) -> bool:
    """Whether both ways give the same logits for the hidden states times a factor."""
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


def _tiles(vocabulary: int, columns: int) -> Iterator[slice]:
    return (slice(start, start + columns) for start in range(0, vocabulary, columns))


def _targets_in(
    tile: slice, logits: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether each token has its target in a tile of the vocabulary: (tokens,), and in which
    column of it: (tokens, 1), any if it has not. A GPU need not wait for their number.
    """
    column = targets - tile.start
    inside = (column >= 0) & (column < logits.shape[1])
    return inside, column.clamp(0, logits.shape[1] - 1)[:, None]


def _log_sums(
    logits_of: Callable[[slice], Logits], targets: torch.Tensor, vocabulary: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The logarithm of the sum of exp(logits), and the logit of the target: each (tokens,)."""
    total = torch.full(targets.shape, -torch.inf, device=targets.device)
    own = torch.zeros(targets.shape, device=targets.device)
    for tile in _tiles(vocabulary, tile_size(targets.device)[1]):
        logits, inside, column = logits_of(tile)
        own = torch.where(inside, logits.gather(1, column)[:, 0], own)
        most = logits.amax(1)
        # logsumexp in place, since allocating memory is slow
        total = torch.logaddexp(total, logits.sub_(most[:, None]).exp_().sum(1).log_() + most)
    return total, own


class LinearCrossEntropy(torch.autograd.Function):
    """The summed cross-entropy of `hidden @ weight.T + bias` with the targets, and its gradients.

    The result is a float32 scalar in nats. `hidden` (tokens, width) and `weight` (vocabulary,
    width) have the precision of the products, which are summed in float32; `bias` is (vocabulary,)
    or None; `targets` is (tokens,), none of them ignored. The method is that of Liger's kernel and
    of "Cut your losses" (Wijmans et al. 2024): the gradients are computed with the loss, so that
    nothing as large as the logits is kept.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets):
        """The loss; saves the gradients for `backward`."""
        rows, _ = tile_size(hidden.device)
        needed = (True, *ctx.needs_input_grad[1:3])
        of_hidden, of_weight, of_bias = gradients = [
            torch.zeros(x.shape, dtype=torch.float32, device=hidden.device) if wanted else None
            for x, wanted in zip((hidden, weight, bias), needed, strict=True)
        ]
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        parts = (hidden.split(rows), targets.split(rows), of_hidden.split(rows))
        for part in zip(*parts, strict=True):
            loss += _add_gradients(*part, weight, bias, of_weight, of_bias)
        ctx.save_for_backward(*(g for g in gradients if g is not None))
        ctx.needed, ctx.dtypes = needed, (hidden.dtype, weight.dtype, weight.dtype)
        return loss

    @staticmethod
    def backward(ctx, upstream):
        """The gradients from `forward`, times that of the loss."""
        saved = iter(ctx.saved_tensors)
        return *(
            next(saved).mul_(upstream).to(dtype) if needed else None
            for needed, dtype in zip(ctx.needed, ctx.dtypes, strict=True)
        ), None


def _add_gradients(hidden, targets, of_hidden, weight, bias, of_weight, of_bias):
    """The loss of some tokens; adds their gradients to the given ones."""
    columns = tile_size(hidden.device)[1]
    buffer = torch.empty(len(hidden) * columns, dtype=torch.float32, device=hidden.device)

    def logits_of(tile: slice) -> Logits:
        product = linear(hidden, weight[tile], None if bias is None else bias[tile])
        logits = buffer[: product.numel()].view(product.shape).copy_(product)
        return logits, *_targets_in(tile, logits, targets)

    total, own = _log_sums(logits_of, targets, len(weight))
    for tile in _tiles(len(weight), columns):
        logits, inside, column = logits_of(tile)
        # the gradient of the logits: the probabilities, less 1 at the target
        logits.sub_(total[:, None]).exp_().scatter_add_(1, column, -inside[:, None].float())
        gradient = logits.to(hidden.dtype)
        of_hidden += gradient @ weight[tile]
        if of_weight is not None:
            of_weight[tile] += gradient.T @ hidden
        if of_bias is not None:
            of_bias[tile] += logits.sum(0)
    return (total - own).sum()


def use_tiled_loss(model: "PreTrainedModel") -> bool:
    """Replace the model's `forward` by one that computes the loss of large batches tile by tile.

    Given labels, it returns the loss alone, summed over targets and divided by
    `num_items_in_batch`, or by the number of targets. For small batches it calls the model's own.
    Nothing is replaced if the model does more to get its logits than apply the output layer.

    Returns:
        Whether `forward` was replaced.
    """
    from transformers.modeling_outputs import CausalLMOutput

    training, vocabulary = model.training, model.config.get_text_config().vocab_size
    with torch.inference_mode():
        can = sliceable(model.eval(), torch.arange(16)[None] % vocabulary)
    model.train(training)
    if not can:
        return False
    own, decoder, head = model.forward, model.get_decoder(), model.get_output_embeddings()

    def forward(
        self, input_ids=None, position_ids=None, labels=None, num_items_in_batch=None, **kwargs
    ):
        kwargs |= {"input_ids": input_ids, "position_ids": position_ids}
        if labels is None or labels.numel() * len(head.weight) < SMALL:
            if labels is not None and num_items_in_batch is not None:
                kwargs["num_items_in_batch"] = num_items_in_batch
            return own(**kwargs, labels=labels)
        scored = labels[:, 1:] != IGNORED
        hidden = decoder(**kwargs).last_hidden_state[:, :-1][scored]
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        bias = None if head.bias is None else head.bias.to(dtype)
        inputs = (hidden.to(dtype), head.weight.to(dtype), bias, labels[:, 1:][scored])
        with torch.autocast(kind, enabled=False):
            loss = LinearCrossEntropy.apply(*inputs)
        items = scored.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        return CausalLMOutput(loss=loss / items)

    model.forward = types.MethodType(forward, model)
    return True
