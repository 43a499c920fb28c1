"""Chat messages as text: by a template or without, in parts, with calls of tools."""

import pytest
from datasets import Dataset

from helpers.data import texts
from helpers.errors import ParameterError
from helpers.tokenization import tokenize

pytestmark = pytest.mark.usefixtures("datasets_cache")

CHAT = [[{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]]
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


def test_messages_are_rendered_by_the_chat_template(tokenizer, monkeypatch):
    rows = Dataset.from_dict({"messages": CHAT})
    assert texts(rows, "messages") == ["user: Why?\nassistant: So."]
    with pytest.raises(ParameterError, match="has no chat template"):
        texts(rows, "messages", tokenizer)
    monkeypatch.setattr(tokenizer, "chat_template", TEMPLATE)
    assert texts(rows, "messages", tokenizer) == ["<user>Why?<assistant>So."]
    ids = tokenize(rows, "messages", tokenizer)[0]["input_ids"]
    assert tokenizer.decode(ids) == "<user>Why?<assistant>So."


def test_a_template_that_refuses_a_message_says_why(tokenizer, monkeypatch):
    refuses = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not "
        "supported') }}{% endif %}{% endfor %}"
    )
    monkeypatch.setattr(tokenizer, "chat_template", refuses)
    rows = Dataset.from_dict({"messages": [[{"role": "system", "content": "Be brief."}]]})
    with pytest.raises(ParameterError) as error:
        texts(rows, "messages", tokenizer)
    assert str(error.value) == (
        "text_column is 'messages': the chat template of the model's tokenizer refuses a "
        "conversation in it (System role "
        "not supported), change such messages, or choose a model whose template takes them."
    )


def test_another_template_gives_other_tokens(tokenizer, monkeypatch):
    rows = Dataset.from_dict({"messages": CHAT})
    for template in (TEMPLATE, TEMPLATE + "!"):
        monkeypatch.setattr(tokenizer, "chat_template", template)
        last = tokenize(rows, "messages", tokenizer)[0]["input_ids"]
    assert tokenizer.decode(last).endswith("So.!")


PARTS = [
    {"role": "user", "content": [{"type": "text", "text": "Why"}, {"type": "text", "text": "?"}]}
]
BY_PARTS = (
    "{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}[{{ p.text }}]{% endfor %}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (TEMPLATE, "<user>Why?"),
        (TEMPLATE.replace("m.content", "(m.content + '!')"), "<user>Why?!"),
        (BY_PARTS, "<user>[Why][?]"),
    ],
)
def test_content_in_parts_is_its_text_unless_the_template_writes_parts(
    tokenizer, monkeypatch, template, expected
):
    rows = Dataset.from_dict({"messages": [PARTS]})
    assert texts(rows, "messages") == ["user: Why?"]
    monkeypatch.setattr(tokenizer, "chat_template", template)
    assert texts(rows, "messages", tokenizer) == [expected]


def test_messages_that_only_call_tools_have_no_text():
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}
    assert texts(Dataset.from_list([{"messages": [call]}]), "messages") == ["assistant: "]
    assert texts(Dataset.from_list([{"messages": [call | {"content": None}]}]), "messages") == [
        "assistant: "
    ]
