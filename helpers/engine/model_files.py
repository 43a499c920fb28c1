"""Checks of a model's files without loading it, which take a moment before a long run."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.errors import ModelError, first_line

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CAUSAL = ("ForCausalLM", "LMHeadModel", "LMHead", "Decoder", "ForConditionalGeneration")


def refusal(name: str, why: str) -> ModelError:
    """The error for a model that cannot be used."""
    return ModelError(f"model is {name!r}: {why}.")


def check_checkpoint(name: str, folder: Path, adapters: list[Path]) -> None:
    """ModelError unless a configuration is that of a causal model and all weights are whole."""
    config = _read(name, folder / "config.json", "configuration")
    classes = config.get("architectures") or []
    check_kind(name, config, all(str(made).endswith(CAUSAL) for made in classes))
    for path in [a / "adapter_model.safetensors" for a in adapters] + [
        folder / "model.safetensors"
    ]:
        _check_weights(name, path)


def check_kind(name: str, config: dict, causal: bool = True) -> None:
    """ModelError unless a configuration is `causal` (by its classes) and no encoder-decoder's."""
    if not causal or config.get("is_encoder_decoder"):
        made = ", ".join(config.get("architectures") or [str(config.get("model_type"))])
        raise refusal(name, f"it is no causal language model but {made}")


def check_tokenizer_file(name: str, folder: Path) -> None:
    """ModelError where a folder has no tokenizer, or one that does not fit its model."""
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if path.exists():
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust library raises nothing more specific
            why = f"no tokenizer could be loaded from it ({first_line(error)})"
            raise refusal(name, why) from None
        check_ids(name, folder, tokenizer)
    elif not [*folder.glob("vocab*"), *folder.glob("*.model")]:
        raise refusal(name, "no tokenizer could be loaded from it (it has no tokenizer.json)")


def check_ids(
    name: str, folder: Path, tokenizer: "Tokenizer", used: Iterable[int | None] = ()
) -> None:
    """ModelError where text can give a token id that has no embedding.

    Special tokens do not count, unless they are `used`: Gemma 3 has one for images, beyond the
    embedding of its text model.
    """
    if not (folder / "config.json").exists():
        return
    config = _read(name, folder / "config.json", "configuration")
    size = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    ids = {*tokenizer.get_vocab().values()} - special | {*used} - {None}
    if size and (largest := max(ids, default=0)) >= size:
        why = (
            f"its tokenizer makes the number {largest}, and the model has embeddings for 0 to "
            f"{size - 1}: resize them (resize_token_embeddings), or take the tokenizer that the "
            "model was trained with"
        )
        raise refusal(name, why)


def _read(name: str, path: Path, content: str) -> dict:
    """A JSON object in a model's folder; `content` names it in the ModelError."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(read, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or first_line(error)
        why = f"no {content} could be loaded from it ({path.name}: {why})"
        raise refusal(name, why) from None
    return read


def _check_weights(name: str, path: Path) -> None:
    """ModelError where the safetensors of a checkpoint are missing or not whole."""
    from safetensors import SafetensorError, safe_open

    index, parts = path.with_name(f"{path.name}.index.json"), [path]
    if not path.exists() and index.exists():
        names = _read(name, index, "weights").get("weight_map", {}).values()
        parts = [path.with_name(part) for part in sorted(set(names))]
    for part in parts:
        try:
            safe_open(part, "np")
        except FileNotFoundError:
            why = (
                f"it has no {part.name}, and other formats are not opened, since pickles (.bin) "
                "can run code: save it with save_pretrained"
            )
            raise refusal(name, why) from None
        except (OSError, SafetensorError) as error:
            why = f"its {part.name} cannot be read ({first_line(error)}): fetch or save it anew"
            raise refusal(name, why) from None
