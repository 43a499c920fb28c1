"""The loss of a training without the logits of a whole batch.

With a vocabulary of 50,000, half the time and most of the memory of a small model goes into its output layer. Here logits are made a tile
at a time, twice: once for the sum over the vocabulary, and once, with that sum, for the gradients, which are finished when the loss is.
"""

import types
from typing import TYPE_CHECKING

import torch

from helpers.chunking import IGNORED
from helpers.scoring import TILE, sliceable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SMALL = 2**24  # logits of a batch; with fewer, the model's own way is as good


class LinearCrossEntropy(torch.autograd.Function):
    """The summed cross-entropy of `hidden @ weight.T + bias` with the targets, and its gradients; a float32 scalar, in nats.

    `hidden` (tokens, width) and `weight` (vocabulary, width) in the precision of the products, which are summed up in float32; `bias`
    (vocabulary,) or None; `targets` (tokens,), none of them ignored. The method is that of Liger's kernel and of "Cut your losses"
    (Wijmans et al. 2024): the gradients are computed with the loss, so that nothing as large as the logits is kept.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets):
        """The loss; gradients are left for `backward`."""
        rows, columns = TILE.get(hidden.device.type, TILE["cpu"])
        wanted = ctx.needs_input_grad
        of_hidden = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
        of_weight = (
            torch.zeros(weight.shape, dtype=torch.float32, device=hidden.device)
            if wanted[1]
            else None
        )
        of_bias = (
            torch.zeros(len(weight), dtype=torch.float32, device=hidden.device)
            if wanted[2]
            else None
        )
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for part in zip(
            hidden.split(rows), targets.split(rows), of_hidden.split(rows), strict=True
        ):
            loss += _add_gradients(*part, weight, bias, of_weight, of_bias, columns)
        ctx.save_for_backward(*(g for g in (of_hidden, of_weight, of_bias) if g is not None))
        ctx.kept = (True, wanted[1], wanted[2])
        ctx.dtypes = (hidden.dtype, weight.dtype, weight.dtype)
        return loss

    @staticmethod
    def backward(ctx, upstream):
        """The gradients that `forward` has found, times that of the loss."""
        kept = iter(ctx.saved_tensors)
        found = [next(kept).mul_(upstream) if there else None for there in ctx.kept]
        return *(g if g is None else g.to(d) for g, d in zip(found, ctx.dtypes, strict=True)), None


def _add_gradients(hidden, targets, of_hidden, weight, bias, of_weight, of_bias, columns):
    """The loss of some tokens; their gradients are added to those that are there."""
    tiles = [slice(start, start + columns) for start in range(0, len(weight), columns)]
    buffer = torch.empty(
        len(hidden) * columns, dtype=torch.float32, device=hidden.device
    )  # new memory is slow

    def logits_of(tile: slice) -> tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]:
        """Logits in float32, and which tokens have their target among them, where."""
        made = torch.nn.functional.linear(
            hidden, weight[tile], None if bias is None else bias[tile]
        )
        logits = buffer[: made.numel()].view(made.shape).copy_(made)
        inside = ((targets >= tile.start) & (targets < tile.start + logits.shape[1])).nonzero()[
            :, 0
        ]
        return logits, inside, targets[inside] - tile.start

    total = torch.full(targets.shape, -torch.inf, device=hidden.device)  # log of the sum of exp
    own = torch.zeros(targets.shape, device=hidden.device)  # the logit of the target
    for tile in tiles:
        logits, inside, place = logits_of(tile)
        own[inside] = logits[inside, place]
        most = logits.amax(1)
        total = torch.logaddexp(total, logits.sub_(most[:, None]).exp_().sum(1).log_() + most)
    for tile in tiles:
        logits, inside, place = logits_of(tile)
        logits.sub_(total[:, None]).exp_()[inside, place] -= (
            1  # their gradient: probability, less 1 at the target
        )
        gradient = logits.to(hidden.dtype)
        of_hidden += gradient @ weight[tile]
        if of_weight is not None:
            of_weight[tile] += gradient.T @ hidden
        if of_bias is not None:
            of_bias[tile] += logits.sum(0)
    return (total - own).sum()


def lean_loss(model: "PreTrainedModel") -> bool:
    """Let the model compute the loss of large batches tile by tile; whether it can.

    Given labels, its `forward` then returns the loss alone, summed over targets and divided by `num_items_in_batch`, or by their number.
    A model that does more with its logits than apply the output layer is left as it is, and small batches are in any case.
    """
    from transformers.modeling_outputs import CausalLMOutput

    training = model.training
    with torch.inference_mode():
        can = sliceable(
            model.eval(), torch.arange(16)[None] % model.config.get_text_config().vocab_size
        )
    model.train(training)
    if not can:
        return False
    own, base, head = model.forward, model.get_decoder(), model.get_output_embeddings()

    def forward(
        self, input_ids=None, position_ids=None, labels=None, num_items_in_batch=None, **kwargs
    ):
        given = {"input_ids": input_ids, "position_ids": position_ids, **kwargs}
        if labels is None or labels.numel() * len(head.weight) < SMALL:
            if labels is not None and num_items_in_batch is not None:
                given["num_items_in_batch"] = num_items_in_batch
            return own(**given, labels=labels)
        targets = labels[:, 1:]
        wanted = targets != IGNORED
        hidden = base(**given).last_hidden_state[:, :-1][wanted]
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        bias = None if head.bias is None else head.bias.to(dtype)
        with torch.autocast(kind, enabled=False):
            loss = LinearCrossEntropy.apply(
                hidden.to(dtype), head.weight.to(dtype), bias, targets[wanted]
            )
        return CausalLMOutput(
            loss=loss
            / (wanted.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch)
        )

    model.forward = types.MethodType(forward, model)
    return True
