"""Files that cannot be read, and what is said of them."""

import gzip

import datasets
import pytest

from helpers.data import load_examples
from helpers.engine.readers import READERS
from helpers.errors import DataError
from helpers.hub.sources import ENDINGS
from tests.test_data import LINES, WRITERS

pytestmark = pytest.mark.usefixtures("datasets_cache")


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


def test_a_full_cache_is_said(tmp_path, monkeypatch):
    WRITERS["x.jsonl"](tmp_path / "x.jsonl")
    monkeypatch.setattr(datasets.builder, "has_sufficient_disk_space", lambda *_, **__: False)
    with pytest.raises(DataError, match="no room for it in the cache.*HF_DATASETS_CACHE") as error:
        load_examples(str(tmp_path / "x.jsonl"), "train")
    assert "Unknown" not in str(error.value)


BINARY = b"\x00\xff\xfe\x81 neither {] text\n" * 5
BROKEN = {
    "half.json": b'[{"a": 1,', "binary.json": BINARY, "empty.json": b"",
    "line.jsonl": b'{"a": 1}\nhello\n', "empty.jsonl": b"",
    "plain.jsonl.gz": b'{"a": 1}\n', "cut.jsonl.gz": gzip.compress(LINES)[:-12],
    "ragged.csv": b"a,b\n1,2\n1,2,3,4\n", "binary.csv": BINARY, "empty.csv": b"",
    "plain.csv.gz": b"a,b\n1,2\n",
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


def test_every_ending_that_marks_a_file_has_a_reader():
    assert set(READERS) == ENDINGS
