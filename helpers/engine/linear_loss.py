"""The cross-entropy of an output layer, with its gradients, from logits that are never all there.

Logits are computed tile by tile. On a CPU that happens twice: once for the sum over the vocabulary,
and once, with that sum, for the gradients. On a GPU a tile has the whole vocabulary.
"""

import functools
from collections.abc import Callable, Iterator

import torch
from torch.nn.functional import linear, pad

# Size of a tile by device: tokens, entries of the vocabulary. On a CPU, larger tiles are no faster;
# a GPU takes the whole vocabulary, and computes each logit once.
TILE = {"cpu": (1024, 1024), "cuda": (4096, 2**20)}

Logits = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
# logits and targets -> their loss and its gradient, see `loss_and_gradient`
Fused = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def tile_size(device: torch.device) -> tuple[int, int]:
    """Tokens and entries of the vocabulary in a tile."""
    return TILE.get(device.type, TILE["cpu"])


def _tiles(vocabulary: int, columns: int) -> Iterator[slice]:
    return (slice(start, start + columns) for start in range(0, vocabulary, columns))


def targets_in(
    tile: slice, logits: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether each token has its target in a tile of the vocabulary: (tokens,), and in which
    column of it: (tokens, 1), any if it has not. A GPU need not wait for their number.
    """
    column = targets - tile.start
    inside = (column >= 0) & (column < logits.shape[1])
    return inside, column.clamp(0, logits.shape[1] - 1)[:, None]


def log_sums(
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
    def forward(ctx, hidden, weight, bias, targets, fused):
        """The loss; saves the gradients for `backward`."""
        (rows, columns), vocabulary = tile_size(hidden.device), len(weight)
        needed, whole = (True, *ctx.needs_input_grad[1:3]), vocabulary <= columns
        if whole:
            weight, bias = _padded(weight, bias)
        of_hidden, of_weight, of_bias = gradients = [
            torch.zeros(x.shape, dtype=torch.float32, device=hidden.device) if wanted else None
            for x, wanted in zip((hidden, weight, bias), needed, strict=True)
        ]
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        parts = (hidden.split(rows), targets.split(rows), of_hidden.split(rows))
        add = functools.partial(_add_whole, fused) if whole else _add_gradients
        for part in zip(*parts, strict=True):
            loss += add(*part, weight, bias, of_weight, of_bias)
        sizes = (len(hidden), vocabulary, vocabulary)
        kept = (g[:n] for g, n in zip(gradients, sizes, strict=True) if g is not None)
        ctx.save_for_backward(*kept)
        ctx.needed, ctx.dtypes = needed, (hidden.dtype, weight.dtype, weight.dtype)
        return loss

    @staticmethod
    def backward(ctx, upstream):
        """The gradients from `forward`, times that of the loss."""
        saved = iter(ctx.saved_tensors)
        return *(
            next(saved).mul_(upstream).to(dtype) if needed else None
            for needed, dtype in zip(ctx.needed, ctx.dtypes, strict=True)
        ), *(None, None)


def _add_gradients(hidden, targets, of_hidden, weight, bias, of_weight, of_bias):
    """The loss of some tokens; adds their gradients to the given ones."""
    columns = tile_size(hidden.device)[1]
    buffer = torch.empty(len(hidden) * columns, dtype=torch.float32, device=hidden.device)

    def logits_of(tile: slice) -> Logits:
        product = linear(hidden, weight[tile], None if bias is None else bias[tile])
        logits = buffer[: product.numel()].view(product.shape).copy_(product)
        return logits, *targets_in(tile, logits, targets)

    total, own = log_sums(logits_of, targets, len(weight))
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


def loss_and_gradient(
    logits: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The summed loss of logits (tokens, vocabulary), and its gradient in their precision.

    Sums are taken in float32. torch.compile fuses it into two passes over the logits.
    """
    logs = logits.log_softmax(1, dtype=torch.float32)
    own = logs.gather(1, targets[:, None])
    gradient = logs.exp_().to(logits.dtype)
    # the probabilities, less 1 at the target
    return -own.sum(), gradient.scatter_(1, targets[:, None], own.expm1().to(logits.dtype))


def _padded(
    weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The same with a vocabulary of a multiple of 64: a GPU is slow with other sizes.

    The added logits are minus infinity.
    """
    more = -len(weight) % 64
    if not more:
        return weight, bias
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    return pad(weight, (0, 0, 0, more)), pad(bias, (0, more), value=-torch.inf)


def _add_whole(fused: Fused, hidden, targets, of_hidden, weight, bias, of_weight, of_bias):
    """The same as `_add_gradients`, with the logits of the whole vocabulary, computed once."""
    loss, gradient = fused(linear(hidden, weight, bias), targets)
    of_hidden += gradient @ weight
    if of_weight is not None:
        of_weight += gradient.T @ hidden
    if of_bias is not None:
        of_bias += gradient.sum(0, dtype=torch.float32)
    return loss
