"""Sweeps: which runs they mean, that these go on where they stopped, share what they have in
common, and do not stop each other.
"""

import io
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import yaml
from rich.console import Console

from helpers.errors import UserError
from helpers.runs.locking import acquire, folder_lock
from helpers.runs.parameters import STEPS
from helpers.runs.profiles import PROFILES
from helpers.runs.sweep import execute_sweep, remaining_steps, run_specs
from helpers.runs.sweep_file import read_sweep
from tests import PROJECT

SMALL = {
    "load.split": "train[:40]",
    "train.num_train_epochs": 0.3,
    "infer.max_new_tokens": 3,
    "evaluate.stride": 256,
    "compute_dtype": "float32",  # "auto" may decide otherwise on a busy machine
}


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Write a sweep, and read it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("helpers.hub.sources.PROJECT", tmp_path)

    def write(text):
        (tmp_path / "sweep.yaml").write_text(
            text if isinstance(text, str) else yaml.safe_dump(text)
        )
        return read_sweep(tmp_path / "sweep.yaml")

    return write


def settings(asked):
    return [dict(variant) for variant in asked.variants.values()]


def specs_of(asked, folder):
    return run_specs(asked, [*asked.variants], folder)


def test_a_grid_is_every_combination_and_numbers_are_read(sweep):
    asked = sweep("grid:\n  train.learning_rate: [3e-4, 0.001]\n  chunk.block_size: [64, 128]\n")
    assert [*asked.variants] == ["0", "1", "2", "3"]
    rates = [
        w.parameters["train"]["learning_rate"]
        for w in run_specs(asked, [*asked.variants], PROJECT / "x", 2)
    ]
    assert rates == [3e-4, 3e-4, 1e-3, 1e-3]


def test_a_list_stands_as_it_is_and_seeds_multiply(sweep):
    asked = sweep({"list": [{"load.seed": 9}, {"block_size": 8}], "seeds": [1, 2]})
    assert settings(asked) == [
        {"load.seed": 9, "train.seed": 1}, {"load.seed": 9, "train.seed": 2},
        {"block_size": 8, "train.seed": 1}, {"block_size": 8, "train.seed": 2},
    ]  # fmt: skip


def test_a_random_search_is_the_same_for_the_same_seed(sweep):
    spread = {
        "train.learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
        "chunk.block_size": [32, 64],
    }
    ask = {
        "random": {
            "runs": 200,
            "seed": 1,
            "parameters": {**spread, "train.weight_decay": {"low": 0, "high": 0.5}},
        }
    }
    first = settings(sweep(ask))
    assert first == settings(sweep(ask)) and first[0] != first[1]
    rates = sorted(one["train.learning_rate"] for one in first)
    assert (
        rates[0] >= 1e-5 and rates[-1] <= 1e-2 and 1e-4 < rates[100] < 1e-3
    )  # the median of a logarithmic scale
    assert {one["chunk.block_size"] for one in first} == {32, 64}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("gird: {}", "the nearest is 'grid'"),
        ("grid: {a: 1}", "grid.a is 1: it must be a non-empty list"),
        ("grid: {a: []}", "grid.a is []"),
        ("grid: {a: [1]}\nlist: [{a: 1}]", "one of grid, list or random"),
        ("{}", "has no runs"),
        ("- 1", "must be a table"),
        ("a: [", "is not valid YAML"),
        ("random: {runs: 0}", "random.runs is 0"),
        ("random: {runs: 1, seed: , parameters: {a: [1]}}", "random.seed is None"),
        ("list: [{a: 2026-13-45}]", "is not valid YAML"),
        (
            "random: {runs: 2, parameters: {a: {low: 0, high: 1, log: true}}}",
            "logarithmic scale above 0",
        ),
        ("random: {runs: 2, parameters: {a: 3}}", "random.parameters.a is 3"),
        ("list: [1]", "list is 1: it must be a table"),
        ("grid:\n  a: [1]\n  b: [1]\n  a: [2]", "Line 4 of the sweep has 'a' a second time"),
        ("set: {a: 1}\ngrid: {b: [1]}\nset: {a: 2}", "Line 3 of the sweep has 'set' a second time"),
        (
            "grid: {train.seed: [3, 4]}\nseeds: [1, 2]",
            "seeds is [1, 2], and train.seed is set to 3 too",
        ),
        ("set: {train.seed: 3}\nseeds: [1, 2]", "seeds is [1, 2], and train.seed is set to 3 too"),
        (
            "random: {runs: 9, parameters: {a: [1, 2], b: [3, 4]}}",
            "only 4 different runs were drawn",
        ),
    ],
)
def test_a_sweep_with_a_mistake_is_refused(sweep, text, part):
    with pytest.raises(UserError) as caught:
        sweep(text)
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_a_parameter_with_a_mistake_is_refused_before_anything_runs(sweep):
    with pytest.raises(UserError, match="the nearest is 'learning_rate'"):
        specs_of(sweep("grid: {train.learning_rat: [1]}"), PROJECT / "x")


@pytest.mark.parametrize(
    "text",
    [
        "grid: {train.learning_rate: [3e-4, 0.1, 0.0003]}",
        "list: [{block_size: 64}, {infer.seed: 7}, {chunk.block_size: 64}]",
        "list: [{}, {infer.seed: 7}, {}]",
    ],
)
def test_a_run_that_is_there_twice_is_refused(sweep, text):
    with pytest.raises(UserError, match="Runs 0 and 2 of the sweep are the same"):
        specs_of(sweep(text), PROJECT / "x")


def test_a_random_search_draws_no_run_twice(sweep):
    asked = sweep(
        {"random": {"runs": 4, "parameters": {"chunk.block_size": [32, 64], "infer.seed": [1, 2]}}}
    )
    assert len({str(one) for one in settings(asked)}) == 4


def test_planning_reads_no_data_and_one_run_is_planned_by_itself(sweep, tmp_path, monkeypatch):
    monkeypatch.setattr("hashlib.file_digest", None)
    sweep({"list": [{"infer.seed": number} for number in range(50)] + [{"train.learning_rat": 1}]})

    def plan(index):
        file, folder = tmp_path / "sweep.yaml", str(tmp_path / "out")
        return execute_sweep(file, folder, console, dry_run=True, index=index)

    console = Console(file=io.StringIO(), width=100)
    assert plan(49) == 0
    said = console.file.getvalue()
    assert "49" in said and "48" not in said and "1 runs in out, 6 steps to do" in said
    with pytest.raises(UserError, match="learning_rat"):
        plan(None)


@pytest.mark.parametrize("name", ["", " ", "a\0b"])
def test_a_folder_that_cannot_be_is_refused(sweep, tmp_path, name):
    sweep("grid: {infer.seed: [1]}")
    with pytest.raises(UserError, match="sweep_dir is .*: it must be the name of a folder"):
        execute_sweep(tmp_path / "sweep.yaml", name, Console(file=io.StringIO()), dry_run=True)


def test_steps_that_runs_share_are_counted_once(sweep, tmp_path):
    asked = sweep(
        {"grid": {"train.learning_rate": [1e-4, 1e-3, 1e-2], "chunk.block_size": [64, 128]}}
    )
    count, seconds = remaining_steps(specs_of(asked, tmp_path / "s"), None)
    assert count == 1 + 1 + 2 + 6 + 6 + 6 and seconds is None
    (tmp_path / "metrics.json").write_text(json.dumps({f"seconds_{step}": 10 for step in STEPS}))
    assert remaining_steps(specs_of(asked, tmp_path / "s"), tmp_path) == (22, 220)


def test_runs_of_shards_end_with_their_blocks(sweep, tmp_path):
    specs = specs_of(sweep({"grid": {"preprocess.shard": ["1/2", "2/2"]}}), tmp_path / "s")
    assert [spec.until for spec in specs] == ["chunk", "chunk"]
    assert remaining_steps(specs, None)[0] == 1 + 2 + 2


def test_a_dry_run_shows_the_runs_and_does_nothing(sweep, tmp_path):
    sweep({"grid": {"train.learning_rate": [1e-4, 1e-3]}})
    console = Console(file=io.StringIO(), width=100)
    execute_sweep(tmp_path / "sweep.yaml", str(tmp_path / "out"), console, jobs=2, dry_run=True)
    said = console.file.getvalue()
    assert (
        "0.0001" in said and "0.001" in said and "2 runs in out, 9 steps to do, 2 at once" in said
    )
    assert not (tmp_path / "out").exists()


def test_values_in_brackets_are_shown_as_they_are(sweep, tmp_path):
    from helpers.runs.cli import make_console

    sweep({"grid": {"infer.prompt": ["[INST] Hi [/INST]"]}})
    console = make_console()
    console.file = io.StringIO()
    execute_sweep(tmp_path / "sweep.yaml", str(tmp_path / "out"), console, dry_run=True)
    assert "[INST] Hi [/INST]" in console.file.getvalue()


def test_a_run_that_waits_for_another_ends_with_the_sweep(tmp_path):
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    with ThreadPoolExecutor(1) as another, pytest.raises(KeyboardInterrupt):
        held = another.submit(acquire, tmp_path, "x").result()
        try:
            with folder_lock(tmp_path, "x", True, stop):
                pass
        finally:
            held.release()


def test_an_index_beyond_the_runs_and_a_scheduler_that_is_not_there(sweep, tmp_path):
    sweep({"grid": {"train.learning_rate": [1e-4]}})
    with pytest.raises(UserError, match="index is 1: the sweep has 1 runs, choose 0 to 0"):
        console = Console(file=io.StringIO())
        execute_sweep(tmp_path / "sweep.yaml", str(tmp_path / "out"), console, index=1)


def test_the_example_is_understood():
    asked = read_sweep(PROFILES / "sweep-tiny.yaml")
    assert len(specs_of(asked, PROJECT / "x")) == len(asked.variants) == 12


def command(folder, *arguments, **how):
    """The command line in `folder`, in which `sweep.yaml` lies."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    line = [
        sys.executable,
        "-m",
        "helpers",
        "sweep",
        str(folder / "sweep.yaml"),
        "--sweep-dir",
        str(folder / "out"),
        *arguments,
    ]
    return subprocess.Popen(
        line,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **how,
    )


def done(folder, *arguments):
    process = command(folder, *arguments)
    out, error = process.communicate(timeout=900)
    return process.returncode, out, error


def results(folder):
    """The numbers of each run that do not depend on the time it took."""
    found = {}
    for path in sorted((folder / "out").glob("*/run.json")):
        metrics = json.loads(path.read_text())["metrics"]
        found[path.parent.name] = {
            k: v
            for k, v in metrics.items()
            if not k.startswith("seconds") and k not in ("train_tokens_per_second", "share_of_peak")
        }
    return found


def differences(folder, other):
    """The numbers in which the runs of two sweeps differ."""
    one, two = results(folder), results(other)
    assert one.keys() == two.keys()
    return {
        (run, name): (one[run].get(name), two[run].get(name))
        for run in one
        for name in one[run].keys() | two[run].keys()
        if one[run].get(name) != two[run].get(name)
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sweep of two runs that end well and one that fails, done in one go by two jobs."""
    folder = tmp_path_factory.mktemp("sweep")
    asked = {"set": SMALL, "list": [{"train.seed": 1}, {"train.seed": 2}, {"block_size": 99999}]}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(asked))
    return folder, *done(folder, "--jobs", "2")


def test_a_run_that_fails_does_not_stop_the_others(whole):
    folder, status, out, error = whole
    assert status == 1, error
    records = [json.loads((folder / "out" / str(i) / "run.json").read_text()) for i in range(3)]
    assert [r["status"] for r in records] == ["ok", "ok", "failed"]
    assert "✗ 2  chunk: block_size is 99999" in out and "✓ 0  perplexity" in out


def test_shared_steps_are_done_once(whole):
    records = [json.loads((whole[0] / "out" / str(i) / "run.json").read_text()) for i in range(2)]
    for step in ("load", "preprocess", "chunk"):
        assert sorted(r["steps"][step]["done"] for r in records) == ["before", "ok"]
    assert [r["steps"]["train"]["done"] for r in records] == ["ok", "ok"]


def test_the_sweep_ends_with_a_comparison(whole):
    folder, _, out, _ = whole
    assert "beside best" in out and "best" in out
    lines = (folder / "out" / "comparison.csv").read_text().splitlines()
    assert lines[0].startswith("run,train.seed,validation perplexity,test perplexity,low,")
    assert len(lines) == 3
    page = (folder / "out" / "report.html").read_text()
    assert (
        "Comparison" in page
        and not re.search(r"""(src|href)=["']?(https?:)?//|<link|@import|url\((?!#)""", page)
        and 'aria-label="Validation perplexity against' in page
    )


def test_run_again_it_has_nothing_to_do(whole):
    folder = whole[0]
    before = results(folder)
    status, _, _ = done(folder, "--jobs", "2")
    assert status == 1 and results(folder) == before
    record = json.loads((folder / "out" / "0" / "run.json").read_text())
    assert {how["done"] for how in record["steps"].values()} == {"before"}


@pytest.mark.full
def test_one_run_by_its_index_gives_the_same(whole, tmp_path):
    (tmp_path / "sweep.yaml").write_text((whole[0] / "sweep.yaml").read_text())
    status, _, error = done(tmp_path, "--index", "1")
    assert status == 0, error
    assert results(tmp_path) == {"1": results(whole[0])["1"]}


@pytest.mark.full
@pytest.mark.parametrize("number", range(10))
def test_a_sweep_that_is_killed_goes_on_with_the_same_results(whole, tmp_path, number):
    (tmp_path / "sweep.yaml").write_text((whole[0] / "sweep.yaml").read_text())
    process = command(tmp_path, "--jobs", "2", start_new_session=True)
    time.sleep(random.Random(number).uniform(3, 45))
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.kill()
    process.communicate()
    assert not psutil.wait_procs(family, timeout=10)[1]
    assert done(tmp_path, "--jobs", "2")[0] == 1  # the third run cannot end well
    assert not differences(tmp_path, whole[0])


@pytest.mark.full
def test_two_sweeps_in_one_folder_both_end_well(tmp_path):
    asked = {"set": SMALL, "list": [{"train.seed": 1}, {"train.seed": 2}]}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(asked))
    both = [command(tmp_path) for _ in range(2)]
    for process in both:
        out, error = process.communicate(timeout=900)
        assert process.returncode == 0, out + error
        assert "✓ 0" in out and "✓ 1" in out and "beside best" in out


@pytest.mark.full
def test_a_dask_cluster_that_loses_a_worker_ends_with_the_same_results(whole, tmp_path):
    from distributed import LocalCluster

    (tmp_path / "sweep.yaml").write_text((whole[0] / "sweep.yaml").read_text())
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        process = command(tmp_path, "--scheduler", cluster.scheduler_address)
        until = time.monotonic() + 120
        while not list(tmp_path.glob("out/*/.04_train.partial")):  # in the middle of a run
            assert time.monotonic() < until
            time.sleep(0.2)
        next(iter(cluster.workers.values())).process.process._process.kill()
        _, error = process.communicate(timeout=600)
    assert process.returncode == 1, error
    assert not differences(tmp_path, whole[0])
