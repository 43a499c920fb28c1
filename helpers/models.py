"""Loading a tokenizer or a causal language model, with the traps of both taken care of."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.engine.model_files import (
    check_checkpoint,
    check_ids,
    check_kind,
    check_tokenizer_file,
    refusal,
)
from helpers.errors import ModelError, ParameterError, first_line
from helpers.hub.sources import locate

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

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


def check_model(name: str, command: str | None = None) -> None:
    """Find in a model's files what would make it fail later, without reading weights.

    Args:
        name: `embedded`, a folder, or a name on the Hub; what is not on this machine is fetched.
        command: fetches it where there is a network, for the message if there is none.

    Raises:
        ModelError: where the model is no causal one, weights are missing, damaged or pickles, or
            the tokenizer does not fit the embedding; the same for adapters and their base model.
    """
    location = locate("model", name, command)
    check_checkpoint(name, location.folder, location.adapters)
    check_tokenizer_file(name, location.folder)


def load_tokenizer(name: str) -> "PreTrainedTokenizerBase":
    """The fast tokenizer of a model, or of the base model of adapters.

    Args:
        name: `embedded`, a folder, or a name on the Hub.

    Raises:
        ModelError: where there is none, it has no end-of-text token, or it makes token ids that
            have no embedding.
    """
    from transformers import AutoTokenizer

    folder = locate("model", name).folder
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        why = f"no tokenizer could be loaded from it ({first_line(error)})"
        raise refusal(name, why) from None
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
        ParameterError: for a `context` other than the stated one.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    location = locate("model", name)
    check_checkpoint(name, location.folder, location.adapters)
    try:
        config = AutoConfig.from_pretrained(location.folder)
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

    Two defaults of transformers 5.24 are changed. It would use the precision of the checkpoint, so
    that a model stored in 16 bits would be trained in 16 bits. And where a model leaves `loss_type`
    unset, as GPT-2 does, Trainer divides the loss by all tokens of a row, not by the scored ones.
    The cache is off, since with it the mask that keeps documents apart is dropped. Adapters (LoRA)
    are merged with their base model.

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
    location, config = locate("model", name), load_config(name, context)
    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(
            location.folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are refused below, with their names
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise refusal(name, f"no model could be loaded from it ({first_line(error)})") from None
    _check_loaded(name, loaded)
    for adapter in reversed(location.adapters):
        model = _merged(name, model, adapter)
    fuse_gelu(model)
    model.loss_type = "ForCausalLM"
    model.config.use_cache = model.config.get_text_config().use_cache = False
    model.to(_device())
    _check_causal(name, model)
    return model


def _check_loaded(name: str, loaded: dict[str, object]) -> None:
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


def _merged(name: str, model: "PreTrainedModel", adapter: Path) -> "PreTrainedModel":
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


def _check_causal(name: str, model: "PreTrainedModel") -> None:
    """ModelError where another token changes the predictions before it, as in BERT.

    The loss of such a model would mean nothing.
    """
    import torch

    size = model.config.get_text_config().vocab_size
    ids = torch.tensor([[1, 2, 3, 4]], device=model.device) % size
    model.eval()
    with torch.inference_mode():
        longer = model(input_ids=ids, use_cache=False).logits[0, :3].float()
        shorter = model(input_ids=ids[:, :3], use_cache=False).logits[0].float()
    if (longer - shorter).abs().max() > 1e-4 * shorter.abs().max():
        why = "its predictions depend on the tokens after them, so it is no causal language model"
        raise refusal(name, why)


def _device() -> str:
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
    """Replace the activation of GPT-2 and its kin by PyTorch's fused one, which is faster."""
    import torch
    from transformers.activations import NewGELUActivation

    for module in list(model.modules()):
        for name, activation in module.named_children():
            if isinstance(activation, NewGELUActivation):
                setattr(module, name, torch.nn.GELU(approximate="tanh"))


def prefix_token(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The token put before a text so that its first token is scored, too.

    It is the tokenizer's begin-of-text, or else its end-of-text, as in lm-evaluation-harness.
    """
    return tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id


def context_length(model_or_config: "PreTrainedModel | PreTrainedConfig") -> int:
    """The greatest number of tokens that a model can attend to.

    Raises ModelError where its configuration states none, as those of `load_config` and
    `load_model` always do.
    """
    config = getattr(model_or_config, "config", model_or_config)
    if not (length := _stated_length(config)):
        kind = config.model_type
        raise ModelError(f"A model of type {kind!r} has a configuration without a context length.")
    return length


def _stated_length(config: "PreTrainedConfig") -> int | None:
    text = config.get_text_config()
    lengths = (getattr(text, name, None) for name in LENGTHS)
    length = next((length for length in lengths if isinstance(length, int) and length > 0), None)
    after = text.pad_token_id + 1 if text.model_type in AFTER_PADDING else 0
    return length and length - after
