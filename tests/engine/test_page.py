"""The pages that are moved by hand: what their scripts compute, and that the HTML holds."""

import json
import re
import shutil
import subprocess
from itertools import product

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.path import Path
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from helpers.engine.page import PAGES, few_numbers, page, source, still_part
from tests.test_figures import contrast

NAMES = sorted(path.name[:-3] for path in PAGES.iterdir() if path.name.endswith(".js"))


def run_script(name: str, expression: str, data: object) -> object:
    """The value of an expression after a page's script; `data` is what it was given."""
    if not (node := shutil.which("node")):
        pytest.skip("node is not there to run the scripts of the pages")
    code = f"{source(name, 'js')}\nconst data = {json.dumps(data)};\n"
    code += f"console.log(JSON.stringify({expression}));"
    done = subprocess.run([node, "-"], input=code, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def by_transformers(logits, temperature, top_k, top_p, min_p):
    """What `generate` draws from, greatest first, without the tokens that it cuts off."""
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    if min_p:
        warpers.append(MinPLogitsWarper(min_p))
    shares = warpers(
        torch.zeros(1, 1, dtype=torch.long), torch.tensor(logits, dtype=torch.float64)[None]
    )
    shares = shares[0].softmax(-1).sort(descending=True).values
    return shares[shares > 0].tolist()


SETTINGS = [
    {"temperature": t, "top_k": k, "top_p": p, "min_p": m}
    for t in (0.3, 1.0, 1.7)
    for k in (0, 1, 7, 50)
    for p in (0.01, 0.5, 0.95, 1.0)
    for m in (0.0, 0.02, 0.3)
]


def test_the_script_draws_from_what_generate_draws_from():
    logits = np.sort(np.random.default_rng(4).normal(0, 3, 400))[::-1].tolist()
    logits[6:9] = [logits[7]] * 3  # equal ones at the border of top_k
    computed = run_script(
        "next_token", "data[1].map((s) => drawnFrom(data[0], s))", [logits, SETTINGS]
    )
    for setting, shares in zip(SETTINGS, computed, strict=True):
        expected = by_transformers(logits, **setting)
        assert len(shares) == len(expected), setting
        assert shares == pytest.approx(expected, rel=1e-9), setting


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.5])
def test_a_large_vocabulary_in_few_numbers_gives_nearly_the_same(temperature):
    logits = np.random.default_rng(5).normal(-8, 2.5, 50_000)
    few = few_numbers(logits)
    assert len(json.dumps(few)) < 4_000
    setting = {"temperature": temperature, "top_k": 0, "top_p": 0.9, "min_p": 0.0}
    given = [few, setting]
    shares = run_script("next_token", "drawnFrom(allLogits(data[0]), data[1])", given)
    expected = by_transformers(logits, **setting)
    assert len(shares) == pytest.approx(len(expected), rel=0.03)
    assert shares[:200] == pytest.approx(expected[:200], rel=2e-3)


def test_the_mask_of_a_block_is_a_staircase_for_each_document():
    rows = [[40, 3, 0, 0, 43, 1, 1, 1, 44, 4, 2, 1], [7, 5, 0, 0]]
    drawn = run_script("blocks", "data.map((row) => maskPath(partsOf(row)))", rows)
    for row, path in zip(rows, drawn, strict=True):
        document = np.repeat(np.arange(len(row[1::4])), row[1::4])
        mask = (document[:, None] == document) & np.tri(len(document), dtype=bool)
        np.testing.assert_array_equal(painted(path, len(document)), mask)


def painted(path: str, size: int) -> np.ndarray:
    """Which squares of a board lie in a drawn path of absolute M and H and of steps h1v1."""
    inside = np.zeros((size, size), bool)
    for x, y, steps, back in re.findall(r"M(\d+) (\d+)((?:h1v1)*)H(\d+)z", path):
        corners = [(int(x), int(y))]
        for _ in range(steps.count("h1v1")):
            (across, down) = corners[-1]
            corners += [(across + 1, down), (across + 1, down + 1)]
        corners.append((int(back), corners[-1][1]))
        centres = [(j + 0.5, i + 0.5) for i in range(size) for j in range(size)]
        inside |= Path(corners).contains_points(centres).reshape(size, size)
    return inside


def test_keys_go_by_token_and_by_word():
    tokens = ["Wa", "ter", " boils", " at", "\n", "so", "on"]
    keys = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End", "a"]
    found = run_script(
        "documents", "data[1].map((key) => nextToken(key, 3, data[0]) ?? null)", [tokens, keys]
    )
    assert found == [2, 4, 2, 4, 0, 6, None]
    ends = run_script("documents", "[nextToken('ArrowDown', 4, data) ?? null]", tokens)
    assert ends == [None]


def test_a_colour_gets_no_stronger_than_can_be_read():
    shades = run_script("documents", "data.map((nats) => Number(shade(nats, 10)))", [0, -5, 10, 30])
    assert shades == [0, 0.4, 0.8, 0.8]


def test_tokens_can_be_read_on_the_strongest_colour_in_light_and_in_dark():
    colours = re.findall(r"rgb\((\d+) (\d+) (\d+) / var\(--share\)\)", source("documents", "css"))
    assert len(colours) == 2
    for colour, (page_, letters) in product(colours, [("#ffffff", "#000000"), ("#111111", "#fff")]):
        mixed = zip(map(int, colour), to_rgb(page_), strict=True)
        ground = [0.8 * c / 255 + 0.2 * p for c, p in mixed]
        assert contrast(ground, to_rgb(letters)) >= 4.5, colour


def test_few_numbers_counts_every_token_once():
    few = few_numbers(np.random.default_rng(6).normal(0, 1, 1234))
    assert len(few["logits"]) + sum(count for _, count in few["rest"]) == 1234
    values = few["logits"] + [value for value, _ in few["rest"]]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "common"])
def test_a_page_cannot_be_ended_by_what_it_shows(name):
    text = page(name, {"prompt": "</script><b>$x$"}, "<p>still</p>")
    assert text.count("</script>") == 2 and "mathjax_ignore" in text
    shown = text.split('<script type="application/json">')[1].split("</script>")[0]
    assert json.loads(shown) == {"prompt": "</script><b>$x$"}
    assert "function show(root, data)" in text and still_part(text) == "<p>still</p>"
    assert still_part("<b>no page</b>") == "<b>no page</b>"
