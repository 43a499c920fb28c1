"""What the files of a model show without loading it: a moment's look before a long run."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.errors import ModelError, first_line
from helpers.hub.sources import base_of, obtain

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CAUSAL = ("ForCausalLM", "LMHeadModel", "LMHead", "Decoder", "ForConditionalGeneration")


def check_model(name: str, command: str | None = None) -> None:
    """Find in a model's files what would make it fail later. No weights are read.

    The configuration must be that of a causal model, weights must be whole and no pickles, and the
    tokenizer must fit the embedding. Adapters (LoRA) are checked with their base model. Neither
    torch nor transformers is imported.

    Args:
        name: `embedded`, a folder, or a name on the Hub; what is not on this machine is fetched.
        command: what fetches it where there is a network, for the message if there is none.

    Raises:
        ModelError: for the first thing that is wrong.
    """
    from tokenizers import Tokenizer

    folders = folders_of(name, command)
    check_checkpoint(name, folders)
    path = folders[-1] / "tokenizer.json"
    if path.exists():
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust library raises nothing more specific
            raise no_tokenizer(name, first_line(error)) from None
        check_ids(name, path.parent, tokenizer)
    elif not [*path.parent.glob("vocab*"), *path.parent.glob("*.model")]:
        raise no_tokenizer(name, "it has no tokenizer.json")


def refusal(name: str, why: str) -> ModelError:
    """A sentence about a model that cannot be used."""
    return ModelError(f"model is {name!r}: {why}.")


def no_tokenizer(name: str, why: str) -> ModelError:
    """A sentence about a model without a tokenizer."""
    return refusal(name, f"no tokenizer could be loaded from it ({why})")


def folders_of(name: str, command: str | None = None) -> list[Path]:
    """The folder of a model; before it those of adapters on it, the last to be added first.

    Raises ModelError for adapters that are no LoRA of a causal model, or have no base model.
    """
    folders = [obtain("model", name, command)]
    while (path := folders[-1] / "adapter_config.json").exists():
        adapter = _read(name, path, "adapters")
        for key, usable in (("peft_type", ["LORA"]), ("task_type", [None, "CAUSAL_LM"])):
            if (value := adapter.get(key)) not in usable:
                why = f"its adapters have {key} {value}, only LoRA of a causal model can be used"
                raise refusal(name, why)
        base = base_of(folders[-1])
        if not base:
            why = "write it there as base_model_name_or_path"
            raise refusal(name, f"its adapter_config.json names no base model, {why}")
        folders.append(obtain("model", base, command))
        if folders[-1] in folders[:-1]:
            raise refusal(name, f"its adapters belong to themselves, name a base model in {path}")
    return folders


def check_checkpoint(name: str, folders: list[Path]) -> None:
    """ModelError where a configuration is not that of a causal model, or weights are not whole."""
    *adapters, folder = folders
    config = _read(name, folder / "config.json", "configuration")
    classes = config.get("architectures") or []
    check_kind(name, config, all(str(made).endswith(CAUSAL) for made in classes))
    for adapter in adapters:
        _check_weights(name, adapter / "adapter_model.safetensors")
    _check_weights(name, folder / "model.safetensors")


def check_kind(name: str, config: dict, causal: bool = True) -> None:
    """ModelError unless a configuration is `causal` (what its classes say) and no encoder's."""
    if not causal or config.get("is_encoder_decoder"):
        made = ", ".join(config.get("architectures") or [str(config.get("model_type"))])
        raise refusal(name, f"it is no causal language model but {made}")


def check_ids(
    name: str,
    folder: Path,
    tokenizer: "Tokenizer",
    used: Iterable[int | None] = (),
) -> None:
    """ModelError where text can give a number that has no embedding.

    Special tokens do not count, unless they are `used`: Gemma 3 has one for images, beyond the
    embedding of its text model.
    """
    if not (folder / "config.json").exists():
        return
    config = _read(name, folder / "config.json", "configuration")
    size = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
    added = tokenizer.get_added_tokens_decoder().items()
    ids = {*tokenizer.get_vocab().values()} - {number for number, token in added if token.special}
    largest = max(ids | {number for number in used if number is not None}, default=0)
    if size and largest >= size:
        raise refusal(
            name,
            f"its tokenizer makes the number {largest}, and the model has embeddings for 0 to "
            f"{size - 1}: resize them (resize_token_embeddings), or take the tokenizer that the "
            "model was trained with",
        )


def _read(name: str, path: Path, what: str) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else first_line(error)
        why = f"no {what} could be loaded from it ({path.name}: {why})"
        raise refusal(name, why) from None
    return found


def _check_weights(name: str, path: Path) -> None:
    """ModelError where the safetensors of a checkpoint are not there or not whole."""
    from safetensors import SafetensorError, safe_open

    index, parts = path.with_name(f"{path.name}.index.json"), [path]
    if not path.exists() and index.exists():
        names = _read(name, index, "weights").get("weight_map", {}).values()
        parts = [path.with_name(part) for part in sorted(set(names))]
    for part in parts:
        try:
            safe_open(part, "np")
        except FileNotFoundError:
            why = "other formats are not opened, since pickles (.bin) can run code"
            why = f"it has no {part.name}, and {why}: save it with save_pretrained"
            raise refusal(name, why) from None
        except (OSError, SafetensorError) as error:
            why = f"its {part.name} cannot be read ({first_line(error)}): fetch or save it anew"
            raise refusal(name, why) from None
