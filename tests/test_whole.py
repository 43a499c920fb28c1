"""The whole: one command runs the six notebooks, a second time it has nothing to do, and one change
does only what follows from it.
"""

import json
import re
import subprocess
import sys

import pytest

from helpers.runs.notebook import PROJECT
from helpers.runs.parameters import STEPS, folder_of

METRICS = {
    "perplexity_base", "perplexity_finetuned", "bits_per_byte_base", "bits_per_byte_finetuned",
    "tokens_in", "tokens_kept", "tokens_dropped", "blocks_train",
    "blocks_validation", "blocks_test", "perplexity_validation",
    "train_tokens_per_second", "device", "dtype",
    *(f"seconds_{step}" for step in STEPS),
}  # fmt: skip
PARTS = ("train", "validation", "test")
SMALL = ["-p", "train.num_train_epochs=0.2", "-p", "infer.max_new_tokens=20"]


def command(folder, *options):
    return subprocess.run(
        [sys.executable, "-m", "helpers", "run", "--run-dir", str(folder), *options],
        cwd=PROJECT, capture_output=True, text=True, timeout=900,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = command(folder, *SMALL)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_every_step_leaves_its_artifact_record_and_notebook(whole):
    folder, _ = whole
    for step in STEPS:
        assert {"step.json", f"{folder_of(step)}.ipynb"} < {
            p.name for p in (folder / folder_of(step)).iterdir()
        }
    assert not list(folder.glob("*.failed.ipynb")) and sorted(
        p.name for p in folder.glob(".*")
    ) == [".locks"]


def test_the_metrics_are_there_and_fine_tuning_helps(whole):
    metrics = json.loads((whole[0] / "metrics.json").read_text())
    assert metrics.keys() >= METRICS
    assert metrics["perplexity_finetuned"] < metrics["perplexity_base"]
    assert metrics["perplexity_ratio_high"] < 1
    assert metrics["tokens_in"] == metrics["tokens_kept"] + metrics["tokens_dropped"]


def test_the_summary_says_what_the_metrics_say(whole):
    folder, out = whole
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (
        f"{metrics['perplexity_base']:.2f}" in out
        and f"{metrics['perplexity_finetuned']:.2f}" in out
    )
    assert "report.html" in out and f"{metrics['tokens_in']:,} in" in out


def test_the_report_is_one_page_that_needs_nothing_from_elsewhere(whole):
    page = (whole[0] / "report.html").read_text()
    assert not re.search(r"""(src|href)=["']?(https?:)?//|<link|@import|url\((?!#)""", page)
    assert all("alt=" in tag for tag in re.findall(r"<img[^>]*>", page)) and 'role="img"' in page
    links = re.findall(r'<a href="([^"]+)"', page)
    assert links and all((whole[0] / target).exists() for target in links)
    marks = re.findall(r'href="#([^"]+)"', page)  # parts of a picture that are drawn several times
    assert all(f'id="{mark}"' in page for mark in marks)


def test_nothing_in_the_run_names_the_folder_it_lies_in(whole):
    folder, _ = whole
    absolute = re.compile(
        "|".join(rf"(?<!\.\.){re.escape(str(place))}" for place in (folder, PROJECT)).encode()
    )
    for path in folder.rglob("*"):
        if path.is_file():
            assert not absolute.search(path.read_bytes()), path


def test_a_second_run_has_nothing_to_do(whole):
    done = command(whole[0], *SMALL)
    assert done.returncode == 0 and done.stdout.count("done already") == len(STEPS)


def test_a_changed_parameter_does_its_step_and_those_after_it(whole):
    done = command(whole[0], *SMALL, "-p", "infer.seed=3")
    assert done.returncode == 0 and done.stdout.count("done already") == len(STEPS) - 1


@pytest.mark.full
def test_real_text_goes_through_all_six_steps(tmp_path, real_text):
    done = command(
        tmp_path / "run", "-p", f"load.dataset={real_text}", "-p", "train.num_train_epochs=1"
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert sum(metrics[f"examples_{part}"] for part in PARTS) == 2375
    assert metrics["perplexity_ratio_high"] < 1
