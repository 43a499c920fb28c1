"""The text of an example: one column or several, nested, lists, chat messages."""

import pytest
from datasets import Dataset

from helpers.columns import texts
from helpers.errors import ParameterError
from helpers.tokenization import tokenize

CHAT = [[{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]]
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


@pytest.fixture
def examples():
    return Dataset.from_dict(
        {"title": ["A", None], "a": [{"text": ["x", "y"]}, {"text": []}], "odd {b}": ["1", "2"]}
    )


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("{title}: {a.text}", ["A: x y", ": "]),
        ("{title}{title}\n", ["AA\n", "\n"]),
        ("odd {b}", ["1", "2"]),
        ("{a.text} is a text", ["x y is a text", " is a text"]),
    ],
)
def test_columns_are_joined_by_a_format_string(examples, column, expected):
    assert texts(examples, column) == expected


@pytest.mark.parametrize("hostile", ["{title.__class__}", "{title!r:{a}}", "{0}", "{ttle}"])
def test_a_format_string_names_columns_and_nothing_else(examples, hostile):
    with pytest.raises(ParameterError, match=r"text_column is .*no column .*title"):
        texts(examples, hostile)


def test_text_that_looks_like_a_field_is_left_alone():
    rows = Dataset.from_dict({"a": ["{b} \\1"], "b": ["c"]})
    assert texts(rows, "{a}{b}") == ["{b} \\1c"]


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
    refuses = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% endfor %}"
    monkeypatch.setattr(tokenizer, "chat_template", refuses)
    rows = Dataset.from_dict({"messages": [[{"role": "system", "content": "Be brief."}]]})
    with pytest.raises(ParameterError) as error:
        texts(rows, "messages", tokenizer)
    assert str(error.value) == (
        "text_column is 'messages': the chat template of the model's tokenizer refuses a conversation in it (System role "
        "not supported), change such messages, or choose a model whose template takes them."
    )


def test_another_template_gives_other_tokens(tokenizer, monkeypatch):
    rows = Dataset.from_dict({"messages": CHAT})
    for template in (TEMPLATE, TEMPLATE + "!"):
        monkeypatch.setattr(tokenizer, "chat_template", template)
        last = tokenize(rows, "messages", tokenizer)[0]["input_ids"]
    assert tokenizer.decode(last).endswith("So.!")


@pytest.mark.parametrize("value", [3, {"a": 1}, [[1]], [{"role": "user"}]])
def test_what_is_no_text_is_refused(value):
    with pytest.raises(ParameterError, match=r"text_column is 'x'"):
        texts(Dataset.from_dict({"x": [value]}), "x")


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
