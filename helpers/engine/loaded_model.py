"""Checks of a loaded model, adapters, its device, a fast activation."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.engine.model_files import refusal
from helpers.errors import ParameterError, first_line

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

CONTEXT = 1024  # tokens, of a model that states no context length
LENGTHS = ["max_position_embeddings", "n_positions", "seq_length", "max_seq_len", "context_length"]
# types whose positions start after that of the padding token
AFTER_PADDING = [
    "camembert",
    "data2vec-text",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
]


def check_loaded(name: str, loaded: dict[str, object]) -> None:
    """ModelError for tensors that are missing in a checkpoint, or have another shape there.

    transformers logs it and makes up random ones. Tied tensors do not count as missing.
    """
    if missing := sorted(loaded["missing_keys"]):
        listed = ", ".join(missing[:3])
        listed += f", and {len(missing) - 3} more" if len(missing) > 3 else ""
        why = f"its checkpoint lacks {listed}: it is incomplete, fetch or save it anew"
        raise refusal(name, why)
    for tensor, stored, needed in sorted(loaded["mismatched_keys"]):
        why = (
            f"{tensor} is {tuple(stored)} in its checkpoint and {tuple(needed)} by its "
            "config.json: they do not belong together"
        )
        raise refusal(name, why)


def merged(name: str, model: "PreTrainedModel", adapter: Path) -> "PreTrainedModel":
    """A model with adapters merged into its weights; ModelError where they do not fit it."""
    from peft import PeftConfig, get_peft_model

    misfit = "its adapters do not fit their base model"
    try:
        adapted = get_peft_model(model, PeftConfig.from_pretrained(adapter))
        loaded = adapted.load_adapter(adapter, "default")
    except (ValueError, RuntimeError, KeyError, TypeError, ImportError) as error:
        raise refusal(name, f"{misfit} ({first_line(error)})") from None
    for state, tensors in (("missing", loaded.missing_keys), ("unknown", loaded.unexpected_keys)):
        if tensors:
            why = f"{misfit} ({min(tensors)} is {state}): name the right one in adapter_config.json"
            raise refusal(name, why)
    return adapted.merge_and_unload().requires_grad_(True)


def check_causal(name: str, model: "PreTrainedModel") -> None:
    """ModelError where another token changes the predictions before it, as in BERT.

    The loss of such a model would mean nothing.
    """
    import torch

    ids = torch.tensor([[1, 2, 3, 4]]) % model.config.get_text_config().vocab_size
    if depends_on_others(model, ids, slice(3), 1e-4):
        why = "its predictions depend on the tokens after them, so it is no causal language model"
        raise refusal(name, why)


def depends_on_others(
    model: "PreTrainedModel",
    ids: "torch.Tensor",
    part: slice,
    tolerance: float,
    **inputs: "torch.Tensor",
) -> bool:
    """Whether the logits of a `part` of some tokens change if the others are left out.

    `ids` and further `inputs` of the model are (1, tokens), `tolerance` is a share of the largest
    logit.
    """
    import torch

    model.eval()
    ids, inputs = ids.to(model.device), {k: v.to(model.device) for k, v in inputs.items()}
    with torch.inference_mode():
        together = model(input_ids=ids, use_cache=False, **inputs).logits[0, part].float()
        alone = model(input_ids=ids[:, part], use_cache=False).logits[0].float()
    return bool((together - alone).abs().max() > tolerance * alone.abs().max())


def device() -> str:
    """`cpu` or a GPU; of several processes that train together, each gets one of its own."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    if (rank := os.environ.get("LOCAL_RANK")) is None:
        return "cuda"
    if int(rank) >= (count := torch.cuda.device_count()):
        started = int(os.environ.get("LOCAL_WORLD_SIZE", rank))
        needed = f"each process needs a GPU of its own, this machine has {count}"
        raise ParameterError("nproc", started, needed)
    torch.cuda.set_device(int(rank))
    return f"cuda:{rank}"


def fuse_gelu(model: "PreTrainedModel") -> None:
    """Replace the activation of GPT-2 and similar models by PyTorch's fused one, for speed."""
    import torch
    from transformers.activations import NewGELUActivation

    for module in list(model.modules()):
        for name, activation in module.named_children():
            if isinstance(activation, NewGELUActivation):
                setattr(module, name, torch.nn.GELU(approximate="tanh"))


def stated_length(config: "PreTrainedConfig") -> int | None:
    text = config.get_text_config()
    lengths = (getattr(text, name, None) for name in LENGTHS)
    length = next((length for length in lengths if isinstance(length, int) and length > 0), None)
    after = text.pad_token_id + 1 if text.model_type in AFTER_PADDING else 0
    return length and length - after


def complete_context(name: str, config: "PreTrainedConfig", context: int) -> None:
    """Write a context length, `context` or 1,024, into a configuration that states none.

    Raises ParameterError for a `context` other than the stated one, if it is not 0.
    """
    stated = stated_length(config)
    if not stated:
        config.get_text_config().context_length = context or CONTEXT
        if not context:
            print(
                f"The configuration of {name!r} states no context length: {CONTEXT:,} tokens are "
                "taken, set context for another."
            )
    elif context not in (0, stated):
        needed = f"the configuration of {name!r} states {stated:,}, leave it at 0"
        raise ParameterError("context", context, needed)
