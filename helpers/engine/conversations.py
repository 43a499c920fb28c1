"""Chat messages as one text, by a model's chat template where there is one."""

from typing import TYPE_CHECKING

from helpers.errors import ParameterError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def is_message(part: object) -> bool:
    return (
        isinstance(part, dict)
        and bool(part.get("role"))
        and ("content" in part or "tool_calls" in part)
    )


def conversation(
    messages: list[dict], text_column: str, tokenizer: "PreTrainedTokenizerBase | None"
) -> str:
    """Chat messages as one text, by the tokenizer's chat template where there is a tokenizer."""
    joined = [message | {"content": _content(message)} for message in messages]
    if tokenizer is None:
        return "\n".join(f"{m['role']}: {m['content'] or ''}" for m in joined)
    if tokenizer.chat_template is None:
        needed = (
            "it holds chat messages, and the model's tokenizer has no chat template to write them "
            "with, choose a model with one, or a column of texts"
        )
        raise ParameterError("text_column", text_column, needed)
    from jinja2 import TemplateError

    in_parts = any(isinstance(message.get("content"), list) for message in messages)
    try:
        whole = messages if not in_parts or _renders_parts(tokenizer) else joined
        return tokenizer.apply_chat_template(whole, tokenize=False)
    except TemplateError as error:
        needed = (
            "the chat template of the model's tokenizer refuses a conversation in it "
            f"({first_line(error)}), change such messages, or choose a model whose template takes "
            "them"
        )
        raise ParameterError("text_column", text_column, needed) from None


def _content(message: dict) -> str | None:
    """The content of a message, joined where it is given in parts."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content)
    return content


def _renders_parts(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether a chat template renders content in parts; others write the list itself, or fail."""
    probe = [{"role": "user", "content": [{"type": "text", "text": "probe"}]}]
    try:
        rendered = tokenizer.apply_chat_template(probe, tokenize=False)
    except Exception:  # a template can raise anything
        return False
    return "probe" in rendered and "type" not in rendered
