"""Figures: what they show, their alternative text, and that the same data give the same picture."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset
from matplotlib.colors import to_rgb

from helpers.figures import (
    COLOURS,
    axes,
    draw_bars,
    draw_blocks,
    draw_lines,
    draw_losses,
    heat_map,
    losses_of,
    picture,
    png,
)
from helpers.runs.report import draw_points, html_picture

HISTORY = [
    {"step": 10, "epoch": 0.5, "train_loss": 3.0},
    {"step": 20, "epoch": 1.0, "train_loss": 2.5},
    {"step": 20, "epoch": 1.0, "validation_loss": 2.7},
]


def test_a_picture_carries_its_alternative_text():
    figure, _ = axes()
    data, metadata = picture(figure, "Nothing to see.")._repr_mimebundle_()
    assert data["image/png"] and metadata["image/png"]["alt"] == "Nothing to see."
    assert 'alt="Nothing to see."' in html_picture(figure, "Nothing to see.")


def test_losses_reads_a_log():
    log = [
        {"step": 10, "epoch": 0.333333333, "loss": "3.5", "grad_norm": 1.0},
        {"step": 30, "epoch": 1, "eval_loss": 2.25},
        {"step": 30, "epoch": 1, "train_runtime": 4.0, "train_loss": 3.0},
    ]
    for part in ("validation", "test"):
        assert losses_of(SimpleNamespace(log_history=log), part) == [
            {"step": 10, "epoch": 0.3333, "train_loss": 3.5},
            {"step": 30, "epoch": 1.0, f"{part}_loss": 2.25},
        ]


def test_the_same_data_give_the_same_bytes():
    first, second = (png(draw_losses(HISTORY, 3.1, "validation")) for _ in range(2))
    assert first == second and first.startswith(b"\x89PNG") and b"Software" not in first


@pytest.mark.parametrize("part", ["validation", "test"])
def test_the_base_loss_is_the_first_point_of_the_held_out_curve(part):
    history = [{k.replace("validation", part): v for k, v in e.items()} for e in HISTORY]
    lines = {
        line.get_label(): line.get_xydata().tolist()
        for line in draw_losses(history, 3.1, part).axes[0].get_lines()
    }
    assert lines[part] == [[0, 3.1], [20, 2.7]]
    assert lines["training"] == [[10, 3.0], [20, 2.5]]


@pytest.mark.parametrize("first_size", [4, 3])
def test_blocks_change_colour_where_a_document_begins(first_size):
    """A document keeps its colour in the next block, unless the block before is not full."""
    blocks = Dataset.from_dict({"position_ids": [[0, 1, 0, 1][:first_size], [0, 1, 2, 0], [0, 1]]})
    shades = draw_blocks(blocks, 4).axes[0].images[0].get_array()
    goes_on = first_size == 4
    documents = [
        [0, 0, 1, 1][:first_size],
        [1, 1, 1, 2] if goes_on else [2, 2, 2, 3],
        [2, 2] if goes_on else [3, 3],
    ]
    for row, expected in zip(shades, documents, strict=True):
        assert np.allclose(row[: len(expected)], [to_rgb(COLOURS[d]) for d in expected], atol=1e-2)
        assert np.allclose(row[len(expected) :], 1)


def test_bars_show_their_values():
    ax = draw_bars({"base": 20.0, "fine-tuned": 10.0}, "perplexity").axes[0]
    assert [bar.get_width() for bar in ax.patches] == [20.0, 10.0]
    assert {"20.0", "10.0"} <= {text.get_text() for text in ax.texts}


def test_bars_show_their_intervals():
    ax = draw_bars(
        {"base": 20.0, "fine-tuned": 10.0},
        "perplexity",
        {"base": (18.0, 23.0), "fine-tuned": (9.0, 12.0)},
    ).axes[0]
    [whiskers] = [c for c in ax.collections]
    assert [segment[:, 0].tolist() for segment in whiskers.get_segments()] == [
        [18.0, 23.0],
        [9.0, 12.0],
    ]


def test_lines_have_names_and_places():
    ax = draw_lines(
        {"base": ([1, 2, 4], [3.0, 2.0, 1.0]), "tuned": ([1, 2, 4], [2.0, 1.0, 0.5])}, "x", "y"
    ).axes[0]
    assert [line.get_xydata().tolist() for line in ax.get_lines()] == [
        [[1, 3], [2, 2], [4, 1]],
        [[1, 2], [2, 1], [4, 0.5]],
    ]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["base", "tuned"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "2", "4"]


@pytest.mark.parametrize(
    ("x", "ticks"),
    [
        ([3e-4, 1e-3, 3e-3], ["0.0003", "0.001", "0.003"]),  # the numbers that were tried
        ([64, 66, 128], ["64", "128"]),  # those that would run into each other are left out
    ],
)
def test_points_are_named_by_their_values(x, ticks):
    ax = draw_points(x, [1.0, 2.0, 3.0], "x", "y").axes[0]
    assert ax.get_xscale() == "log" and [t.get_text() for t in ax.get_xticklabels()] == ticks
    assert draw_points([0, 1, 2], [1.0, 2.0, 3.0], "x", "y").axes[0].get_xscale() == "linear"


def test_a_heat_map_adds_up_the_nats_of_a_word():
    """Tokens: "Un", "believ", "able", " <b>", "\n", "x"; the line break belongs to the word that
    follows.
    """
    text, offsets = "Unbelievable <b>\nx", [(0, 2), (2, 8), (8, 12), (12, 16), (16, 17), (17, 18)]
    page = heat_map(
        text, offsets, {"base": np.array([1.0, 2, 3, 4, 5, 6]), "tuned": np.zeros(6)}
    ).data
    words = re.findall(r'<span title="([0-9.]+) nats" style="([^"]*)">([^<]*)</span>', page)
    assert [(word, nats) for nats, _, word in words[:3]] == [
        ("Unbelievable", "6.0"),
        ("&lt;b&gt;", "4.0"),
        ("x", "11.0"),
    ]
    assert all(nats == "0.0" and "rgb(255,255,255)" in style for nats, style, _ in words[3:])
    assert page.index("base") < page.index("tuned") and "<script" not in page


def test_letters_can_be_read_on_every_ground():
    """WCAG's contrast of the letters with their ground, for words of every surprise."""

    def luminance(colour):
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)
        ]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for nats in np.linspace(0, 30, 61):
        style = re.search(
            r'style="background:rgb\((\d+),(\d+),(\d+)\);color:(#\w+)"',
            heat_map("a", [(0, 1)], {"m": [nats]}).data,
        )
        ground = luminance([int(c) / 255 for c in style.groups()[:3]])
        light, dark = sorted((ground, luminance(style[4])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, nats
