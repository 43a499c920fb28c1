"""Loading a tokenizer or a causal language model, from this machine or the Hub, with its traps taken care of."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.errors import ModelError, ParameterError, first_line
from helpers.sources import base_of, obtain

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

CONTEXT = 1024  # tokens, of a model that states no context length
LENGTHS = ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len", "context_length")
ROBERTA = ("camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta")
AFTER_PADDING = dict.fromkeys((*ROBERTA, "xlm-roberta-xl", "xmod"), 1) | {"prophetnet": 2}
CAUSAL = ("ForCausalLM", "LMHeadModel", "LMHead", "Decoder", "ForConditionalGeneration")


def check_model(name: str, command: str | None = None) -> None:
    """Find in a model's files what would make it fail later, in a moment: no weights are read.

    The configuration must be that of a causal model, weights must be whole and no pickles, and the tokenizer must fit the
    embedding. Adapters (LoRA) are checked with their base model. Neither torch nor transformers is imported.

    Args:
        name: `embedded`, a folder, or a name on the Hub; what is not on this machine is fetched.
        command: what fetches it where there is a network, for the message if there is none.

    Raises:
        ModelError: for the first thing that is wrong.
    """
    from tokenizers import Tokenizer

    folders = _folders(name, command)
    _check_checkpoint(name, folders)
    path = folders[-1] / "tokenizer.json"
    if path.exists():
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust library raises nothing more specific
            raise _no_tokenizer(name, first_line(error)) from None
        _check_ids(name, path.parent, tokenizer)
    elif not [*path.parent.glob("vocab*"), *path.parent.glob("*.model")]:
        raise _no_tokenizer(name, "it has no tokenizer.json")


def _check_checkpoint(name: str, folders: list[Path]) -> None:
    """ModelError where the configuration is not that of a causal model, or weights are not whole."""
    *adapters, folder = folders
    config = _read(name, folder / "config.json", "configuration")
    _refuse_kind(name, config, all(str(made).endswith(CAUSAL) for made in config.get("architectures") or []))
    for adapter in adapters:
        _check_weights(name, adapter / "adapter_model.safetensors")
    _check_weights(name, folder / "model.safetensors")


def _folders(name: str, command: str | None = None) -> list[Path]:
    """The folder of a model; before it those of adapters that are added to it, the last to be added first."""
    folders = [obtain("model", name, command)]
    while (folders[-1] / "adapter_config.json").exists():
        adapter = _read(name, folders[-1] / "adapter_config.json", "adapters")
        for key, usable in (("peft_type", ("LORA",)), ("task_type", (None, "CAUSAL_LM"))):
            if adapter.get(key) not in usable:
                raise ModelError(
                    f"model is {name!r}: its adapters have {key} {adapter.get(key)}, and only LoRA for causal "
                    "models can be used."
                )
        base = base_of(folders[-1])
        if not base:
            raise ModelError(
                f"model is {name!r}: its adapter_config.json names no base model, write it there as "
                "base_model_name_or_path."
            )
        folders.append(obtain("model", base, command))
        if folders[-1] in folders[:-1]:
            raise ModelError(
                f"model is {name!r}: its adapters belong to themselves, name a base model in {folders[-1]}."
            )
    return folders


def _read(name: str, path: Path, what: str) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else first_line(error)
        raise ModelError(f"model is {name!r}: no {what} could be loaded from it ({path.name}: {why}).") from None
    return found


def _refuse_kind(name: str, config: dict, causal: bool) -> None:
    """ModelError for a configuration that is not that of a causal model; `causal` is what its class says."""
    if not causal or config.get("is_encoder_decoder"):
        made = ", ".join(config.get("architectures") or [str(config.get("model_type"))])
        raise ModelError(f"model is {name!r}: it is no causal language model but {made}.")


def _check_weights(name: str, path: Path) -> None:
    """ModelError where the safetensors of a checkpoint, or of its parts, are not there or not whole."""
    from safetensors import SafetensorError, safe_open

    index = path.with_name(f"{path.name}.index.json")
    parts = [path]
    if not path.exists() and index.exists():
        parts = [path.with_name(part) for part in sorted(set(_read(name, index, "weights")["weight_map"].values()))]
    for part in parts:
        try:
            safe_open(part, "np")
        except FileNotFoundError:
            raise ModelError(
                f"model is {name!r}: it has no {part.name}, and other formats are not opened, since pickles (.bin) can "
                "run code: save it with save_pretrained."
            ) from None
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"model is {name!r}: its {part.name} cannot be read ({first_line(error)}): fetch or save it anew."
            ) from None


def _no_tokenizer(name: str, why: str) -> ModelError:
    return ModelError(f"model is {name!r}: no tokenizer could be loaded from it ({why}).")


def _check_ids(name: str, folder: Path, tokenizer: "Tokenizer", used: Iterable[int | None] = ()) -> None:
    """ModelError where text can give a number that has no embedding.

    Special tokens do not count, unless they are `used`: Gemma 3 has one for images, beyond the embedding of its text model.
    """
    if not (folder / "config.json").exists():
        return
    config = _read(name, folder / "config.json", "configuration")
    size = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    largest = max(
        {*tokenizer.get_vocab().values()} - special | {number for number in used if number is not None},
        default=0,
    )
    if size and largest >= size:
        raise ModelError(
            f"model is {name!r}: its tokenizer makes the number {largest}, and the model has embeddings for 0 to {size - 1}: "
            "resize them (resize_token_embeddings), or take the tokenizer that the model was trained with."
        )


def load_tokenizer(name: str) -> "PreTrainedTokenizerBase":
    """The fast tokenizer of a model: `embedded`, a folder, or a name on the Hub; of adapters, that of their base model.

    Raises ModelError where there is none, where it has no end-of-text token, or makes numbers that the model does not know.
    """
    from transformers import AutoTokenizer

    folder = _folders(name)[-1]
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise _no_tokenizer(name, first_line(error)) from None
    if not tokenizer.is_fast:
        raise ModelError(f"model is {name!r}: its tokenizer has no fast (Rust) version, which the helpers need.")
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"model is {name!r}: its tokenizer has no end-of-text token (eos_token), so documents cannot be separated."
        )
    _check_ids(name, folder, tokenizer.backend_tokenizer, (tokenizer.eos_token_id, tokenizer.bos_token_id))
    return tokenizer


def load_config(name: str, context: int = 0) -> "PreTrainedConfig":
    """A causal model's configuration, once its files have been looked at; of adapters, that of their base model.

    Args:
        name: `embedded`, a folder, or a name on the Hub.
        context: the context length (tokens) of a model whose configuration states none; 0: 1,024, which is printed.

    Raises:
        ModelError: where there is none, or the model is not a causal one.
        ParameterError: for a `context` other than the one that is stated.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    folders = _folders(name)
    _check_checkpoint(name, folders)
    try:
        config = AutoConfig.from_pretrained(folders[-1])
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ModelError(
            f"model is {name!r}: no configuration could be loaded from it ({first_line(error)})."
        ) from None
    _refuse_kind(name, config.to_dict(), True)
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelError(
            f"model is {name!r}: transformers loads no causal language model of type {config.model_type!r}."
        )
    stated = _stated_length(config)
    if not stated:
        config.get_text_config().context_length = context or CONTEXT
        if not context:
            print(
                f"The configuration of {name!r} states no context length: {CONTEXT:,} tokens are taken, "
                "set context for another."
            )
    elif context not in (0, stated):
        raise ParameterError("context", context, f"the configuration of {name!r} states {stated:,}, leave it at 0")
    return config


def load_model(name: str | Path, context: int = 0) -> "PreTrainedModel":
    """A causal language model with float32 weights, on the GPU if there is one: `embedded`, a folder, or a name on the Hub.

    Two defaults of transformers 5.24 are mended. The checkpoint's own precision would be used, so that a model stored in
    16 bits would be trained in 16 bits: the weights are made float32. And where a model leaves `loss_type` unset, GPT-2
    among them, Trainer divides the loss by all tokens of a row and not by those that are scored: it is set. The cache is
    off, since with it the mask that keeps documents apart is dropped. A folder with adapters (LoRA) is merged with its
    base model. `context` is that of `load_config`.

    Raises ModelError where there is no such model, where it is not a causal one, or its checkpoint is not whole.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    name = str(name)
    *adapters, folder = _folders(name)
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
        raise ModelError(f"model is {name!r}: no model could be loaded from it ({first_line(error)}).") from None
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
    """ModelError for tensors that a checkpoint lacks, or has in another shape: transformers makes up random ones, and logs it.

    Tensors that are tied to others are not among those that are missing; ones that the model does not know are left out.
    """
    if missing := sorted(found["missing_keys"]):
        more = f", and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ModelError(
            f"model is {name!r}: its checkpoint lacks {', '.join(missing[:3])}{more}: it is incomplete, fetch or save it anew."
        )
    for tensor, there, wanted in sorted(found["mismatched_keys"]):
        raise ModelError(
            f"model is {name!r}: {tensor} is {tuple(there)} in its checkpoint and {tuple(wanted)} by its config.json: "
            "they do not belong together."
        )


def _adapted(name: str, model: "PreTrainedModel", folder: Path) -> "PreTrainedModel":
    """A model with adapters merged into its weights; ModelError where they are not made for it."""
    from peft import PeftConfig, get_peft_model

    try:
        adapted = get_peft_model(model, PeftConfig.from_pretrained(folder))
        found = adapted.load_adapter(folder, "default")
    except (ValueError, RuntimeError, KeyError, TypeError, ImportError) as error:
        raise ModelError(
            f"model is {name!r}: its adapters do not fit their base model ({first_line(error)})."
        ) from None
    if wrong := sorted([*found.missing_keys, *found.unexpected_keys]):
        raise ModelError(
            f"model is {name!r}: its adapters do not fit their base model ({wrong[0]} is "
            f"{'missing' if wrong[0] in found.missing_keys else 'unknown'}): name the right one in adapter_config.json."
        )
    return adapted.merge_and_unload()


def _refuse_foresight(name: str, model: "PreTrainedModel") -> None:
    """ModelError where another last token changes what is predicted before it, as in BERT or XLNet: no loss would mean anything."""
    import torch

    ids = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]], device=model.device) % model.config.get_text_config().vocab_size
    with torch.inference_mode():
        one, other = model.eval()(input_ids=ids, use_cache=False).logits[:, :3].float()
    if not torch.allclose(one, other, rtol=0, atol=1e-5 * float(one.abs().max())):
        raise ModelError(
            f"model is {name!r}: its predictions depend on the tokens after them, so it is no causal language model."
        )


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


def context_length(model_or_config: "PreTrainedModel | PreTrainedConfig") -> int:
    """The greatest number of tokens that a model can attend to; ModelError where its configuration states none."""
    config = getattr(model_or_config, "config", model_or_config)
    length = _stated_length(config)
    if not length:
        raise ModelError(f"The model is of type {config.model_type!r}: its configuration states no context length.")
    return length


def _stated_length(config: "PreTrainedConfig") -> int | None:
    text = config.get_text_config()
    lengths = (getattr(text, name, None) for name in LENGTHS)
    length = next((length for length in lengths if isinstance(length, int) and length > 0), None)
    if length and text.model_type in AFTER_PADDING:  # positions are counted from that of the padding token
        length -= text.pad_token_id + AFTER_PADDING[text.model_type]
    return length
