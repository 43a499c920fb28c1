"""The quiz: its form, and every number in it, from the committed notebooks or by computing it."""

import math
import re
from collections import Counter

import nbformat
import pytest

from tests import PROJECT
from tests.pages import long_lines, long_sentences, missing_links, page

QUIZ = page("workshop/quiz.md")
QUESTIONS = {
    int(number): (question, dict(re.findall(r"^- \*\*([a-d])\*\* (.+)$", options, re.M)))
    for number, question, options in re.findall(r"^### (\d+)\. (.+)\n\n((?:- .+\n)+)", QUIZ, re.M)
}
KEY = {
    int(number): letter for number, letter in re.findall(r"^\| (\d+) \| ([a-d]) \| .+", QUIZ, re.M)
}


def printed(number):
    """All that a committed notebook shows as text."""
    (path,) = (PROJECT / "notebooks").glob(f"{number}_*.ipynb")
    cells = nbformat.read(path, as_version=4).cells
    return "\n".join(o.get("text", "") for c in cells if c.cell_type == "code" for o in c.outputs)


def shown(number, pattern):
    """What a pattern finds in a notebook's outputs, as numbers."""
    found = re.search(pattern, printed(number))
    assert found, f"{pattern} is not in the outputs of notebook {number}"
    return [float(value.replace(",", "")) for value in found.groups()]


def options(number):
    """The numbers at the start of a question's options: the right one, then the wrong ones."""
    letters = [KEY[number], *sorted({*"abcd"} - {KEY[number]})]
    texts = (QUESTIONS[number][1][letter] for letter in letters)
    return [float(re.match(r"[\d.,]+", text)[0].rstrip(".").replace(",", "")) for text in texts]


def test_there_are_twenty_with_four_answers_and_a_key():
    assert list(QUESTIONS) == list(KEY) == list(range(1, 21))
    assert all(list(answers) == [*"abcd"] for _, answers in QUESTIONS.values())
    assert all(len(set(answers.values())) == 4 for _, answers in QUESTIONS.values())
    assert all(3 <= times <= 7 for times in Counter(KEY.values()).values())


def test_the_right_answer_is_not_always_the_longest():
    longest = [max(answers, key=lambda x: len(answers[x])) for _, answers in QUESTIONS.values()]
    assert sum(a == b for a, b in zip(longest, KEY.values(), strict=True)) <= 10


def test_the_sentence():
    places, vocabulary = shown("00", r"(\d+) places, ([\d,]+) logits")
    assert f"{places:g} tokens" in QUESTIONS[1][0]
    assert options(1) == [places - 1, places, 1, vocabulary]
    choices = shown("00", r"with (\d+) choices")[0]
    assert f"perplexity is {choices:g}" in QUESTIONS[4][0]
    assert f"{vocabulary:,.0f}" in QUIZ.split("## Key")[1]
    before, after = shown("00", r"before the step ([\d.]+), after it ([\d.]+)")
    assert f"from {before:.3f} to {after:.3f}" in QUESTIONS[5][0]
    assert 1.9 < before / after < 2.3  # "about twice"


def test_the_data():
    torn, fairly = shown("01", r"'train_test_split': (\d+), 'split_fairly': (\d+)")
    assert f"in {torn:g} of 20 random" in QUESTIONS[7][0]
    assert fairly == 0
    pieces = re.search(r"such as \[(.+)\]", printed("02"))[1].split(", ")
    assert "".join(piece.strip("'") for piece in pieces) == "photosynthesis"
    assert options(8) == [len(pieces), 1, 5, len("photosynthesis")]


def test_bytes_per_token():
    (ratio,) = shown("02", r"([\d.]+) bytes per token")
    assert f"{ratio:g} bytes" in QUESTIONS[9][0]
    size = 82_000
    right, multiplied, same, _ = options(9)
    assert right == pytest.approx(size / ratio, rel=0.02)
    assert multiplied == pytest.approx(size * ratio, rel=0.02)
    assert same == size


def test_blocks():
    documents, tokens = (shown("03", rf"{row} +([\d,]+)")[0] for row in ("documents", "tokens_in"))
    blocks = shown("03", r"\nblocks +([\d,]+)")[0]
    assert f"{documents:g} documents of {tokens:,.0f} tokens" in QUESTIONS[10][0]
    own = [
        math.floor(tokens / 256),
        math.ceil(tokens / 256),
        math.floor((tokens + documents) / 256),
    ]
    assert options(10) == [blocks, *own]
    assert math.ceil((tokens + documents) / 256) == blocks


def test_surprise_and_loss():
    assert options(2) == pytest.approx([-math.log(0.25), 0.25, 0.75, 2], abs=0.005)
    surprises = [-math.log(0.5), -math.log(0.125)]
    mean = sum(surprises) / 2
    wrong = [-math.log((0.5 + 0.125) / 2), sum(surprises), (0.5 + 0.125) / 2]
    assert options(3) == pytest.approx([mean, *wrong], abs=0.005)


def test_perplexity_of_two_documents():
    means = (60 / 20, 5 / 5)
    wrong = [sum(map(math.exp, means)) / 2, math.exp(sum(means) / 2), 65 / 25]
    assert options(16) == pytest.approx([math.exp(65 / 25), *wrong], abs=0.005)


def test_the_interval_is_that_of_the_front_page():
    """The front page's figures are compared with notebook 05 by a test of their own."""
    stated = re.search(
        r"perplexity × (\S+), with a\s95 % interval of (\S+) to ([\d.]+)", page("README.md")
    )
    assert "times {}, with an interval from {} to {}".format(*stated.groups()) in QUESTIONS[17][0]
    assert f"{1 - float(stated[1]):.0%}".replace("%", " %") in QUESTIONS[17][1]["d"]


def test_temperature_and_top_p():
    softened = 0.8**2 / (0.8**2 + 0.2**2)
    hotter = 0.8**0.5 / (0.8**0.5 + 0.2**0.5)
    assert options(19) == pytest.approx([softened, 0.8 * 0.5, hotter, 1], abs=0.005)
    wrong = [0.5 / 0.75, 0.5, 0.5 / 0.8]  # too few tokens, no new sum, divided by p itself
    assert options(20) == pytest.approx([0.5 / 0.9, *wrong], abs=0.0051)


def test_lines_and_sentences_are_short_and_links_are_there():
    assert long_lines(QUIZ) == []
    assert long_sentences(QUIZ) == []
    assert missing_links("workshop/quiz.md") == []
