"""Prompts from files of three kinds; the texts, written so that other programs read them."""

import csv
import json

import pytest

from helpers.engine.continuing import Written
from helpers.errors import ParameterError
from helpers.runs.fetching import fetch
from helpers.runs.prompts import read_prompts, write_texts

PROMPTS = ["Bread rises because", 'A "quoted", one ', "naïve 雪 🙂"]
JSON = "\n".join(json.dumps({"id": 1, "prompt": prompt}) for prompt in PROMPTS)
CSV = 'id,prompt\n1,Bread rises because\n2,"A ""quoted"", one "\n3,naïve 雪 🙂\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", JSON),
        ("a.jsonl", "\n" + JSON.replace("\n", "\r\n\n")),
        ("a.csv", CSV),
        ("a.csv", "\ufeff" + CSV.replace("\n", "\r\n")),
        ("a.txt", "\n".join(PROMPTS)),
        ("a.txt", "\ufeff\r\n" + "\r\n\r\n".join(PROMPTS)),
    ],
)
def test_a_file_of_each_kind_is_read(name, content, tmp_path):
    (tmp_path / name).write_bytes(content.encode())
    assert read_prompts(str(tmp_path / name)) == PROMPTS


def test_a_prompt_keeps_its_lines_and_no_file_has_no_prompts(tmp_path):
    (tmp_path / "a.csv").write_text('prompt\n"two\nlines\u2028"\n')
    assert read_prompts(str(tmp_path / "a.csv")) == ["two\nlines\u2028"]
    (tmp_path / "a.jsonl").write_text('{"prompt": "one\u2028line"}\n')
    assert read_prompts(str(tmp_path / "a.jsonl")) == ["one\u2028line"]
    assert read_prompts("") == []


@pytest.mark.parametrize(
    ("name", "content", "needed"),
    [
        ("a.jsonl", b'{"prompt": "a"}\n\n{"prompt": \n', "line 3 of it could not be read"),
        ("a.jsonl", b'{"prompt": "a"}\n{"text": "b"}', "line 2 has no text in a field 'prompt'"),
        ("a.jsonl", b'{"prompt": 7}', "line 1 has no text"),
        ("a.jsonl", b'["prompt"]', "line 1 has no text"),
        ("a.csv", b"text\na\n", "the row that ends in line 2 has no text in a field 'prompt'"),
        ("a.csv", b"prompt,n\na,1\n,2\n", "the row that ends in line 3 has no text"),
        ("a.csv", b'prompt\n"a', "could not be read"),
        ("a.txt", b"a\n\xe9\n", "it could not be read ('utf-8'"),
        ("a.txt", b"\n\n", "it has no prompts"),
        ("a.csv", b"prompt\n", "it has no prompts"),
        ("a.xlsx", b"", "it must end in .jsonl, .csv or .txt"),
        ("none.txt", None, "it could not be read (No such file"),
    ],
)
def test_a_bad_file_is_refused_in_a_sentence_before_any_step(name, content, needed, tmp_path):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ParameterError) as error:
        fetch({"infer": {"prompts_file": str(path)}}, "")
    assert str(error.value).startswith(f"prompts_file is {str(path)!r}: ")
    assert needed in str(error.value) and "\n" not in str(error.value)


def test_both_files_hold_every_text_with_what_it_was_made_by(tmp_path):
    one = Written(PROMPTS[1], 3, 'A "quoted", one \nline\r, 雪', 5, "end of text")
    two = Written(PROMPTS[0], 3, PROMPTS[0], 0, "max_new_tokens")
    settings = {"temperature": 0.5, "max_new_tokens": 9}
    write_texts(tmp_path, {"base": iter([one]), "fine-tuned": iter([one, two])}, settings, 3)
    expected = [
        {"model": name, **text._asdict(), **settings}
        for name, text in [("base", one), ("fine-tuned", one), ("fine-tuned", two)]
    ]
    lines = (tmp_path / "texts.jsonl").read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in lines[:-1]] == expected and lines[-1] == ""
    with open(tmp_path / "texts.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [{name: str(value) for name, value in row.items()} for row in expected]
