"""Batches as large as memory allows."""

import numpy as np

from helpers.engine import memory
from helpers.scoring import token_nats
from tests.test_scoring import windows_of


def test_the_batch_follows_free_memory(small_model, monkeypatch):
    each, windows = 64 * 32, windows_of([30, 20], high=64)
    expected = token_nats(small_model, windows)
    for free, tokens in ((2**40, memory.MOST["cpu"]), (4 * each * 1000, 1000), (0, 0)):
        monkeypatch.setattr(memory, "free_memory", lambda kind, free=free: free)
        assert memory.tokens_at_once(small_model, 32, tiled=True) == tokens
    np.testing.assert_allclose(
        token_nats(small_model, windows), expected, rtol=1e-5
    )  # a window at a time


def test_free_memory_is_no_more_than_the_machine_has():
    import psutil

    assert 0 < memory.free_memory("cpu") <= psutil.virtual_memory().total
