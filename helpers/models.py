"""Loading a tokenizer or a causal language model, from this machine or the Hub, with its traps taken care of."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.errors import ModelError, ParameterError, first_line
from helpers.sources import obtain

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def _where(name: str) -> str:
    return str(obtain("model", name))


def load_tokenizer(name: str) -> "PreTrainedTokenizerBase":
    """The fast tokenizer of a model: `embedded`, a folder, or a name on the Hub.

    Raises ModelError where there is none, or where it has no end-of-text token.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(_where(name))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise ModelError(f"model is {name!r}: no tokenizer could be loaded from it ({first_line(error)}).") from None
    if not tokenizer.is_fast:
        raise ModelError(f"model is {name!r}: its tokenizer has no fast (Rust) version, which the helpers need.")
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"model is {name!r}: its tokenizer has no end-of-text token (eos_token), so documents cannot be separated."
        )
    return tokenizer


def load_model(name: str | Path) -> "PreTrainedModel":
    """A causal language model with float32 weights, on the GPU if there is one: `embedded`, a folder, or a name on the Hub.

    Two defaults of transformers 5.24 are mended. The checkpoint's own precision would be used, so that a model stored in
    16 bits would be trained in 16 bits: the weights are made float32. And where a model leaves `loss_type` unset, GPT-2
    among them, Trainer divides the loss by all tokens of a row and not by those that are scored: it is set. The cache is
    off, since with it the mask that keeps documents apart is dropped. A folder with adapters (LoRA) is merged with its base model.

    Raises ModelError where there is no such model, or where it is not a causal one.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    adapters = Path(_where(str(name))) / "adapter_config.json"
    if adapters.exists():
        from peft import PeftModel

        base = load_model(json.loads(adapters.read_text())["base_model_name_or_path"])
        return PeftModel.from_pretrained(base, adapters.parent).merge_and_unload()
    try:
        config = AutoConfig.from_pretrained(_where(str(name)))
        encoder = getattr(config, "is_encoder_decoder", False) or any(
            not a.endswith(("ForCausalLM", "LMHeadModel")) for a in config.architectures or []
        )
        if encoder or config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            made = ", ".join(config.architectures or [config.model_type])
            raise ModelError(f"model is {str(name)!r}: it is no causal language model but {made}.")
        model = AutoModelForCausalLM.from_pretrained(_where(str(name)), dtype=torch.float32, use_safetensors=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"model is {str(name)!r}: no model could be loaded from it ({first_line(error)}).") from None
    quicken(model)
    model.loss_type = "ForCausalLM"
    model.config.use_cache = False
    return model.to(_device())


def _device() -> str:
    """`cpu`, or a GPU: of several processes that train together here, each takes one of its own."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    if (rank := os.environ.get("LOCAL_RANK")) is None:
        return "cuda"
    if int(rank) >= (count := torch.cuda.device_count()):
        started = int(os.environ.get("LOCAL_WORLD_SIZE", rank))
        raise ParameterError("nproc", started, f"each process needs a GPU of its own, this machine has {count}")
    torch.cuda.set_device(int(rank))
    return f"cuda:{rank}"


def quicken(model: "PreTrainedModel") -> None:
    """Let PyTorch compute the activation of GPT-2 and its kin in one piece, several times as fast: the same function."""
    import torch
    from transformers.activations import NewGELUActivation

    for module in list(model.modules()):
        for name, activation in module.named_children():
            if isinstance(activation, NewGELUActivation):
                setattr(module, name, torch.nn.GELU(approximate="tanh"))


def prefix_token(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The token that stands before a text whose first token is scored: the tokenizer's begin-of-text, or else its end-of-text.

    It is the choice of lm-evaluation-harness.
    """
    return tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id


def context_length(model_or_config: object) -> int:
    """The greatest number of tokens that a model can attend to; ModelError where its configuration states none."""
    config = getattr(model_or_config, "config", model_or_config)
    length = getattr(config, "max_position_embeddings", None)
    if not length:
        raise ModelError(f"The model is of type {config.model_type!r}: its configuration states no context length.")
    return length


def load_config(name: str) -> object:
    """A model's configuration without its weights; ModelError where there is none."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(_where(name))
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"model is {name!r}: no configuration could be loaded from it ({first_line(error)})."
        ) from None
