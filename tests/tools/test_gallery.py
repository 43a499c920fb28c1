"""The gallery: from a complete run alone, its numbers and texts, with date and seed."""

import datetime
import json

import pytest
from markdown_it import MarkdownIt

from helpers.errors import UserError
from helpers.runs.folder import NEEDS, Run
from helpers.runs.step import start_step
from tools.gallery import TEXTS, gallery

DATE = datetime.date(2026, 11, 27)
ROWS = [
    {"model": model, "definition": definition, "perplexity": perplexity}
    for model, numbers in (("base", (54.04, 51.5)), ("fine-tuned", (35.98, 33.25)))
    for definition, perplexity in zip(("rolling", "stride"), numbers, strict=True)
]
PAIRS = [
    {"prompt": f"Why {i}?", "base": f"<b>no {i}", "fine-tuned": f"Because\n{i} * 2"}
    for i in range(TEXTS + 2)
]
FILES = {"evaluate": {"perplexity.json": ROWS}, "infer": {"pairs.json": PAIRS}}
METRICS = {
    "load": {"examples_train": 1362},
    "evaluate": {
        "tokens_rolling": 30176,
        "perplexity_ratio": 0.6658,
        "perplexity_ratio_low": 0.65,
        "perplexity_ratio_high": 0.68,
    },
}


@pytest.fixture
def run(tmp_path):
    """A run with made-up numbers."""
    for name in NEEDS:
        parameters = {"seed": 7} if name == "infer" else {}
        step = start_step(name, str(tmp_path / "run"), **parameters)
        for file, content in FILES.get(name, {}).items():
            (step.path / file).write_text(json.dumps(content))
        step.finish(**METRICS.get(name, {}))
    return Run(tmp_path / "run")


def test_it_shows_the_numbers_and_the_first_texts_of_a_run(run, monkeypatch):
    record = run.record
    monkeypatch.setattr(
        run,
        "record",
        lambda step: (
            record(step)
            | {
                "parameters": {"dataset": "embedded", "model": "smollm2", "seed": 42}
                | record(step)["parameters"]
            }
        ),
    )
    page = gallery(run, DATE)
    assert "| rolling | 54.04 | 35.98 |\n| stride | 51.50 | 33.25 |" in page
    assert "0.666 (95 % interval 0.650 to 0.680)" in page
    made = "2026-11-27 from seed 42 of the training and seed 7 of the drawing"
    assert made in " ".join(page.split())
    assert "`smollm2`" in page and "1,362 examples" in page and "30,176 tokens" in page
    shown = MarkdownIt("commonmark").enable("table").render(page)
    assert shown.count("<blockquote>") == 2 * TEXTS
    assert "&lt;b&gt;no 4" in shown and "Because 4 * 2" in shown and "Why 5?" not in shown


def test_a_run_that_is_not_complete_is_refused(tmp_path):
    with pytest.raises(UserError, match="'load' has not been done"):
        gallery(Run(tmp_path), DATE)
