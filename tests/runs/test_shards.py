"""Shards: what jobs of their own did for a part of the documents each is one run afterwards."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml
from datasets import DatasetDict

from helpers.chunking import chunk, totals
from helpers.data import load_examples
from helpers.engine.arrow import count_tokens, load, save, shard_of
from helpers.errors import ParameterError, RunError
from helpers.models import load_tokenizer
from helpers.runs.folder import Run
from helpers.runs.shards import join_shards
from helpers.runs.step import start_step
from helpers.splitting import split_fairly
from helpers.tokenization import tokenize
from tests import PROJECT

BLOCK, COLUMN = 64, "answers.text"


def begin_run(folder):
    """A run whose step load is done."""
    step = start_step("load", str(folder), split="train[:60]")
    save(split_fairly(load_examples("embedded", "train[:60]"), COLUMN, 0.2, 7), step.path / "data")
    step.finish()


def prepare(folder, shard="", block_size=BLOCK):
    """Do `preprocess` and `chunk` of a run as the notebooks do."""
    tokenizer = load_tokenizer("embedded")
    step = start_step("preprocess", str(folder), shard=shard)
    own = shard_of(load(step.inputs["load"] / "data"), shard)
    tokens = DatasetDict({name: tokenize(part, COLUMN, tokenizer) for name, part in own.items()})
    save(tokens, step.path / "data")
    step.finish(bytes_per_token=4.5)
    step, data = start_step("chunk", str(folder), block_size=block_size), tokens
    accounts = chunk(data, block_size, tokenizer.eos_token_id, folder=step.path / "data")[1]
    numbers = {name: account.numbers() for name, account in accounts.items()}
    (step.path / "account.json").write_text(json.dumps(numbers))
    step.finish(**totals(accounts))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run without shards, and three shards of it beside it."""
    folder = tmp_path_factory.mktemp("shards")
    begin_run(folder / "whole")
    for number in range(3):
        shutil.copytree(folder / "whole", folder / "shards" / str(number))
        prepare(folder / "shards" / str(number), f"{number + 1}/3")
    prepare(folder / "whole")
    return folder


@pytest.fixture
def shards(whole, tmp_path):
    """A copy of the three, of which a test may break one."""
    shutil.copytree(whole / "shards", tmp_path / "shards")
    return tmp_path / "shards"


def test_shards_are_one_run_with_the_same_documents_and_tokens(whole, shards, tmp_path, capsys):
    join_shards(str(shards), str(tmp_path / "run"))
    assert "all 3 shards" in capsys.readouterr().out
    alone, joined = Run(whole / "whole"), Run(tmp_path / "run")
    assert not any(list(joined.problems().values())[:3])
    for step in ("load", "preprocess", "chunk"):
        assert joined.is_done(step, alone.record(step)["parameters"])
    one, other = (load(run.path("preprocess") / "data") for run in (alone, joined))
    assert {k: v.to_list() for k, v in one.items()} == {k: v.to_list() for k, v in other.items()}
    made, plain = joined.record("chunk")["metrics"], alone.record("chunk")["metrics"]
    for name in ("documents", "tokens_in", "separators"):
        assert made[name] == plain[name]
    assert made["tokens_in"] == made["tokens_kept"] + made["tokens_dropped"]
    accounts = json.loads((joined.path("chunk") / "account.json").read_text())
    parts = [load(Run(shards / str(n)).path("chunk") / "data") for n in range(3)]
    for split, blocks in load(joined.path("chunk") / "data").items():
        assert blocks.to_list() == [row for part in parts for row in part[split]]
        assert count_tokens(blocks) == accounts[split]["tokens_kept"]
        assert len(blocks) == accounts[split]["blocks"] == made[f"blocks_{split}"]
    assert made["blocks_train"] > plain["blocks_train"]  # each shard has a last, shorter block


def test_shards_are_not_copied_and_may_be_joined_again(shards, tmp_path):
    for _ in range(2):
        join_shards(str(shards), str(tmp_path / "run"))
    first = shards / "0" / "03_chunk" / "data" / "train" / "data-00000-of-00001.arrow"
    joined = tmp_path / "run" / "03_chunk" / "data" / "train" / "data-00000-of-00003.arrow"
    assert os.path.samefile(first, joined)


def test_a_shard_cannot_be_trained_on(shards):
    with pytest.raises(RunError, match="has shard 2/3 of the documents; .* join"):
        start_step("train", str(shards / "1"))


def remove(shards):
    shutil.rmtree(shards / "1")


def half_done(shards):
    shutil.rmtree(shards / "2" / "03_chunk")


def of_another_number(shards):
    prepare(shards / "1", "2/4")


def in_other_blocks(shards):
    prepare(shards / "1", "2/3", block_size=32)


def none(shards):
    for number in range(3):
        shutil.rmtree(shards / str(number))


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (remove, "lacks shard 2/3"),
        (half_done, "Shard 3/3 is not complete: step 'chunk' has not been done"),
        (of_another_number, "it has some of 3 and of 4"),
        (in_other_blocks, "Shard 2/3 has other parameters, data or code than 1/3"),
        (none, "it has none"),
    ],
)
def test_shards_that_do_not_fit_are_refused_in_one_sentence(shards, tmp_path, spoil, part):
    spoil(shards)
    with pytest.raises(RunError) as caught:
        join_shards(str(shards), str(tmp_path / "run"))
    assert part in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("shard", ["0/2", "3/2", "2", "1/13", "one/two"])
def test_a_shard_that_cannot_be_is_refused(whole, shard):
    with pytest.raises(ParameterError, match=r"shard is .*documents for at most 12\."):
        shard_of(load(whole / "whole" / "01_load" / "data"), shard)


@pytest.mark.full
def test_a_cluster_of_two_workers_does_the_shards_and_their_run_is_trained(tmp_path):
    from distributed import LocalCluster

    small = {"load.split": "train[:60]", "train.num_train_epochs": 0.3, "evaluate.stride": 256}
    small |= {"infer.max_new_tokens": 3, "compute_dtype": "float32"}
    asked = {"set": small, "grid": {"preprocess.shard": ["1/3", "2/3", "3/3"]}}
    (tmp_path / "shards.yaml").write_text(yaml.safe_dump(asked))
    given = [part for key, value in small.items() for part in ("-p", f"{key}={value}")]

    def call(*arguments):
        command, environment = [sys.executable, "-m", "helpers", *arguments], {**os.environ}
        environment |= {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    folders = [str(tmp_path / name) for name in ("shards", "run", "whole")]
    sweep = ["sweep", str(tmp_path / "shards.yaml"), "--sweep-dir", folders[0]]
    how = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(processes=True, **how) as cluster:
        said = call(*sweep, "--scheduler", cluster.scheduler_address)
    assert "✓ 2  up to chunk" in said and "helpers join" in said
    records = [json.loads((tmp_path / "shards" / n / "run.json").read_text()) for n in "012"]
    assert sorted(r["steps"]["load"]["done"] for r in records) == ["before", "before", "ok"]
    call("join", folders[0], "--run-dir", folders[1])
    assert call("run", "--run-dir", folders[1]).count("done already") == 3
    call("run", "--run-dir", folders[2], "--until", "chunk", *given)
    one, other = (load(Run(f).path("preprocess") / "data") for f in folders[1:])
    assert {k: v.to_list() for k, v in one.items()} == {k: v.to_list() for k, v in other.items()}
    alone, joined = (Run(f).record("preprocess")["metrics"] for f in folders[1:])
    assert alone == joined
