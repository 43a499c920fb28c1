"""Loading a tokenizer or a causal language model, with the traps of both taken care of."""

from pathlib import Path
from typing import TYPE_CHECKING

from helpers.engine.loaded_model import (
    check_causal,
    check_loaded,
    complete_context,
    device,
    fuse_gelu,
    merged,
    stated_length,
)
from helpers.engine.model_files import (
    check_checkpoint,
    check_ids,
    check_kind,
    check_tokenizer_file,
    refusal,
)
from helpers.engine.progress import no_bars
from helpers.errors import ModelError, first_line
from helpers.hub.sources import locate

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


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
    complete_context(name, config, context)
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
        with no_bars():
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
    check_loaded(name, loaded)
    for adapter in reversed(location.adapters):
        model = merged(name, model, adapter)
    fuse_gelu(model)
    model.loss_type = "ForCausalLM"
    model.config.use_cache = model.config.get_text_config().use_cache = False
    model.to(device())
    check_causal(name, model)
    return model


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
    if not (length := stated_length(config)):
        kind = config.model_type
        raise ModelError(f"A model of type {kind!r} has a configuration without a context length.")
    return length
