"""Many documents: what the notebooks show takes little time beside what they do."""

import subprocess
import sys
import time

import pytest

from tests.benchmarks.corpus import write
from tests.benchmarks.steps import BLOCK, STEPS, steps_of

# The calls that each notebook makes for its work, and nothing else.
IMPORTS = """
import sys
from pathlib import Path

from helpers.engine.arrow import load, save
from helpers.models import load_tokenizer

path, folder = Path(sys.argv[1]), Path(sys.argv[2])
"""
CALLS = {
    "load": """
from helpers.data import Texts, drop_empty, load_examples
from helpers.splitting import near_duplicates, split_fairly

examples = drop_empty(load_examples(str(path), "train"), "text")
groups = near_duplicates(Texts(examples, "text"))
save(split_fairly(examples, "text", 0.2, 42, groups=groups), folder / "examples")
""",
    "preprocess": """
from datasets import DatasetDict
from helpers.tokenization import tokenize

parts, tokenizer = load(folder / "examples"), load_tokenizer("embedded")
tokens = {name: tokenize(part, "text", tokenizer) for name, part in parts.items()}
save(DatasetDict(tokens), folder / "tokens")
""",
    "chunk": f"""
from helpers.chunking import chunk

end = load_tokenizer("embedded").eos_token_id
chunk(load(folder / "tokens"), {BLOCK}, end, folder=folder / "blocks")
""",
}


@pytest.mark.full
def test_notebooks_take_hardly_longer_than_their_work(tmp_path, monkeypatch):
    """Each notebook has a process of its own, and so have the calls."""
    path, alone = tmp_path / "documents.jsonl", {}
    write(path, 20_000)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache of the calls"))
    for step in STEPS:
        began = time.perf_counter()
        program = [sys.executable, "-c", IMPORTS + CALLS[step], str(path), str(tmp_path)]
        subprocess.run(program, check=True)
        alone[step] = time.perf_counter() - began
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache of the notebooks"))
    found = steps_of(path, tmp_path)
    seconds = {step: (found[step]["seconds"], alone[step]) for step in STEPS}
    assert all(whole <= 1.3 * work + 5 for whole, work in seconds.values()), seconds
