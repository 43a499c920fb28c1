"""Loading a tokenizer or a causal language model, with the traps of both taken care of."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.errors import ModelError, ParameterError, first_line
from helpers.hub.model_files import (
    check_checkpoint,
    check_ids,
    check_kind,
    folders_of,
    no_tokenizer,
    refusal,
)

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

CONTEXT = 1024  # tokens, of a model that states no context length
LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "seq_length",
    "max_seq_len",
    "context_length",
)
AFTER_PADDING = (  # types whose positions start after that of the padding token
    "camembert",
    "data2vec-text",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)


def load_tokenizer(name: str) -> "PreTrainedTokenizerBase":
    """The fast tokenizer of a model, or of the base model of adapters.

    Args:
        name: `embedded`, a folder, or a name on the Hub.

    Raises:
        ModelError: where there is none, it has no end-of-text token, or it makes numbers that have
            no embedding.
    """
    from transformers import AutoTokenizer

    folder = folders_of(name)[-1]
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise no_tokenizer(name, first_line(error)) from None
    if not tokenizer.is_fast:
        raise refusal(name, "its tokenizer has no fast (Rust) version, which the helpers need")
    if tokenizer.eos_token_id is None:
        why = "its tokenizer has no end-of-text token (eos_token), so documents cannot be separated"
        raise refusal(name, why)
    used = (tokenizer.eos_token_id, tokenizer.bos_token_id)
    check_ids(name, folder, tokenizer.backend_tokenizer, used)
    return tokenizer


def load_config(name: str, context: int = 0) -> "PreTrainedConfig":
    """The configuration of a causal model, or of the base model of adapters.

    Args:
        name: `embedded`, a folder, or a name on the Hub.
        context: the context length (tokens) of a model whose configuration states none; 0: 1,024,
            which is printed.

    Raises:
        ModelError: where there is none, the model is no causal one, or its files are not whole.
        ParameterError: for a `context` other than the one that is stated.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    folders = folders_of(name)
    check_checkpoint(name, folders)
    try:
        config = AutoConfig.from_pretrained(folders[-1])
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        why = f"no configuration could be loaded from it ({first_line(error)})"
        raise refusal(name, why) from None
    check_kind(name, config.to_dict())
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        why = f"transformers loads no causal language model of type {config.model_type!r}"
        raise refusal(name, why)
    stated = _stated_length(config)
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
    return config


def load_model(name: str | Path, context: int = 0) -> "PreTrainedModel":
    """A causal language model with float32 weights, on the GPU if there is one.

    Two defaults of transformers 5.24 are mended. The checkpoint's own precision would be used, so
    that a model stored in 16 bits would be trained in 16 bits: the weights are made float32. And
    where a model leaves `loss_type` unset, GPT-2 among them, Trainer divides the loss by all tokens
    of a row and not by those that are scored: it is set. The cache is off, since with it the mask
    that keeps documents apart is dropped. Adapters (LoRA) are merged with their base model.

    Args:
        name: `embedded`, a folder, or a name on the Hub.
        context: as for `load_config`.

    Raises:
        ModelError: where there is no such model, it is no causal one, or it lacks weights.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    name = str(name)
    *adapters, folder = folders_of(name)
    config = load_config(name, context)
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are refused below, with their names
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise refusal(name, f"no model could be loaded from it ({first_line(error)})") from None
    _refuse_incomplete(name, found)
    for adapter in reversed(adapters):
        model = _adapted(name, model, adapter)
    quicken(model)
    model.loss_type = "ForCausalLM"
    model.config.use_cache = model.config.get_text_config().use_cache = False
    model.to(_device())
    _refuse_foresight(name, model)
    return model


def _refuse_incomplete(name: str, found: dict[str, object]) -> None:
    """ModelError for tensors that are missing in a checkpoint, or have another shape there.

    transformers makes up random ones, and logs it. Tied tensors do not count as missing; tensors
    that the model does not have are left out.
    """
    if missing := sorted(found["missing_keys"]):
        named = ", ".join(missing[:3])
        named += f", and {len(missing) - 3} more" if len(missing) > 3 else ""
        why = f"its checkpoint lacks {named}: it is incomplete, fetch or save it anew"
        raise refusal(name, why)
    for tensor, there, wanted in sorted(found["mismatched_keys"]):
        why = f"{tensor} is {tuple(there)} in its checkpoint and {tuple(wanted)} by its config.json"
        raise refusal(name, f"{why}: they do not belong together")


def _adapted(name: str, model: "PreTrainedModel", folder: Path) -> "PreTrainedModel":
    """A model with adapters merged into its weights; ModelError where they are not made for it."""
    from peft import PeftConfig, get_peft_model

    said = "its adapters do not fit their base model"
    try:
        adapted = get_peft_model(model, PeftConfig.from_pretrained(folder))
        found = adapted.load_adapter(folder, "default")
    except (ValueError, RuntimeError, KeyError, TypeError, ImportError) as error:
        raise refusal(name, f"{said} ({first_line(error)})") from None
    for kind, tensors in (("missing", found.missing_keys), ("unknown", found.unexpected_keys)):
        if tensors:
            why = f"{said} ({min(tensors)} is {kind}): name the right one in adapter_config.json"
            raise refusal(name, why)
    return adapted.merge_and_unload().requires_grad_(True)


def _refuse_foresight(name: str, model: "PreTrainedModel") -> None:
    """ModelError where a token more changes what is predicted before it, as in BERT.

    A loss of such a model would mean nothing.
    """
    import torch

    size = model.config.get_text_config().vocab_size
    ids = torch.tensor([[1, 2, 3, 4]], device=model.device) % size
    model.eval()
    with torch.inference_mode():
        more = model(input_ids=ids, use_cache=False).logits[0, :3].float()
        fewer = model(input_ids=ids[:, :3], use_cache=False).logits[0].float()
    if (more - fewer).abs().max() > 1e-4 * fewer.abs().max():
        why = "its predictions depend on the tokens after them, so it is no causal language model"
        raise refusal(name, why)


def _device() -> str:
    """`cpu`, or a GPU: of several processes that train together here, each takes one of its own."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    if (rank := os.environ.get("LOCAL_RANK")) is None:
        return "cuda"
    if int(rank) >= (count := torch.cuda.device_count()):
        started = int(os.environ.get("LOCAL_WORLD_SIZE", rank))
        raise ParameterError(
            "nproc", started, f"each process needs a GPU of its own, this machine has {count}"
        )
    torch.cuda.set_device(int(rank))
    return f"cuda:{rank}"


def quicken(model: "PreTrainedModel") -> None:
    """Let PyTorch compute the activation of GPT-2 and its kin in one piece, which is faster."""
    import torch
    from transformers.activations import NewGELUActivation

    for module in list(model.modules()):
        for name, activation in module.named_children():
            if isinstance(activation, NewGELUActivation):
                setattr(module, name, torch.nn.GELU(approximate="tanh"))


def prefix_token(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The token that stands before a text whose first token is scored.

    It is the tokenizer's begin-of-text, or else its end-of-text, as in lm-evaluation-harness.
    """
    return tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id


def context_length(model_or_config: "PreTrainedModel | PreTrainedConfig") -> int:
    """The greatest number of tokens that a model can attend to.

    Raises ModelError where its configuration states none; `load_config` and `load_model` see to it
    that it does.
    """
    config = getattr(model_or_config, "config", model_or_config)
    length = _stated_length(config)
    if not length:
        kind = config.model_type
        raise ModelError(f"A model of type {kind!r} has a configuration without a context length.")
    return length


def _stated_length(config: "PreTrainedConfig") -> int | None:
    text = config.get_text_config()
    lengths = (getattr(text, name, None) for name in LENGTHS)
    length = next((length for length in lengths if isinstance(length, int) and length > 0), None)
    after = text.pad_token_id + 1 if text.model_type in AFTER_PADDING else 0
    return length and length - after
