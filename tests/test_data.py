"""Examples from every kind of file, and their texts: columns, nested ones, lists, chat messages."""

import gzip
import io
import json
import time

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset
from rich.console import Console

from helpers.data import Texts, drop_empty, left_out, load_examples, sample_rows, texts
from helpers.errors import DataError, ParameterError
from helpers.hub import download as hub
from helpers.hub import sources as sources_module
from helpers.hub.sources import needs_fetching
from helpers.runs.folder import Run
from helpers.runs.origins import sources
from helpers.runs.parameters import STEPS
from helpers.runs.profiles import plan
from helpers.runs.terminal import print_summary

RECORDS = [
    {"n": i, "text": t}
    for i, t in enumerate(["Plain", 'a "quote", a comma', "Ünïcode ☂", "  spaces "] * 3)
]


LINES = "".join(json.dumps(r) + "\n" for r in RECORDS).encode()


FRAME = pd.DataFrame(RECORDS)
TABLE = pa.Table.from_pylist(RECORDS)


WRITERS = {
    "x.json": lambda p: p.write_text(json.dumps(RECORDS)),
    "x.json.gz": lambda p: p.write_bytes(gzip.compress(json.dumps(RECORDS).encode())),
    "x.jsonl": lambda p: p.write_bytes(LINES),
    "x.jsonl.gz": lambda p: p.write_bytes(gzip.compress(LINES)),
    "x.csv": lambda p: FRAME.to_csv(p, index=False),
    "x.tsv": lambda p: FRAME.to_csv(p, index=False, sep="\t"),
    "x.tsv.gz": lambda p: FRAME.to_csv(p, index=False, sep="\t"),
    "x.parquet": lambda p: FRAME.to_parquet(p, index=False),
    "x.arrow": lambda p: pa.ipc.new_stream(str(p), TABLE.schema).write_table(TABLE),
}


pytestmark = pytest.mark.usefixtures("datasets_cache")


@pytest.mark.parametrize("name", WRITERS)
def test_records_come_out_of_a_file_as_they_went_in(tmp_path, name):
    WRITERS[name](tmp_path / name)
    assert load_examples(str(tmp_path / name), "train").to_list() == RECORDS


@pytest.mark.parametrize("name", ["x.txt", "x.text", "x.txt.gz"])
def test_each_line_of_a_text_file_is_an_example(tmp_path, name):
    lines = "one\n\ntwo, ☂\n".encode()
    (tmp_path / name).write_bytes(gzip.compress(lines) if name.endswith("gz") else lines)
    assert load_examples(str(tmp_path / name), "train").to_dict() == {"text": ["one", "", "two, ☂"]}


def test_the_embedded_examples_have_the_columns_of_eli5_category():
    examples = load_examples("embedded", "train")
    assert len(examples) >= 60
    assert set(examples.column_names) == set(
        [
            "q_id",
            "category",
            "title",
            "title_urls",
            "selftext",
            "selftext_urls",
            "subreddit",
            "answers",
        ]
    )
    assert len(set(examples["q_id"])) == len(examples)
    for answers in examples["answers"]:
        assert set(answers) == {"a_id", "text", "text_urls", "score"}
        assert {len(v) for v in answers.values()} == {len(answers["text"])} != {0}


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train[:3]", [0, 1, 2]),
        ("train[2:5]", [2, 3, 4]),
        ("train[-2:]", [10, 11]),
        ("train[:25%]", [0, 1, 2]),
        ("train", list(range(12))),
    ],
)
def test_slices_of_the_split(tmp_path, capsys, split, expected):
    WRITERS["x.jsonl"](tmp_path / "x.jsonl")
    examples = load_examples(str(tmp_path / "x.jsonl"), split)
    assert examples["n"][:] == expected
    assert left_out(examples, split) == 12 - len(expected)
    said = (
        f"{split!r} leaves out {12 - len(expected)} of 12 examples.\n" if len(expected) < 12 else ""
    )
    assert capsys.readouterr().out == said


@pytest.mark.parametrize(
    ("split", "asked", "there"), [("train[:5000]", "5,000", 12), ("train[10:20]", "10", 2)]
)
def test_more_than_there_is_is_said_and_goes_on(tmp_path, capsys, split, asked, there):
    WRITERS["x.jsonl"](tmp_path / "x.jsonl")
    assert len(load_examples(str(tmp_path / "x.jsonl"), split)) == there
    said = capsys.readouterr().out
    assert f"{asked} examples were asked for" in said and f"has {there}" in said


def test_all_of_a_file_is_taken_unless_the_split_says_otherwise():
    assert plan("tiny", ["load.dataset=mine.jsonl"])["load"]["split"] == "train"
    assert plan("eli5")["load"]["split"] == "train[:5000]"


NAMES = "perplexity_base perplexity_finetuned bits_per_byte_base bits_per_byte_finetuned "
NAMES += "perplexity_ratio perplexity_ratio_low perplexity_ratio_high tokens_in tokens_kept "
NAMES += "tokens_dropped train_tokens_per_second"
SHOWN = dict.fromkeys(NAMES.split(), 1) | {f"seconds_{step}": 1 for step in STEPS}
SHOWN |= {"dtype": "float32", "device": "cpu"}


def test_the_table_of_a_run_says_how_many_examples_the_split_left_out(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps(SHOWN | {"examples_left_out": 44_229}))
    print_summary(Run(tmp_path), console := Console(file=io.StringIO(), width=200))
    assert "44,229 are left out by load.split" in console.file.getvalue()


@pytest.mark.parametrize(
    ("extra", "said"), [({}, True), ({"examples_validation": 5}, False)], ids=["two", "three"]
)
def test_the_table_of_a_run_says_when_the_epoch_was_chosen_on_the_test_part(tmp_path, extra, said):
    (tmp_path / "metrics.json").write_text(json.dumps(SHOWN | extra))
    print_summary(Run(tmp_path), console := Console(file=io.StringIO(), width=200))
    assert ("flatters the result" in console.file.getvalue()) == said


@pytest.mark.parametrize(
    "name",
    [
        "b[1].jsonl",
        "a*b?.jsonl",
        "x.ndjson",
        "x.JSONL",
        "x.Json.GZ",
        "folder",
        "f[2]",
        "*.jsonl",
        "deep/**/*.ndjson",
    ],
)
def test_files_are_found_by_any_name_a_folder_or_a_pattern(tmp_path, name):
    here = tmp_path / "of [mine]"
    names = {
        "folder": ["folder/a.jsonl", "folder/sub/b.JSONL", "folder/train.ndjson"],
        "f[2]": ["f[2]/a.jsonl"],
        "*.jsonl": ["a.jsonl", "b.jsonl"],
        "deep/**/*.ndjson": ["deep/a.ndjson", "deep/er/b.ndjson"],
    }.get(name, [name])
    others = (
        ["folder/README.md", "folder/.hidden/x.csv", "folder/LICENSE"]
        if name == "folder"
        else ["other.csv"]
    )
    for number, path in enumerate([*names, *others]):
        (here / path).parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"n": number}).encode() + b"\n"
        (here / path).write_bytes(gzip.compress(line) if path.endswith("GZ") else line)
    assert load_examples(str(here / name), "train")["n"][:] == list(range(len(names)))
    assert not needs_fetching("dataset", str(here / name))
    before = sources({"dataset": str(here / name)})
    (here / names[-1]).write_bytes(b'{"n": 7}\n')
    assert before != sources({"dataset": str(here / name)}) != {}


def test_a_misspelt_file_is_told_the_nearest_before_the_hub_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "fetch", lambda *_: pytest.fail("the Hub was asked"))
    (tmp_path / "mine.txt").write_text("one\n")
    for name in ("mine.tx", "mien.txt"):
        with pytest.raises(DataError, match=r"no such file; the nearest is '.*mine\.txt'"):
            load_examples(str(tmp_path / name), "train")
    monkeypatch.setattr(sources_module, "resolve", lambda name: tmp_path / name)
    with pytest.raises(
        DataError, match="dataset is 'mine.tx': there is no such file; the nearest is 'mine.txt'"
    ):
        load_examples("mine.tx", "train")


def test_the_texts_of_a_csv_without_names_of_columns_are_not_printed_whole(tmp_path):
    (tmp_path / "x.csv").write_text("word " * 500 + "\nsecond\n")
    examples = load_examples(str(tmp_path / "x.csv"), "train")
    with pytest.raises(ParameterError, match="text_column is 'text'.*first line") as error:
        texts(examples, "text")
    assert len(str(error.value)) < 300


def test_a_file_that_has_changed_is_read_anew(tmp_path):
    path = tmp_path / "x.jsonl"
    for value in (1, 2):
        path.write_text(json.dumps({"n": value}) + "\n")
        assert load_examples(str(path), "train")["n"][:] == [value]


def test_a_file_that_is_not_there_is_refused(tmp_path):
    for name in ("no/such.jsonl", str(tmp_path / "gone.csv.gz"), "./gone"):
        with pytest.raises(DataError, match="dataset is .*no such file") as error:
            load_examples(name, "train")
        assert repr(name) in str(error.value)


@pytest.mark.parametrize("name", ["nobody/nothing-of-the-kind", "eli5-category-of-nobody"])
def test_a_name_on_the_hub_without_network_gives_one_sentence_quickly(name):
    began = time.monotonic()
    with pytest.raises(DataError, match="no file here.*Hub") as error:
        load_examples(name, "train")
    assert time.monotonic() - began < 5
    assert repr(name) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("split", ["test", "train[", "train[500:600]", ""])
def test_a_split_that_does_not_exist_is_refused(tmp_path, split):
    WRITERS["x.jsonl"](tmp_path / "x.jsonl")
    with pytest.raises(ParameterError, match=r"split is .*train\[:1000\]") as error:
        load_examples(str(tmp_path / "x.jsonl"), split)
    assert repr(split) in str(error.value)


MIXED = Dataset.from_dict(
    {
        "title": ["a", None, ""],
        "parts": [["b", "c"], None, []],
        "answers": [{"text": ["d", "e"], "score": [1, 2]}, {"text": [], "score": []}, None],
        "void": [None, None, None],
        "number": [1, 2, 3],
    }
)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("title", ["a", "", ""]),
        ("parts", ["b c", "", ""]),
        ("answers.text", ["d e", "", ""]),
        ("void", ["", "", ""]),
    ],
)
def test_the_text_of_a_column(column, expected):
    assert texts(MIXED, column) == expected


def test_nothing_within_a_list_of_texts_is_passed_over():
    assert texts(Dataset.from_dict({"parts": [["a", None, "b"], [None]]}), "parts") == ["a b", ""]


def test_a_column_whose_own_name_has_a_dot():
    assert texts(MIXED.flatten(), "answers.text") == ["d e", "", ""]


@pytest.mark.parametrize(
    ("column", "near"), [("titel", "title"), ("answer.text", "answers.text"), ("answers", None)]
)
def test_a_column_that_is_not_there_is_refused_with_those_that_are(column, near):
    with pytest.raises(ParameterError, match="text_column is ") as error:
        texts(MIXED, column)
    assert repr(column) in str(error.value)
    assert near is None or f"the nearest is '{near}'" in str(error.value)
    assert all(c in str(error.value) for c in MIXED.flatten().column_names)


def test_columns_are_listed_once_where_none_is_near():
    with pytest.raises(ParameterError) as error:
        texts(MIXED, "zzz")
    assert str(error.value).count("answers.score") == 1


@pytest.mark.parametrize(("column", "kind"), [("number", "int"), ("answers.score", "int")])
def test_a_column_of_numbers_is_refused(column, kind):
    with pytest.raises(ParameterError, match=f"text_column is '{column}': it holds {kind}.*texts"):
        texts(MIXED, column)


def test_examples_without_text_are_left_out_and_counted(capsys):
    examples = Dataset.from_dict({"t": ["a", None, " \n", "b"], "n": [0, 1, 2, 3]})
    assert drop_empty(examples, "t")["n"][:] == [0, 3]
    assert "2 of 4 examples" in capsys.readouterr().out
    assert len(drop_empty(examples.select([0, 3]), "t")) == 2
    assert capsys.readouterr().out == ""
    with pytest.raises(DataError, match="None of the 2 examples.*'t'.*text_column"):
        drop_empty(examples.select([1, 2]), "t")


def test_a_nested_column_of_concatenated_data_sets_is_found():
    part = Dataset.from_dict({"a": [{"b": {"c": ["x", "y"]}}, {"b": None}]})
    assert texts(datasets.concatenate_datasets([part, part.select([0])]), "a.b.c") == [
        "x y",
        "",
        "x y",
    ]


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


@pytest.mark.parametrize("value", [3, {"a": 1}, [[1]], [{"role": "user"}]])
def test_what_is_no_text_is_refused(value):
    with pytest.raises(ParameterError, match=r"text_column is 'x'"):
        texts(Dataset.from_dict({"x": [value]}), "x")


BOOK = "One line\nand another.\n\nA second paragraph,\nwith two lines.\n\n\nA third.\n"


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ("line", BOOK.split("\n")[:-1]),
        ("paragraph", [part.strip("\n") for part in BOOK.split("\n\n")]),
        ("file", [BOOK]),
    ],
)
@pytest.mark.parametrize("name", ["book.txt", "book.txt.gz"])
def test_a_text_file_is_cut_into_lines_paragraphs_or_not_at_all(
    tmp_path, name, documents, expected
):
    folder, content = tmp_path / "books", BOOK.encode()
    folder.mkdir()
    (folder / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    examples = load_examples(str(folder / name), "train", documents=documents)
    assert [text.strip("\n") for text in examples["text"]] == [t.strip("\n") for t in expected]
    whole = load_examples(str(folder), "train", documents=documents)
    assert whole["text"][:] == examples["text"][:]


def test_lines_that_are_short_give_a_word_of_advice(tmp_path, capsys):
    (tmp_path / "short.txt").write_text("To be, or not to be\n" * 30)
    (tmp_path / "long.txt").write_text(" ".join(["word"] * 30) + "\n" + "short\n")
    load_examples(str(tmp_path / "short.txt"), "train")
    assert "documents='paragraph' or 'file'" in capsys.readouterr().out
    load_examples(str(tmp_path / "short.txt"), "train", documents="file")
    load_examples(str(tmp_path / "long.txt"), "train")
    assert capsys.readouterr().out == ""


def test_only_text_files_are_cut_into_documents(tmp_path):
    WRITERS["x.jsonl"](tmp_path / "x.jsonl")
    with pytest.raises(ParameterError, match="documents is 'file': only text files"):
        load_examples(str(tmp_path / "x.jsonl"), "train", documents="file")
    with pytest.raises(ParameterError, match="documents is 'page': it must be one of 'line'"):
        load_examples("embedded", "train", documents="page")


def test_texts_in_batches_are_those_of_the_list(monkeypatch):
    rows = Dataset.from_dict({"a": [{"b": [f"x{i}", "y"]} for i in range(50)]})
    shuffled = rows.select([3, 1, 49, 7, 7])
    monkeypatch.setattr("helpers.engine.columns.TextColumn.batch_size", lambda *_: 2)
    assert list(Texts(shuffled, "a.b")) == ["x3 y", "x1 y", "x49 y", "x7 y", "x7 y"]
    assert len(Texts(shuffled, "a.b")) == 5
    assert drop_empty(rows, "a.b") is rows


def test_a_sample_is_seeded_sorted_and_without_repetition():
    rows = sample_rows(1000, 100)
    assert len(set(rows.tolist())) == 100 and (np.diff(rows) > 0).all()
    assert (sample_rows(1000, 100) == rows).all() and (sample_rows(1000, 100, 1) != rows).any()
    assert sample_rows(5, 0).tolist() == sample_rows(5, 9).tolist() == list(range(5))
