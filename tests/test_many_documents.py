"""Many documents: what the notebooks show takes no time beside what they do."""

import time

import datasets
import pytest
from datasets import DatasetDict

from helpers.chunking import chunk
from helpers.data import Texts, drop_empty, load_examples
from helpers.engine.arrow import load, save
from helpers.models import load_tokenizer
from helpers.splitting import near_duplicates, split_fairly
from helpers.tokenization import tokenize
from tests.benchmarks.corpus import write
from tests.benchmarks.steps import BLOCK, steps_of


def seconds_alone(path, folder):
    """Seconds of the calls that the three notebooks make for their work, and of nothing else."""
    spent, began = {}, time.perf_counter()

    def lap(name):
        nonlocal began
        spent[name], began = time.perf_counter() - began, time.perf_counter()

    examples = drop_empty(load_examples(str(path), "train"), "text")
    groups = near_duplicates(Texts(examples, "text"))
    save(split_fairly(examples, "text", 0.2, 42, groups=groups), folder / "examples")
    lap("load")
    parts, tokenizer = load(folder / "examples"), load_tokenizer("embedded")
    tokens = {name: tokenize(part, "text", tokenizer) for name, part in parts.items()}
    save(DatasetDict(tokens), folder / "tokens")
    lap("preprocess")
    chunk(load(folder / "tokens"), BLOCK, tokenizer.eos_token_id, folder=folder / "blocks")
    lap("chunk")
    return spent


@pytest.mark.full
def test_notebooks_take_hardly_longer_than_their_work(tmp_path, monkeypatch):
    write(tmp_path / "documents.jsonl", 20_000)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache of the calls")
    alone = seconds_alone(tmp_path / "documents.jsonl", tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache of the notebooks"))
    found = steps_of(tmp_path / "documents.jsonl", tmp_path)
    seconds = {step: (f["seconds"], alone[step]) for step, f in found.items()}
    assert all(whole <= 1.3 * work + 5 for whole, work in seconds.values()), seconds
