"""Figures: what they show, their alternative text, and that the same data give the same picture."""

import numpy as np
import pytest
from datasets import Dataset
from matplotlib.colors import to_rgb

from helpers.display import COLOURS, axes, draw_bars, draw_blocks, draw_losses, html_picture, picture, png

HISTORY = [
    {"step": 10, "epoch": 0.5, "train_loss": 3.0},
    {"step": 20, "epoch": 1.0, "train_loss": 2.5},
    {"step": 20, "epoch": 1.0, "test_loss": 2.7},
]


def test_a_picture_carries_its_alternative_text():
    figure, _ = axes()
    data, metadata = picture(figure, "Nothing to see.")._repr_mimebundle_()
    assert data["image/png"] and metadata["image/png"]["alt"] == "Nothing to see."
    assert 'alt="Nothing to see."' in html_picture(figure, "Nothing to see.")


def test_the_same_data_give_the_same_bytes():
    first, second = (png(draw_losses(HISTORY, 3.1)) for _ in range(2))
    assert first == second and first.startswith(b"\x89PNG") and b"Software" not in first


def test_the_base_loss_is_the_first_point_of_the_test_curve():
    lines = {line.get_label(): line.get_xydata().tolist() for line in draw_losses(HISTORY, 3.1).axes[0].get_lines()}
    assert lines["test"] == [[0, 3.1], [20, 2.7]]
    assert lines["training"] == [[10, 3.0], [20, 2.5]]


@pytest.mark.parametrize("first_size", [4, 3])
def test_blocks_change_colour_where_a_document_begins(first_size):
    """A document that goes on in the next block keeps its colour; after a block that is not full, a new one begins."""
    blocks = Dataset.from_dict({"position_ids": [[0, 1, 0, 1][:first_size], [0, 1, 2, 0], [0, 1]]})
    shades = draw_blocks(blocks, 4).axes[0].images[0].get_array()
    goes_on = first_size == 4
    documents = [[0, 0, 1, 1][:first_size], [1, 1, 1, 2] if goes_on else [2, 2, 2, 3], [2, 2] if goes_on else [3, 3]]
    for row, expected in zip(shades, documents, strict=True):
        assert np.allclose(row[: len(expected)], [to_rgb(COLOURS[d]) for d in expected], atol=1e-2)
        assert np.allclose(row[len(expected) :], 1)


def test_bars_show_their_values():
    ax = draw_bars({"base": 20.0, "fine-tuned": 10.0}, "perplexity").axes[0]
    assert [bar.get_width() for bar in ax.patches] == [20.0, 10.0]
    assert {"20.0", "10.0"} <= {text.get_text() for text in ax.texts}
