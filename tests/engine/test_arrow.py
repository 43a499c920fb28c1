"""Data sets on disk: what is saved is loaded, the same bytes each time."""

import json
import os
import subprocess
import sys
import time

import datasets
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from helpers.data import drop_empty, load_examples, texts
from helpers.engine.arrow import count_tokens, load, save, tables, token_counts

pytestmark = pytest.mark.usefixtures("datasets_cache")


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
from helpers.data import drop_empty, load_examples
from helpers.engine.arrow import save
from helpers.splitting import split_fairly
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
    assert {n.split("/")[-1] for n in first} == {
        "dataset_dict.json",
        "dataset_info.json",
        "state.json",
        "data-00000-of-00001.arrow",
    }
    for held in first.values():
        assert str(tmp_path).encode() not in held and b".jsonl" not in held
        assert (
            str(int(began))[:6].encode() not in held and time.strftime("%Y-%m").encode() not in held
        )


@pytest.mark.parametrize("limit", [0, 1e9])
def test_a_small_data_set_is_read_and_a_large_one_mapped(tmp_path, monkeypatch, limit):
    """What is mapped cannot be replaced on Windows."""
    numbers = Dataset.from_dict({"n": list(range(200_000))})
    save(DatasetDict({"train": numbers}), tmp_path / "data")
    monkeypatch.setattr("helpers.engine.arrow.IN_MEMORY", limit)
    before = pa.total_allocated_bytes()
    loaded = load(tmp_path / "data")
    grown = pa.total_allocated_bytes() - before
    assert (grown > 1e6) == bool(limit)
    assert loaded["train"]["n"][:3] == [0, 1, 2]


def test_tokens_are_counted_without_a_look_at_them():
    ids = [list(range(n)) for n in (3, 0, 5, 1)]
    whole = Dataset.from_dict({"input_ids": ids, "other": ["x"] * 4})
    assert count_tokens(whole) == 9 and count_tokens(whole.select([2, 0])) == 8
    assert count_tokens(whole.select([])) == 0
    assert token_counts(whole, 6).tolist() == [3, 2, 2, 1, 1, 0]
    assert token_counts(whole.select([3, 3]), 6).tolist() == [2, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("rows", [range(35), [30, 2, 2, 17, 4], range(5, 9), []])
def test_tables_have_all_rows_in_order_however_they_are_sliced(tmp_path, monkeypatch, rows):
    monkeypatch.setattr("helpers.engine.arrow.SLICE", 3)
    lines = "".join(json.dumps({"n": i, "t": f"text {i}"}) + "\n" for i in range(35))
    (tmp_path / "x.jsonl").write_text(lines)
    mapped = load_examples(str(tmp_path / "x.jsonl"), "train").select(rows)
    for dataset in (mapped, Dataset.from_dict(mapped.to_dict())):
        found = [n for table in tables(dataset, 2) for n in table["n"].to_pylist()]
        assert found == dataset["n"][:]
    assert not len(mapped) or mapped.cache_files


def test_a_selection_takes_no_more_room_than_saved_by_the_library(tmp_path):
    rows = Dataset.from_dict({"text": [f"a text, number {n}" for n in range(3000)]})
    chosen = DatasetDict({"train": rows.select(range(2999, 0, -2))})
    save(chosen, tmp_path / "ours")
    chosen.save_to_disk(tmp_path / "theirs")
    ours, theirs = (
        sum(path.stat().st_size for path in (tmp_path / name).rglob("*.arrow"))
        for name in ("ours", "theirs")
    )
    assert ours < 1.1 * theirs
