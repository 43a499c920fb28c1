"""The share of the arithmetic peak."""

import pytest

import helpers.engine.speed
import helpers.engine.tiled_loss
from helpers.engine.speed import peak_share
from tests.small_training import small


def test_the_share_of_the_peak(monkeypatch):
    """By the sizes of the model, counted by hand."""
    monkeypatch.setattr(
        helpers.engine.speed, "product_seconds", lambda dtype, size, device: 2 * size**3 / 1e9
    )  # a peak of 1e9
    linear = 2 * (32 * 96 + 32 * 32 + 2 * 32 * 128) + 64 * 32
    assert peak_share(small(), 100.0, 16, "float32") == pytest.approx(
        100 * (6 * linear + 12 * 2 * 32 * 16) / 1e9
    )
