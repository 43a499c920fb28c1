"""Fixtures of all tests: few threads, small models, real text where it lies beside the project."""

import os
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests import PROJECT, REAL_TEXT

torch.set_num_threads(1)  # for models so small, a second thread costs more than it gains

# In the background of a script Ctrl-C is ignored, under nohup SIGHUP too, and child processes
# inherit that. The tests of interruptions must not depend on how the tests were started.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

quiet = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
}
settings.register_profile("quick", max_examples=60, derandomize=True, **quiet)
settings.register_profile("full", max_examples=1000, **quiet)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture
def real_text() -> Path:
    """2,375 real questions and answers, where they are to be had."""
    if not REAL_TEXT.exists():
        pytest.skip(f"real text is not there: {os.path.relpath(REAL_TEXT, PROJECT)}")
    return REAL_TEXT


@pytest.fixture(scope="session")
def tokenizer():
    """The embedded tokenizer."""
    from helpers.models import load_tokenizer

    return load_tokenizer("embedded")


@pytest.fixture
def small_model():
    """The small GPT-2 as transformers makes it, with dropout and no type of loss, in eval mode."""
    from tests.small_models import small

    return small(dropout=0.1, loss_type=None).eval()


@pytest.fixture
def saved(small_model, tmp_path):
    """The small model, stored in bfloat16."""
    small_model.to(torch.bfloat16).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def whole(saved):
    """The small model with a tokenizer of three words."""
    from tests.small_models import word_level

    word_level(eos_token="[UNK]").save_pretrained(saved)
    return saved


@pytest.fixture
def datasets_cache(tmp_path, monkeypatch):
    """A cache of the library datasets that is this test's alone."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
