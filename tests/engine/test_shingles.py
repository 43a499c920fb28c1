"""Shingles of many documents at once, against a loop over the words of each."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from helpers.engine.duplicates import first_of_group
from helpers.engine.shingles import shingles_of, words_of

DOCUMENTS = st.lists(st.lists(st.sampled_from("abcd"), max_size=12).map(" ".join), max_size=8)


@given(DOCUMENTS, st.integers(1, 5))
def test_two_runs_of_words_are_equal_if_their_hashes_are(documents, width):
    words, lengths = words_of(documents, r"\w+")
    starts, owner, value = shingles_of(words, lengths, width)
    expected = []
    for number, document in enumerate(documents):
        split, begin = document.split(), int(lengths[:number].sum())
        for i in range(max(len(split) - width, 0) + 1 if split else 0):
            expected.append((begin + i, number, tuple(split[i : i + width])))
    assert list(zip(starts, owner, strict=True)) == [(s, n) for s, n, _ in expected]
    runs = {}
    for (_, _, run), found in zip(expected, value.tolist(), strict=True):
        assert runs.setdefault(run, found) == found
    assert len(set(runs.values())) == len(runs)


def test_a_group_is_known_by_its_first_document():
    group = np.array([0, 0, 1, 3, 2])
    assert first_of_group(group, np.arange(5)).tolist() == [0, 0, 0, 3, 0]
