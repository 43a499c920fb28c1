"""What many texts are like, against loops over their words, and each text scored by itself."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.engine.samples import continuation_windows, distinct, repeated
from helpers.models import load_model, prefix_token
from helpers.scoring import probability, token_nats

TEXTS = st.lists(st.lists(st.sampled_from("abcA"), max_size=12).map(" ".join), max_size=6)


def runs_of(text, n):
    words = text.lower().split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


@given(TEXTS, st.integers(1, 4))
def test_distinct_is_the_share_of_different_runs_in_all_texts(texts, n):
    runs = [run for text in texts for run in runs_of(text, n)]
    expected = len(set(runs)) / len(runs) if runs else math.nan
    assert distinct(texts, n) == pytest.approx(expected, nan_ok=True)


@given(TEXTS, st.integers(1, 4))
def test_repeated_is_the_mean_share_of_runs_that_a_text_had_before(texts, n):
    shares = []
    for text in texts:
        runs = runs_of(text, n)
        again = sum(run in runs[:place] for place, run in enumerate(runs))
        shares += [again / len(runs)] if runs else []
    expected = sum(shares) / len(shares) if shares else math.nan
    assert repeated(texts, n) == pytest.approx(expected, nan_ok=True)


def test_a_text_is_scored_after_its_prompt_as_by_itself(tokenizer):
    model = load_model("embedded")
    pairs = [("Bread", " rises because"), ("Water is", ""), ("The sky is", " blue. It")]
    prompts = [tokenizer(prompt).input_ids for prompt, _ in pairs]
    texts = [tokenizer(text).input_ids for _, text in pairs]
    windows = continuation_windows(prompts, texts, prefix_token(tokenizer))
    nats = token_nats(model, windows)
    assert np.count_nonzero(~np.isnan(nats)) == sum(map(len, texts))
    for (prompt, text), start, end in zip(pairs, windows.start, windows.end, strict=True):
        expected = -math.log(probability(model, tokenizer, prompt, text))
        assert nats[start:end].sum() == pytest.approx(expected, abs=1e-4)
