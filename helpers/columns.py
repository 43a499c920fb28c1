"""The text of an example: a column, a nested one, lists of texts, chat messages, or several columns in a format string."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from helpers.errors import ParameterError, first_line, nearest

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

_FIELD = re.compile(r"\{([^{}]+)\}")


def texts(
    examples: "Dataset", text_column: str, tokenizer: "PreTrainedTokenizerBase | None" = None
) -> list[str]:
    """The text of each example: a string as it is, a list of strings joined by spaces, '' where there is none.

    A nested column is named with dots, as `Dataset.flatten` names it (`answers.text`). Several are joined by a format string, such as
    `{title} {answers.text}`. Chat messages are rendered by the tokenizer's chat template, or without a tokenizer as `role: content`.
    Raises ParameterError for a column that is not there, or that holds something other than text.
    """
    return rendered(text_of(examples, text_column)[:], text_column, tokenizer)


def text_of(examples: "Dataset", text_column: str) -> "Dataset":
    """The examples with nothing but the columns that `text_column` names, no longer nested; ParameterError where one is not there.

    `Dataset.flatten` would do, but for data sets that `concatenate_datasets` has made it loses what was nested (datasets 5.2).
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    from datasets import Dataset
    from datasets.fingerprint import Hasher

    known = examples.flatten().column_names
    found = {}
    for name in _named(text_column, known):
        if name not in known:
            hint, listed = nearest(name, known), f"the columns are {_listed(known)}"
            said = f"there is no column {name!r}, " if name != text_column else ""
            raise ParameterError(
                "text_column",
                text_column,
                said + (f"{hint}, {listed}" if "nearest" in hint else listed),
            )
        outer = max((c for c in examples.column_names if f"{name}.".startswith(f"{c}.")), key=len)
        column = examples.select_columns(outer).with_format("arrow")[:][outer]
        for inner in name.removeprefix(outer).split(".")[1:]:
            column = pc.struct_field(column, inner)
        found[name] = column
    return Dataset(pa.table(found), fingerprint=Hasher.hash((examples._fingerprint, text_column)))


def _listed(names: Sequence[str]) -> str:
    """Names in a row; those of a file without a line of names are whole texts, which are cut."""
    cut = [name if len(name) <= 60 else f"{name[:60]}…" for name in names]
    said = " (does the first line of the file name them?)" if cut != list(names) else ""
    return ", ".join(cut[:50]) + ("…" if len(cut) > 50 else "") + said


def _named(text_column: str, known: Sequence[str]) -> list[str]:
    """The columns that a name or format string means."""
    return (
        [text_column]
        if text_column in known
        else list(dict.fromkeys(_FIELD.findall(text_column))) or [text_column]
    )


def rendered(
    columns: Mapping[str, list],
    text_column: str,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> list[str]:
    """Values of columns as one text for each example; ParameterError where one holds something else."""
    parts = {
        name: [_text(v, text_column, tokenizer) for v in values] for name, values in columns.items()
    }
    if text_column in parts:
        return parts[text_column]
    rows = (dict(zip(parts, row, strict=True)) for row in zip(*parts.values(), strict=True))
    return [_FIELD.sub(lambda field, row=row: row[field[1]], text_column) for row in rows]


def _text(value: object, text_column: str, tokenizer: "PreTrainedTokenizerBase | None") -> str:
    if isinstance(value, str) or value is None:
        return value or ""
    if isinstance(value, list) and all(part is None or isinstance(part, str) for part in value):
        return " ".join(part for part in value if part)
    if isinstance(value, list) and all(
        isinstance(part, dict) and _is_message(part) for part in value
    ):
        if tokenizer is None:
            return "\n".join(f"{m['role']}: {m['content'] or ''}" for m in _joined(value))
        if tokenizer.chat_template is None:
            raise ParameterError(
                "text_column",
                text_column,
                "it holds chat messages, and the model's tokenizer has no chat template to write them with, "
                "choose a model with one, or a column of texts",
            )
        from jinja2 import TemplateError

        try:
            messages = value if _takes_parts(value, tokenizer) else _joined(value)
            return tokenizer.apply_chat_template(messages, tokenize=False)
        except TemplateError as error:
            raise ParameterError(
                "text_column",
                text_column,
                "the chat template of the model's tokenizer refuses a conversation in it "
                f"({first_line(error)}), change such messages, or choose a model whose template takes them",
            ) from None
    kind = type(
        next((part for part in value if part is not None), None)
        if isinstance(value, list)
        else value
    ).__name__
    raise ParameterError(
        "text_column",
        text_column,
        f"it holds {kind}, choose a column of texts or of lists of texts",
    )


def _is_message(part: dict) -> bool:
    return bool(part.get("role")) and ("content" in part or "tool_calls" in part)


def _joined(messages: list[dict]) -> list[dict]:
    """The messages with a text as content, where it is given in parts: that of the parts which have one."""
    return [
        message | {"content": "".join(part.get("text") or "" for part in content)}
        if isinstance(content := message.get("content"), list)
        else message | {"content": content}
        for message in messages
    ]


def _takes_parts(messages: list[dict], tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether a chat template can write content in parts; others write Python's form of the list, or fail."""
    if not any(isinstance(message.get("content"), list) for message in messages):
        return True
    probe = [{"role": "user", "content": [{"type": "text", "text": "probe"}]}]
    try:
        written = tokenizer.apply_chat_template(probe, tokenize=False)
    except Exception:  # whatever a template raises
        return False
    return "probe" in written and "type" not in written
