"""Examples from every kind of file, the column that holds text, and a split that does not leak."""

import gzip
import io
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter

import datasets
import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from helpers.columns import texts
from helpers.data import (
    drop_empty,
    left_out,
    load_examples,
    near_duplicates,
    shared_ngrams,
    split_fairly,
)
from helpers.engine.arrow import load, save
from helpers.errors import DataError, ParameterError, UserError
from helpers.hub import download as hub
from helpers.hub import sources as sources_module
from helpers.hub.sources import needs_fetching
from helpers.runs.folder import Run
from helpers.runs.origins import sources
from helpers.runs.parameters import STEPS
from helpers.runs.profiles import plan
from helpers.runs.terminal import summary

RECORDS = [
    {"n": i, "text": t}
    for i, t in enumerate(["Plain", 'a "quote", a comma', "Ünïcode ☂", "  spaces "] * 3)
]
LINES = "".join(json.dumps(r) + "\n" for r in RECORDS).encode()
FRAME = pd.DataFrame(RECORDS)
WRITERS = {
    "x.json": lambda p: p.write_text(json.dumps(RECORDS)),
    "x.json.gz": lambda p: p.write_bytes(gzip.compress(json.dumps(RECORDS).encode())),
    "x.jsonl": lambda p: p.write_bytes(LINES),
    "x.jsonl.gz": lambda p: p.write_bytes(gzip.compress(LINES)),
    "x.csv": lambda p: FRAME.to_csv(p, index=False),
    "x.tsv": lambda p: FRAME.to_csv(p, index=False, sep="\t"),
    "x.tsv.gz": lambda p: FRAME.to_csv(p, index=False, sep="\t"),
    "x.parquet": lambda p: FRAME.to_parquet(p, index=False),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


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
    [("train[:3]", [0, 1, 2]), ("train[2:5]", [2, 3, 4]), ("train[-2:]", [10, 11]), ("train[:25%]", [0, 1, 2]), ("train", list(range(12)))],
)  # fmt: skip
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


def test_the_table_of_a_run_says_how_many_examples_the_split_left_out(tmp_path):
    names = "perplexity_base perplexity_finetuned bits_per_byte_base bits_per_byte_finetuned perplexity_ratio"
    names += " perplexity_ratio_low perplexity_ratio_high tokens_in tokens_kept tokens_dropped train_tokens_per_second"
    metrics = dict.fromkeys(names.split(), 1) | {f"seconds_{step}": 1 for step in STEPS}
    metrics |= {"dtype": "float32", "device": "cpu", "examples_left_out": 44_229}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    summary(Run(tmp_path), console := Console(file=io.StringIO(), width=200))
    assert "44,229 are left out by load.split" in console.file.getvalue()


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


@pytest.mark.parametrize("others", [["b.csv"], ["b.arrow"], ["b.csv", "a.tsv"]])
def test_a_folder_of_files_of_several_kinds_is_refused(tmp_path, others):
    for name in ["a.jsonl", *others]:
        (tmp_path / name).write_text('{"n": 1}\n')
    with pytest.raises(DataError, match="dataset is "):
        load_examples(str(tmp_path), "train")


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="dataset is "):
        load_examples(str(tmp_path), "train")


def test_a_mark_of_byte_order_is_no_text(tmp_path):
    for name, text in (
        ("x.txt", "one\n"),
        ("x.csv", "text\none\n"),
        ("x.jsonl", '{"text": "one"}\n'),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        assert load_examples(str(tmp_path / name), "train").to_dict() == {"text": ["one"]}


@pytest.mark.parametrize("name", ["x.json", "x.jsonl", "x.csv", "x.txt"])
def test_text_in_another_encoding_is_refused_with_what_to_do(tmp_path, name):
    text = {"x.json": '[{"text": "é"}]', "x.jsonl": '{"text": "é"}\n'}.get(name, "text\né\n")
    (tmp_path / name).write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match="dataset is .*convert it to UTF-8"):
        load_examples(str(tmp_path / name), "train")


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


def test_a_full_cache_is_said(tmp_path, monkeypatch):
    WRITERS["x.jsonl"](tmp_path / "x.jsonl")
    monkeypatch.setattr(datasets.builder, "has_sufficient_disk_space", lambda *_, **__: False)
    with pytest.raises(DataError, match="no room for it in the cache.*HF_DATASETS_CACHE") as error:
        load_examples(str(tmp_path / "x.jsonl"), "train")
    assert "Unknown" not in str(error.value)


def test_the_texts_of_a_csv_without_names_of_columns_are_not_printed_whole(tmp_path):
    (tmp_path / "x.csv").write_text("word " * 500 + "\nsecond\n")
    examples = load_examples(str(tmp_path / "x.csv"), "train")
    with pytest.raises(ParameterError, match="text_column is 'text'.*first line") as error:
        texts(examples, "text")
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("documents", "share"), [(["one"], 0.2), ([f"text {i}" for i in range(9)], 0.9999)]
)
def test_one_record_or_too_large_a_share_is_refused(documents, share):
    with pytest.raises(ParameterError, match=f"test_size is {share}"):
        split_fairly(numbered(documents), "t", share, 0)


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


BINARY = b"\x00\xff\xfe\x81 neither {] text\n" * 5
BROKEN = {
    "half.json": b'[{"a": 1,', "binary.json": BINARY, "empty.json": b"",
    "line.jsonl": b'{"a": 1}\nhello\n', "empty.jsonl": b"",
    "plain.jsonl.gz": b'{"a": 1}\n', "cut.jsonl.gz": gzip.compress(LINES)[:-12],
    "ragged.csv": b"a,b\n1,2\n1,2,3,4\n", "binary.csv": BINARY, "empty.csv": b"", "plain.csv.gz": b"a,b\n1,2\n",
    "ragged.tsv": b"a\tb\n1\t2\n1\t2\t3\n", "binary.tsv": BINARY,
    "text.parquet": b"hello, I am a text", "empty.parquet": b"",
    "binary.txt": BINARY, "empty.txt": b"", "plain.txt.gz": b"hello\n",
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_not_what_its_ending_claims_is_refused(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(BROKEN[name])
    with pytest.raises(DataError) as error:
        load_examples(str(path), "train")
    message = str(error.value)
    kind = {"jsonl": "json", "tsv": "csv", "txt": "text"}.get(
        name.split(".")[1], name.split(".")[1]
    )
    assert "dataset" in message and str(path) in message and kind in message and "\n" not in message


def test_a_file_with_no_records_is_a_fault_of_the_data_not_of_the_split(tmp_path):
    (tmp_path / "none.json").write_text("[]")
    with pytest.raises(DataError, match=r"none\.json"):
        load_examples(str(tmp_path / "none.json"), "train")


@pytest.mark.parametrize("name", ["x.xml", "x", "x.gz", "folder.json"])
def test_an_unknown_ending_is_refused_with_those_that_would_do(tmp_path, name):
    (tmp_path / name).mkdir() if name == "folder.json" else (tmp_path / name).write_text("<a/>")
    with pytest.raises(DataError, match=r"dataset is .*\.json.*\.csv.*\.parquet.*\.txt") as error:
        load_examples(str(tmp_path / name), "train")
    assert name in str(error.value)


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


def runs_of(document):
    words = re.findall(r"\w+", document.lower())
    return {tuple(words[i : i + 8]) for i in range(max(1, len(words) - 7))} if words else set()


def slow_groups(documents):
    runs, group = [runs_of(d) for d in documents], list(range(len(documents)))
    for i in range(len(documents)):
        for j in range(i):
            shared, shorter = len(runs[i] & runs[j]), min(len(runs[i]), len(runs[j]))
            if shared and 2 * shared >= shorter:
                group = [group[j] if g == group[i] else g for g in group]
    return group


def partition(groups):
    return [list(groups).index(g) for g in groups]


BASE = [f"w{i}" for i in range(36)]
SLICES = st.tuples(st.integers(0, 30), st.integers(0, 20)).map(
    lambda t: " ".join(BASE[t[0] : t[0] + t[1]])
)
TEXT = st.lists(SLICES, max_size=4).map(", ".join) | st.lists(st.sampled_from(["so", "So,", "it"]), max_size=14).map(" ".join)  # fmt: skip
TEXTS = st.lists(TEXT, min_size=1, max_size=10)


@given(TEXTS)
@example(["", "?!"])
@example(["A b, c.", "a B c", "a b c d"])
@example([" ".join(BASE[:16]), " ".join(BASE[:12] + ["x"] * 9), " ".join(BASE[:11] + ["y"] * 20)])
def test_near_duplicates_equal_the_slow_oracle(documents):
    assert partition(near_duplicates(documents)) == partition(slow_groups(documents))


def test_two_copies_are_found_although_others_quote_parts_of_them():
    parts = [" ".join(f"p{part}w{i}" for i in range(30)) for part in range(4)]
    quotes = [
        part + " " + " ".join(f"own{n}w{i}" for i in range(200)) for n, part in enumerate(parts)
    ]
    documents = [" ".join(parts), *quotes, " ".join(parts)]
    assert partition(slow_groups(documents)) == [0, 1, 2, 3, 4, 0]
    assert partition(near_duplicates(documents)) == [0, 1, 2, 3, 4, 0]


def own_words(number, count):
    return " ".join(f"d{number}w{i}" for i in range(count))


PROMPT, FOOTER = (" ".join(f"{name}{i}" for i in range(30)) for name in ("prompt", "footer"))


@pytest.mark.parametrize("count", [12, 300])
def test_passages_that_many_documents_have_make_no_copies(count):
    documents = [f"{PROMPT} {own_words(i, 12)} {FOOTER}" for i in range(count)]
    assert len(set(near_duplicates(documents))) == count
    parts = split_fairly(numbered(documents), "t", 0.25, 0)
    assert len(parts["test"]) == count // 4


def test_copies_are_found_beside_passages_that_many_documents_have():
    documents = [f"{PROMPT} {own_words(i, 20)} {FOOTER}" for i in range(40)]
    documents += [
        documents[3],
        f"{own_words(4, 20)} and more",
        f"{PROMPT} {own_words(5, 20)} other {FOOTER}",
    ]
    documents += [
        PROMPT,
        PROMPT.upper(),
        f"{PROMPT} {FOOTER}",
        f"{PROMPT} yes",
        f"{PROMPT} no",
        f"{PROMPT} yes!",
    ]
    groups = near_duplicates(documents).tolist()
    assert groups[:40] == list(range(40))
    assert groups[40:] == [3, 4, 5, 43, 43, 45, 46, 47, 46]


def test_a_passage_of_ten_documents_still_counts():
    documents = [f"{PROMPT} {own_words(i, 12)}" for i in range(10)] + [
        own_words(i, 20) for i in range(10, 30)
    ]
    assert (
        partition(near_duplicates(documents))
        == partition(slow_groups(documents))
        == [0] * 10 + list(range(10, 30))
    )


def test_many_documents_with_one_footer_are_compared_in_a_time_that_grows_with_them():
    footer = " ".join(f"footer{i}" for i in range(12))
    documents = [f"{own_words(i, 30)} {footer}" for i in range(8000)]
    began = time.process_time()
    assert len(set(near_duplicates(documents))) == 8000
    assert time.process_time() - began < 5  # pair by pair it takes 40 seconds


def test_groups_can_be_given_and_then_nothing_is_looked_for():
    examples = numbered(["the same text"] * 8)
    parts = split_fairly(examples, "t", 0.25, 0, groups=range(8))
    assert len(parts["test"]) == 2
    parts = split_fairly(
        numbered([f"text {i}" for i in range(8)]), "t", 0.25, 0, groups=[0, 0, 1, 1, 2, 2, 3, 3]
    )
    assert parts["test"]["n"][:] in [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_a_nested_column_of_concatenated_data_sets_is_found():
    part = Dataset.from_dict({"a": [{"b": {"c": ["x", "y"]}}, {"b": None}]})
    assert texts(datasets.concatenate_datasets([part, part.select([0])]), "a.b.c") == [
        "x y",
        "",
        "x y",
    ]


def test_no_documents_have_no_groups():
    assert len(near_duplicates([])) == 0


def numbered(documents):
    return Dataset.from_dict({"n": range(len(documents)), "t": documents})


@given(TEXTS, st.floats(0.05, 0.95), st.integers(0, 2**32 - 1))
def test_a_fair_split_keeps_groups_whole_and_the_share_near(documents, test_size, seed):
    groups = np.array(slow_groups(documents))
    sizes, target = Counter(groups.tolist()), max(1, round(test_size * len(documents)))
    try:
        parts = split_fairly(numbered(documents), "t", test_size, seed)
    except ParameterError as error:
        assert "test_size" in str(error) and repr(test_size) in str(error)
        assert min(sizes.values()) > 1.1 * target or len(documents) <= 1.1 * target
        return
    train, test = parts["train"]["n"][:], parts["test"]["n"][:]
    assert sorted(train + test) == list(range(len(documents))) and train and test
    assert not set(groups[train]) & set(groups[test])
    assert len(test) <= 1.1 * target
    assert len(test) >= target or all(len(test) + sizes[g] > 1.1 * target for g in groups[train])


def test_a_split_depends_on_the_seed_and_on_nothing_else():
    examples = numbered([f"text {i}" for i in range(40)])
    chosen = [split_fairly(examples, "t", 0.25, seed)["test"]["n"][:] for seed in (1, 1, 2)]
    assert [len(c) for c in chosen] == [10, 10, 10]
    assert chosen[0] == chosen[1] != chosen[2]


@given(
    st.lists(st.sampled_from("aabc"), min_size=2, max_size=60),
    st.floats(0.1, 0.9),
    st.integers(0, 99),
)
def test_a_stratified_split_has_each_value_in_proportion(values, test_size, seed):
    examples = Dataset.from_dict({"t": [f"text {i}" for i in range(len(values))], "kind": values})
    try:
        parts = split_fairly(examples, "t", test_size, seed, stratify_by_column="kind")
    except ParameterError:
        assert round(test_size * len(values)) in (0, len(values)) or len(values) == 2
        return
    counts, test = Counter(values), Counter(parts["test"]["kind"])
    for value, count in counts.items():
        assert abs(test[value] - test_size * count) <= 1.5, value
    assert abs(len(parts["test"]) - test_size * len(values)) <= 1


def test_a_column_to_stratify_by_that_is_not_there_is_refused():
    with pytest.raises(ParameterError, match="stratify_by_column is 'kind': choose one of n, t"):
        split_fairly(numbered(["a", "b", "c"]), "t", 0.3, 0, stratify_by_column="kind")


@pytest.mark.parametrize("documents", [["a b c"] * 5, ["only one"], []])
def test_a_split_that_leaves_one_side_empty_is_refused(documents):
    examples = Dataset.from_dict({"t": documents}, features=Features({"t": Value("string")}))
    with pytest.raises(UserError, match="test_size is 0.2.*more examples"):
        split_fairly(examples, "t", 0.2, 0)


def test_a_planted_copy_never_lies_on_both_sides_as_it_does_with_train_test_split():
    documents = [" ".join(f"d{n}w{i}" for i in range(20)) for n in range(30)]
    documents.append(documents[7].upper() + " edited")
    examples = numbered(documents)

    def torn(parts):
        return len({7, 30} & set(parts["test"]["n"])) == 1

    assert not any(torn(split_fairly(examples, "t", 0.3, seed)) for seed in range(20))
    assert any(torn(examples.train_test_split(test_size=0.3, seed=seed)) for seed in range(20))


def test_the_real_text_is_read_whole_and_split_without_a_leak(real_text):
    examples = load_examples(str(real_text), "train")
    assert len(examples) == 2375
    parts = split_fairly(examples, "answers.text", 0.2, 0)
    assert len(parts["train"]) + len(parts["test"]) == 2375
    assert abs(len(parts["test"]) - 475) <= 47
    train, test = ([runs_of(t) for t in texts(part, "answers.text")] for part in parts.values())
    holders = {}
    for number, runs in enumerate(train):
        for run in runs:
            holders.setdefault(run, []).append(number)
    for runs in test:
        for number, shared in Counter(n for run in runs for n in holders.get(run, ())).items():
            assert 2 * shared < min(len(runs), len(train[number]))


def contents(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_fields_of_mixed_types_are_saved_and_loaded(tmp_path):
    """`datasets` reads them as JSON, an extension of Arrow that not all of it can deal with."""
    calls = [{"a": 1}, {"b": "x"}, [1, "y"]]
    records = [
        {
            "text": f"text {i}",
            "extra": call,
            "messages": [{"role": "user", "content": "hi", "tool_calls": [call]}],
        }
        for i, call in enumerate(calls)
    ]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    examples = load_examples(str(tmp_path / "x.jsonl"), "train")
    for column in ("text", "messages"):
        kept = drop_empty(examples, column)
        save(DatasetDict(train=kept.select([2, 0]), test=kept.select([1])), tmp_path / column)
        back = load(tmp_path / column)
        assert back["train"].to_list() == [records[2], records[0]] and back["test"].to_list() == [
            records[1]
        ]
        assert texts(back["train"], "text") == ["text 2", "text 0"]
        assert texts(back["test"], "messages") == ["user: hi"]


def test_what_is_saved_is_loaded_and_map_leaves_no_cache_beside_it(tmp_path):
    features = Features({"t": Value("string"), "kind": ClassLabel(names=["x", "y"])})
    whole = Dataset.from_dict({"t": ["a", None, "c"], "kind": [0, 1, 0]}, features=features)
    parts = DatasetDict(train=whole.select([2, 0]), test=whole.select([1]))
    save(parts, tmp_path / "saved")
    back, before = load(tmp_path / "saved"), contents(tmp_path / "saved")
    assert list(back) == ["train", "test"] and back["train"].features == features
    assert {k: v.to_list() for k, v in back.items()} == {k: v.to_list() for k, v in parts.items()}
    back["train"].map(lambda row: {"t": "new"}).filter(lambda row: True)
    assert contents(tmp_path / "saved") == before
    datasets.load_from_disk(tmp_path / "saved")["train"].map(lambda row: {"t": "new"})
    assert contents(tmp_path / "saved") != before


SAVES = """
import sys, pathlib, datasets
from helpers.data import drop_empty, load_examples, split_fairly
from helpers.engine.arrow import save
datasets.config.HF_DATASETS_CACHE = pathlib.Path(sys.argv[1]).parent / "cache"
parts = split_fairly(drop_empty(load_examples(sys.argv[1], "train"), "text"), "text", 0.3, 0)
save(parts, pathlib.Path(sys.argv[2]))
"""


def test_two_processes_save_the_same_bytes_and_neither_path_nor_time(tmp_path):
    records = [{"n": i, "text": f"text {i}"} for i in range(20)] + [{"n": 20, "text": ""}]
    jobs, began = [], time.time()
    for name in ("first", "second-folder"):
        source = tmp_path / name / "x.jsonl"
        source.parent.mkdir()
        source.write_text("".join(json.dumps(r) + "\n" for r in records))
        os.utime(source, (began, began - 1000 * len(name)))
        command = [sys.executable, "-c", SAVES, str(source), str(tmp_path / name / "saved")]
        jobs.append(subprocess.Popen(command, env=os.environ | {"PYTHONHASHSEED": str(len(name))}))
    assert [job.wait(timeout=100) for job in jobs] == [0, 0]
    first, second = (contents(tmp_path / name / "saved") for name in ("first", "second-folder"))
    assert first == second
    assert {n.split("/")[-1] for n in first} == {"dataset_dict.json", "dataset_info.json", "state.json", "data-00000-of-00001.arrow"}  # fmt: skip
    for held in first.values():
        assert str(tmp_path).encode() not in held and b".jsonl" not in held
        assert (
            str(int(began))[:6].encode() not in held and time.strftime("%Y-%m").encode() not in held
        )


def test_shared_ngrams_by_hand():
    train = ["a b c d", "x y"]
    found = shared_ngrams(train, ["A b  c", "b c d e", "c b a", "x y", "a b c a b c"], n=3)
    assert found[:3].tolist() == [1.0, 0.5, 0.0]
    assert np.isnan(found[3])
    assert found[4] == pytest.approx(
        1 / 3
    )  # of "a b c", "b c a" and "c a b"; what comes twice counts once


def test_a_copied_document_is_all_shared_and_the_embedded_test_is_not():
    splits = split_fairly(
        load_examples("embedded", "train"), "answers.text", 0.2, 0, stratify_by_column="category"
    )
    train, test = (texts(splits[name], "answers.text") for name in ("train", "test"))
    assert np.nanmax(shared_ngrams(train, test)) < 0.02
    assert shared_ngrams(train, train[:1]).tolist() == [1.0]
