"""The negative log likelihood of each token under a causal language model, with little memory.

Windows of many documents are sorted by length and scored together, as many tokens at once as memory allows. Logits are the
largest thing in it: a vocabulary of 50,000 makes 200 kB of them for each token. They are never there for a whole batch, since
the output layer is applied to the last hidden states tile by tile, and the sum over the vocabulary is put together from the
tiles; where a model does more with its logits than that (a soft cap, a scale), its own forward is used.
"""

import ctypes
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from helpers.chunking import IGNORED
from helpers.engine.progress import progress
from helpers.errors import DataError, ModelError
from helpers.models import context_length

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# what is at once in memory, by device; more is no faster
TILE = {
    "cpu": (1024, 1024),
    "cuda": (8192, 8192),
}  # logits: of so many tokens, for so many entries of the vocabulary
MOST = {"cpu": 1024, "cuda": 65_536}  # tokens in a batch


@dataclass(frozen=True)
class Windows:
    """What is to be scored: windows into one long row of tokens.

    Window w sees the tokens `first[w]` to `end[w]`, and those from `start[w]` on are scored, each from what stands before it in the
    window. `owners` are the numbers of the `what` (document or block) that windows belong to; `ignored` marks tokens that are
    seen and not scored.
    """

    ids: np.ndarray
    first: np.ndarray
    start: np.ndarray
    end: np.ndarray
    owners: np.ndarray
    what: str = "document"
    ignored: np.ndarray | None = None

    def batch(self, chosen: np.ndarray) -> tuple["torch.Tensor", "torch.Tensor"]:
        """The input of the model for some windows, and its targets: (windows, longest), padded on the right, int64."""
        import torch

        shape = (len(chosen), int((self.end - self.first)[chosen].max()) - 1)
        inputs, targets = torch.zeros(shape, dtype=torch.int64), torch.full(shape, IGNORED)
        for row, w in enumerate(chosen):
            first, start, end = self.first[w], self.start[w], self.end[w]
            seen = self.ids[first:end].astype(np.int64)
            inputs[row, : len(seen) - 1] = torch.from_numpy(seen[:-1])
            if self.ignored is not None:
                seen[self.ignored[first:end]] = IGNORED
            targets[row, start - first - 1 : len(seen) - 1] = torch.from_numpy(
                seen[start - first :]
            )
        return inputs, targets


def token_nats(
    model: "PreTrainedModel",
    windows: Windows,
    compute_dtype: str = "float32",
    resume: Path | None = None,
) -> np.ndarray:
    """The nats (negative log likelihood) of each token of `windows.ids`: (tokens,), float32, NaN where a token is not scored.

    `compute_dtype` is float32 or bfloat16; the loss is float32 in either case. In the folder `resume`, what has been scored is
    kept under a hash of the model, the windows and the precision, so that a call that was interrupted goes on where it was.
    Raises ModelError for a token that the model does not know, for a loss that is not a number, with the document, and where not even one window fits into memory; DataError
    where there is nothing to score.
    """
    _check_known(model, windows)
    nats = _kept(model, windows, compute_dtype, resume)
    width, scored = windows.end - windows.first, windows.end - windows.start
    left = np.flatnonzero(np.isnan(nats[windows.end - 1]) & (scored > 0))
    left = left[np.argsort(-width[left], kind="stable")]
    training = model.training
    model.eval()
    keep_memory()
    # while it is trained, a model has a forward that computes a loss in tiles, and in bfloat16 whatever is asked for
    wrapped = model.__dict__.pop("forward", None)
    try:
        with progress(int(scored.sum()), "tokens") as bar:
            bar.resume(int(scored.sum() - scored[left].sum()))
            for chosen, losses in _batches(model, windows, left, compute_dtype):
                for w, row in zip(chosen, losses, strict=True):
                    loss = row[width[w] - scored[w] - 1 : width[w] - 1]
                    _check(loss, windows, w)
                    nats[windows.start[w] : windows.end[w]] = loss
                bar.advance(int(scored[chosen].sum()))
    finally:
        model.train(training)
        if wrapped is not None:
            model.forward = wrapped
    nats = (
        np.array(nats)
        if windows.ignored is None
        else np.where(windows.ignored, np.float32(np.nan), nats)
    )
    if np.isnan(nats).all():
        raise DataError("There is not one token to score: the texts are empty.")
    return nats


def _check_known(model: "PreTrainedModel", windows: Windows) -> None:
    size = model.config.get_text_config().vocab_size
    if len(windows.ids) and (largest := int(windows.ids.max())) >= size:
        place = np.argmax(windows.ids)
        owner = windows.owners[np.flatnonzero(windows.first <= place)[-1]]
        raise ModelError(
            f"{windows.what.capitalize()} {owner} has token {largest}, and the model knows 0 to {size - 1}: "
            "resize its embeddings (resize_token_embeddings), or take its own tokenizer."
        )


def _check(loss: np.ndarray, windows: Windows, w: int) -> None:
    if not np.isfinite(loss).all():
        raise ModelError(
            f"The model gives {windows.what} {windows.owners[w]} a loss of {loss[~np.isfinite(loss)][0]}: "
            "its perplexity is not a number."
        )


def _batches(
    model: "PreTrainedModel", windows: Windows, order: np.ndarray, compute_dtype: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Windows in an order, longest first, and the losses of their positions; a batch that does not fit is halved."""
    import torch
    from accelerate.utils.memory import should_reduce_batch_size

    def calculation() -> "torch.autocast":
        return torch.autocast(
            model.device.type, torch.bfloat16, enabled=compute_dtype == "bfloat16"
        )

    width = windows.end - windows.first
    if len(order):
        with torch.inference_mode(), calculation():
            sliced = sliceable(model, windows.batch(order[:1])[0])
        losses_of, budget = sliced_losses if sliced else own_losses, _tokens_at_once(model, sliced)
    while len(order):
        longest = int(width[order[0]])
        chosen = order[: max(1, budget // longest)]
        try:
            with torch.inference_mode(), calculation():
                losses = losses_of(model, *windows.batch(chosen)).cpu().numpy()
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            if len(chosen) == 1:
                raise ModelError(
                    f"A window of {longest} tokens does not fit into memory."
                ) from None
            budget = len(chosen) // 2 * longest
            continue
        yield chosen, losses
        order = order[len(chosen) :]


def sliced_losses(
    model: "PreTrainedModel", inputs: "torch.Tensor", targets: "torch.Tensor"
) -> "torch.Tensor":
    """The loss at each position, 0 where the target is -100: (rows, length), float32; logits are made a tile at a time."""
    import torch

    targets = targets.to(model.device)
    wanted = targets != IGNORED
    hidden = model.get_decoder()(
        input_ids=inputs.to(model.device), use_cache=False
    ).last_hidden_state[wanted]
    head, rows = model.get_output_embeddings(), TILE.get(model.device.type, TILE["cpu"])[0]
    losses = torch.zeros(targets.shape, device=model.device)
    losses[wanted] = torch.cat(
        [
            _linear_cross_entropy(head, *p)
            for p in zip(hidden.split(rows), targets[wanted].split(rows), strict=True)
        ]
    )
    return losses


def _linear_cross_entropy(
    head: "torch.nn.Linear", hidden: "torch.Tensor", targets: "torch.Tensor"
) -> "torch.Tensor":
    """The cross-entropy of `head(hidden)` with the targets, some columns of the vocabulary after others: (tokens,), float32."""
    import torch

    columns = TILE.get(hidden.device.type, TILE["cpu"])[1]
    total = torch.full(targets.shape, -torch.inf, device=hidden.device)  # log of the sum of exp
    own = torch.zeros(targets.shape, device=hidden.device)  # the logit of the target
    for start in range(0, len(head.weight), columns):
        part = slice(start, start + columns)
        bias = None if head.bias is None else head.bias[part]
        logits = torch.nn.functional.linear(hidden, head.weight[part], bias).float()
        place = targets - start
        inside = (place >= 0) & (place < logits.shape[1])
        own[inside] = logits[inside, place[inside]]
        most = logits.amax(1)
        here = (
            logits.sub_(most[:, None]).exp_().sum(1).log_() + most
        )  # logsumexp, in place: new memory is slow
        total = torch.logaddexp(total, here)
    return total - own


def own_losses(
    model: "PreTrainedModel", inputs: "torch.Tensor", targets: "torch.Tensor"
) -> "torch.Tensor":
    """The same from the logits of the model's own forward, one row of them at a time in float32."""
    import torch

    logits = model(input_ids=inputs.to(model.device), use_cache=False).logits
    return torch.stack(
        [_cross_entropy(row, t) for row, t in zip(logits, targets.to(model.device), strict=True)]
    )


def _cross_entropy(logits: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
    import torch

    return torch.nn.functional.cross_entropy(
        logits.float(), targets, ignore_index=IGNORED, reduction="none"
    )


def sliceable(model: "PreTrainedModel", inputs: "torch.Tensor") -> bool:
    """Whether the output layer on the last hidden states gives what the model's own forward gives.

    It is tried on 16 tokens, once as they are and once with hidden states a thousand times as large, where a soft cap
    that small logits pass unchanged would show.
    """
    import torch

    base, head, seen = model.get_decoder(), model.get_output_embeddings(), []
    plain = getattr(type(head), "forward", None) is torch.nn.Linear.forward
    if (
        base is model
        or not hasattr(base, "config")
        or not plain
        or hasattr(head.weight, "full_tensor")
    ):  # (sharded)
        return False
    for factor in (1, 1000):

        def enlarge(module: object, given: object, output: dict, factor: int = factor) -> dict:
            output["last_hidden_state"] = output["last_hidden_state"] * factor
            seen.append(output["last_hidden_state"])
            return output

        hook = base.register_forward_hook(enlarge)
        try:
            own = model(input_ids=inputs[:, :16].to(model.device), use_cache=False).logits.float()
        finally:
            hook.remove()
        if not seen or seen[-1].shape[-1] != head.in_features or own.shape[-1] != head.out_features:
            return False
        ours = torch.nn.functional.linear(seen[-1], head.weight, head.bias).float()
        if not own.isfinite().all() or (ours - own).abs().max() > 1e-5 * own.abs().max():
            return False
    return True


def _tokens_at_once(model: "PreTrainedModel", sliced: bool) -> int:
    """How many tokens make a batch: what fits into a quarter of the free memory, by a rough count, and no more than MOST."""
    config, kind = model.config.get_text_config(), model.device.type
    each = (
        64 * config.hidden_size
    )  # bytes; a dozen float32 vectors as wide as the model or its feed-forward layer
    if config._attn_implementation == "eager" and hasattr(config, "num_attention_heads"):
        each += 8 * config.num_attention_heads * context_length(model)
    if not sliced:
        each += 8 * config.vocab_size
    return min(MOST.get(kind, MOST["cpu"]), free_memory(kind) // 4 // each)


def keep_memory() -> None:
    """Let the C library keep what is freed, for the next batch.

    glibc gives large pieces back to the system at once and takes them anew, page by page, which on a processor can cost as much time as the
    arithmetic. Other C libraries are left alone.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        libc.mallopt(-4, 0)  # M_MMAP_MAX
    except (OSError, AttributeError):
        return


def free_memory(kind: str) -> int:
    """Bytes that are free on the current `cuda` device, or else in this machine, or in what this process may use of it."""
    import psutil
    import torch

    if kind == "cuda":
        return (
            torch.cuda.mem_get_info()[0]
            + torch.cuda.memory_reserved()
            - torch.cuda.memory_allocated()
        )
    free = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        left = int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
        left += int(
            re.search(r"^inactive_file (\d+)", (group / "memory.stat").read_text(), re.M)[1]
        )  # can be dropped
    except (OSError, ValueError, TypeError):  # no such file, or no limit
        return free
    return max(0, min(free, left))


def _kept(
    model: "PreTrainedModel", windows: Windows, compute_dtype: str, folder: Path | None
) -> np.ndarray:
    """Where the nats are written to: an array of NaN, or a file in `folder` that may hold some already."""
    import torch

    if folder is None:
        return np.full(len(windows.ids), np.nan, np.float32)
    digest = hashlib.blake2b(
        f"{compute_dtype} {model.config.to_json_string()}".encode(), digest_size=16
    )
    for name, weight in model.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    for array in (windows.ids, windows.first, windows.start, windows.end, windows.ignored):
        digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
    path = folder / f"{digest.hexdigest()}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".new").open(
            "wb"
        ) as file:  # whole and on the disk before it has its name
            np.save(file, np.full(len(windows.ids), np.nan, np.float32))
            file.flush()
            os.fsync(file.fileno())
        path.with_suffix(".new").rename(path)
    return np.lib.format.open_memmap(path, "r+")
