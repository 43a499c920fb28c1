"""Figures: what they show, their alternative text, and that the same data give the same picture."""

import base64
import re
import subprocess
import sys
from types import SimpleNamespace
from xml.dom import minidom

import numpy as np
import pytest
from bs4 import BeautifulSoup
from datasets import Dataset
from matplotlib.colors import to_rgb

from helpers.engine.svg import MIDDLE, svg
from helpers.figures import (
    COLOURS,
    GREY,
    axes,
    block_boxes,
    draw_attention,
    draw_bars,
    draw_flow,
    draw_histogram,
    draw_likeliest,
    draw_lines,
    draw_losses,
    draw_sentence,
    heat_map,
    losses_of,
    picture,
    token_boxes,
)
from tests import PROJECT

HISTORY = [
    {"step": 10, "epoch": 0.5, "train_loss": 3.0},
    {"step": 20, "epoch": 1.0, "train_loss": 2.5},
    {"step": 20, "epoch": 1.0, "validation_loss": 2.7},
]


def test_a_picture_carries_its_alternative_text():
    figure, _ = axes()
    page = BeautifulSoup(picture(figure, 'A "picture" of <nothing>.').data, "html.parser")
    assert page.svg["role"] == "img"
    assert page.svg["aria-label"] == page.img["alt"] == 'A "picture" of <nothing>.'


def test_a_picture_has_the_colours_of_the_page_and_no_ground():
    """Text and lines have the page's colour; a grey image stands in where SVG is not shown."""
    page = BeautifulSoup(picture(draw_losses(HISTORY, 3.1), "Losses.").data, "html.parser")
    colours = set(re.findall(r"(?:fill|stroke): (#\w+|\w+)", str(page.svg)))
    assert "currentColor" in colours
    assert {c.lower() for c in colours} - {c.lower() for c in (*COLOURS, GREY)} == {
        "currentcolor",
        "none",
    }
    still = base64.b64decode(page.img["src"].partition("base64,")[2]).decode()
    assert still == str(svg(draw_losses(HISTORY, 3.1), "Losses.")).replace("currentColor", MIDDLE)
    assert minidom.parseString(still).documentElement.tagName == "svg"
    assert page.div["style"] == "display:none" and "display:block!important" in page.style.text
    assert "mathjax_ignore" in page.div["class"]


def contrast(one, other):
    """WCAG's contrast of two colours, each as (red, green, blue) from 0 to 1."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("page", ["#ffffff", "#111111"])
def test_colours_stand_out_on_both_pages(page):
    """At least 3, which WCAG 2 wants of graphics; the grey of small text comes near 4.5 on both."""
    for colour in (*COLOURS, GREY):
        assert contrast(to_rgb(colour), to_rgb(page)) >= 3, colour
    assert contrast(to_rgb(MIDDLE), to_rgb(page)) >= 4.2


def test_an_svg_is_small_and_refers_to_what_it_holds():
    drawing = svg(draw_losses(HISTORY, 3.1), "Losses.")
    used = set(re.findall(r"(?:href=\"#|url\(#)(\w+)", drawing))
    assert used and used == set(re.findall(r' id="(\w+)"', drawing))
    assert len(drawing) < 10_000 and "\n" not in drawing and "<style" not in drawing


def test_digits_of_places_are_shortened_and_those_of_texts_are_not():
    figure, ax = axes()
    ax.set_xticks([0.00031], ["0.00031"])
    drawing = svg(figure, "")
    assert ">0.00031<" in drawing and not re.search(r'="[^"]*\d\.\d{3}', drawing)


def test_dollars_and_signs_without_a_glyph_are_shown_as_they_are(recwarn):
    tokens = ["$a", " b$", "\n", "&", "🌤"]
    drawing = svg(draw_likeliest(tokens, {"p": [0.5, 0.2, 0.1, 0.1, 0.1]}), "")
    assert all(f">{text}<" in drawing for text in ("$a", "␣b$", "⏎", "&amp;", "🌤"))
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


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


def test_the_same_data_give_the_same_text():
    """In another process too, and with other settings of matplotlib."""
    first, second = (svg(draw_losses(HISTORY, 3.1), "Losses.") for _ in range(2))
    code = (
        "from helpers.engine.svg import svg; from helpers.figures import draw_losses; "
        f"print(svg(draw_losses({HISTORY!r}, 3.1), 'Losses.'), end='')"
    )
    command = [sys.executable, "-c", code]
    other = subprocess.run(command, cwd=PROJECT, capture_output=True, encoding="utf-8", check=True)
    assert first == second == other.stdout


def test_the_lowest_loss_is_the_best_epoch():
    history = [{"step": 10, "epoch": 1.0, "train_loss": 3.0}]
    history += [
        {"step": step, "epoch": step / 10, "validation_loss": loss}
        for step, loss in ((10, 2.9), (20, 2.5), (30, 2.6))
    ]
    ax = draw_losses(history, 2.0).axes[0]
    [note] = [text for text in ax.texts if text.get_text() == "best epoch"]
    assert note.xy[0] == 20
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["training", "validation"]


@pytest.mark.parametrize("part", ["validation", "test"])
def test_the_base_loss_is_the_first_point_of_the_held_out_curve(part):
    history = [{k.replace("validation", part): v for k, v in e.items()} for e in HISTORY]
    lines = {
        line.get_label(): line.get_xydata().tolist()
        for line in draw_losses(history, 3.1).axes[0].get_lines()
    }
    assert lines[part] == [[0, 3.1], [20, 2.7]]
    assert lines["training"] == [[10, 3.0], [20, 2.5]]


def boxes_of(page):
    """The rows of a picture of tokens: names, texts and the numbers of their colours."""
    names, rows = (BeautifulSoup(page.data, "html.parser").find_all(tag) for tag in ("b", "div"))
    return {
        name.text: [
            (box.span.text, COLOURS.index(re.search("solid (#......)", str(box))[1]))
            for box in row.find_all("span", recursive=False)
        ]
        for name, row in zip(names, rows, strict=True)
    }


def test_blocks_change_colour_where_a_document_begins(tokenizer):
    """What the end of a block cuts keeps its colour in the next one."""
    ids = tokenizer(" the of and").input_ids
    end, (the, of, and_) = tokenizer.eos_token_id, ids
    blocks = Dataset.from_dict(
        {
            "input_ids": [[the, end, of, and_], [the, end], [of, end]],
            "position_ids": [[0, 1, 0, 1], [0, 1], [0, 1]],
        }
    )
    rows = boxes_of(block_boxes(blocks, tokenizer))
    assert [text for text, _ in rows["block 1"]] == ["␣the", "<|endoftext|>", "␣of", "␣and"]
    colours = [[colour for _, colour in row] for row in rows.values()]
    assert colours == [[0, 0, 1, 1], [1, 1], [2, 2]]


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
    assert [line.get_linestyle() for line in ax.get_lines()] == ["-", "--"]  # both are seen
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["base", "tuned"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "2", "4"]


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
    assert all(nats == "0.0" and "rgba(0,114,178,0.00)" in style for nats, style, _ in words[3:])
    assert page.index("base") < page.index("tuned") and "<script" not in page


@pytest.mark.parametrize(("page", "letters"), [("#ffffff", "#000000"), ("#111111", "#ffffff")])
def test_words_of_a_heat_map_can_be_read_on_both_pages(page, letters):
    """Letters of the page's colour, for every word from no surprise to more than any."""
    for nats in np.linspace(0, 30, 61):
        style = heat_map("a", [(0, 1)], {"m": [nats]}).data
        *blue, share = map(float, re.search(r"rgba\((\d+),(\d+),(\d+),([\d.]+)\)", style).groups())
        ground = [
            share * b / 255 + (1 - share) * p for b, p in zip(blue, to_rgb(page), strict=True)
        ]
        assert contrast(ground, to_rgb(letters)) >= 4.5, nats


def test_boxes_show_tokens_with_labels_and_one_colour_for_a_group():
    page = BeautifulSoup(token_boxes(["a", " <b>", "\n"], [7, 8, 9], [0, 0, 1]).data, "html.parser")
    boxes = [
        [part.text for part in box.find_all(["span", "small"])]
        for box in page.div.find_all("span", recursive=False)
    ]
    assert boxes == [["a", "7"], ["␣<b>", "8"], ["⏎", "9"]]
    assert re.findall("solid (#......)", str(page)) == [COLOURS[0], COLOURS[0], COLOURS[1]]


def test_likeliest_tokens_have_bars_side_by_side_from_the_top():
    ax = draw_likeliest(["a", "b"], {"before": [0.5, 0.25], "after": [0.1, 0.2]}).axes[0]
    places = [(bar.get_width(), bar.get_y() + bar.get_height() / 2) for bar in ax.patches]
    assert places == [
        (0.5, pytest.approx(-0.2)),
        (0.25, pytest.approx(0.8)),
        (0.1, pytest.approx(0.2)),
        (0.2, pytest.approx(1.2)),
    ]
    assert ax.yaxis_inverted() and [t.get_text() for t in ax.texts] == [
        "50.0%",
        "25.0%",
        "10.0%",
        "20.0%",
    ]


def test_bars_over_a_sentence_name_their_mean():
    figure = draw_sentence(["a", " b"], {"before": [1.0, 3.0], "after": [0.5, 1.0]}, "nats")
    [legend] = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["before, mean 2.00", "after, mean 0.75"]
    assert [line.get_ydata()[0] for line in figure.axes[0].get_lines()] == [2.0, 0.75]
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["a", "␣b"]


def test_a_histogram_shows_an_interval_and_marks():
    ax = draw_histogram([1.0, 2.0, 2.0, 9.0], "x", "y", {"block_size": 4}, (1.5, 5.0)).axes[0]
    assert sum(bar.get_height() for bar in ax.patches[:40]) == 4
    span = ax.patches[40]
    assert (span.get_x(), span.get_width()) == (1.5, 3.5)
    assert [(t.get_text(), t.xy[0]) for t in ax.texts] == [("block_size", 4)]
    assert [line.get_xdata()[0] for line in ax.get_lines()] == [4]


def test_attention_is_stronger_where_there_is_more_weight():
    weights = np.array([[1.0, 0.0], [0.25, 0.75]])
    ax = draw_attention(weights, ["a", "b"]).axes[0]
    assert np.allclose(ax.images[0].get_array()[..., 3] ** 2, weights)


def test_a_flow_has_an_arrow_between_neighbours():
    ax = draw_flow({"one": "first", "two": "second", "three": "third"}).axes[0]
    texts = [text.get_text() for text in ax.texts]
    assert [t for t in texts if t] == ["one", "first", "two", "second", "three", "third"]
    arrows = [text for text in ax.texts if text.get_text() == ""]
    assert [(arrow.get_position()[1], arrow.xy[1]) for arrow in arrows] == [(0, 1), (1, 2)]
