"""The notebooks beside the six steps: what they show is right, and each trap is one."""

import math
import re

import nbformat
import pytest
import torch
from datasets import load_dataset

from helpers.hub.sources import EMBEDDED
from helpers.models import load_model
from helpers.runs.notebook import FOLDER

TRAPS = range(1, 10)


def cells_of(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells


def printed(cells):
    """All that the cells show as text."""
    outputs = [o for c in cells if c.cell_type == "code" for o in c.outputs]
    return "".join(o.get("text", "") for o in outputs)


@pytest.fixture(scope="module")
def trap():
    """What the cells of a trap print: a function of its number."""
    sections, number = {}, 0
    for cell in cells_of("appendix_traps"):
        if cell.cell_type == "code":
            sections.setdefault(number, []).append(cell)
        for heading in re.findall(
            r"^## (.*)", cell.source if cell.cell_type == "markdown" else "", re.M
        ):
            found = re.match(r"(\d+) ·", heading)
            number = int(found[1]) if found else 0
    assert set(TRAPS) <= set(sections)
    return lambda number: printed(sections[number])


def numbers(text, start):
    """The numbers in the lines that begin with a word."""
    lines = re.findall(rf"^{start}: (.*)$", text, re.M)
    found = [re.findall(r"\d[\d,]*\.?\d*|nan", line) for line in lines]
    return [[float(number.rstrip(",.").replace(",", "")) for number in line] for line in found]


@pytest.mark.parametrize("number", TRAPS)
def test_each_trap_shows_a_wrong_and_a_right_number(trap, number):
    wrong, right = numbers(trap(number), "wrong"), numbers(trap(number), "right")
    assert wrong and right and wrong != right


def test_1_the_trainers_loss_is_too_small_by_one_token_in_a_block(trap):
    [[wrong, _]], [[right, perplexity]] = numbers(trap(1), "wrong"), numbers(trap(1), "right")
    [[by_hand]] = numbers(trap(1), "by hand")
    assert wrong == pytest.approx(right * 127 / 128, abs=2e-4)
    assert right == pytest.approx(by_hand, abs=2e-4)
    assert perplexity == pytest.approx(math.exp(right), rel=1e-3)


@pytest.fixture(scope="module")
def scored(tokenizer):
    """The nats of each token but the first, in float64, of any text: an independent formula."""
    model = load_model("embedded").eval()

    def score(ids):
        ids = torch.tensor([ids])
        with torch.inference_mode():
            shares = model(ids).logits[0, :-1].double().log_softmax(-1)
        return -shares[range(ids.shape[1] - 1), ids[0, 1:]]

    return score


def texts():
    records = load_dataset("json", data_files=str(EMBEDDED["dataset"]), split="train[:40]")
    return [" ".join(answers["text"]) for answers in records["answers"]]


def test_2_the_wrong_loss_is_that_of_the_rows_that_are_left(trap, scored, tokenizer):
    [[wrong, rows]], [[right, _]] = numbers(trap(2), "wrong"), numbers(trap(2), "right")
    long = [ids for text in texts() if len(ids := tokenizer(text).input_ids) >= 128]
    left = [scored(long[i][:90]).mean().item() for i in (0, 2)]
    assert wrong == pytest.approx(sum(left) / 2, abs=1e-3) and rows == 4
    assert math.isnan(right)


def test_3_no_end_is_taught_or_every_one(trap):
    [[wrong, ends]], [[right, of]] = numbers(trap(3), "wrong"), numbers(trap(3), "right")
    assert wrong == 0 and right == ends == of == 40


def test_4_tokens_are_lost_and_documents_are_read_as_one(trap, tokenizer):
    wrong, right = numbers(trap(4), "wrong"), numbers(trap(4), "right")
    lengths = [len(tokenizer(text).input_ids) for text in texts()]
    lost = sum(sum(lengths[i : i + 10]) % 128 for i in range(0, 40, 10))
    assert wrong[0][:2] == [sum(lengths) - lost, sum(lengths)] and lost > 0
    assert right[0][:2] == [sum(lengths)] * 2
    assert wrong[1][0] > 0.1 and right[1][0] < 1e-3


def test_5_perplexity_is_a_mean_over_tokens(trap, scored, tokenizer):
    [[wrong, rows]], [[right, count]] = numbers(trap(5), "wrong"), numbers(trap(5), "right")
    paragraphs = [p for text in texts() for p in text.split("\n\n") if len(p) > 10][:80]
    nats = [scored(tokenizer(p).input_ids[:256]) for p in paragraphs]
    assert (len(nats), sum(map(len, nats))) == (rows, count)
    assert right == pytest.approx(torch.cat(nats).mean().exp().item(), rel=1e-3)
    rowwise = sum(n.mean().item() for n in nats) / rows
    assert wrong == pytest.approx(math.exp(rowwise), rel=1e-3)


def test_6_the_definition_changes_the_number(trap):
    [[narrow, wide]] = numbers(trap(6), "wrong")
    values = [line[0] for line in numbers(trap(6), "right")]
    assert values[:2] == [narrow, wide] and len(set(values)) == 3
    assert narrow > 1.05 * wide


def test_7_no_copy_of_a_test_document_is_trained_on(trap):
    [[wrong, tested]], [[right, others]] = numbers(trap(7), "wrong"), numbers(trap(7), "right")
    assert wrong > 0 and right == 0 and tested > 0 and others > 0


def test_8_steps_are_rounded_away_in_bfloat16(trap):
    wrong, right = (re.search(rf"{w}: in (\w+), ([\d.]+)%", trap(8)) for w in ("wrong", "right"))
    assert (wrong[1], right[1]) == ("bfloat16", "float32")
    assert float(wrong[2]) < 50 and float(right[2]) > 99.9


def test_9_the_best_of_many_is_too_good(trap, scored, tokenizer):
    [[wrong]], [[right, *_]] = numbers(trap(9), "wrong"), numbers(trap(9), "right")
    nats = torch.cat([scored(tokenizer(text).input_ids[:256]) for text in texts()])
    assert wrong < right == pytest.approx(nats.mean().exp().item(), abs=0.06)


def test_the_idea_computes_the_loss_of_its_sentence(scored, tokenizer):
    cells = cells_of("00_idea")
    assert len(cells) <= 25
    [parameters] = [c.source for c in cells if "parameters" in c.metadata.get("tags", [])]
    sentence = re.search(r'sentence: str = "(.*?)"', parameters)[1]
    ids = tokenizer(sentence).input_ids
    loss = scored(ids).mean().item()
    text = printed(cells)
    by_hand, library = re.search(r"by hand ([\d.]+), the library ([\d.]+)", text).groups()
    assert (
        float(by_hand) == pytest.approx(loss, abs=2e-5) == pytest.approx(float(library), abs=2e-5)
    )
    assert "equal to 1e-5: True" in text
    assert f"as unsure as with {math.exp(loss):.0f} choices, of {len(tokenizer):,}" in text
    before, after = re.search(r"before the step ([\d.]+), after it ([\d.]+)", text).groups()
    assert float(before) == pytest.approx(loss, abs=1e-3) and float(after) < float(before) - 0.5


def test_the_idea_writes_thirty_tokens(tokenizer):
    written = printed(cells_of("00_idea")[-4:])
    start = printed(cells_of("00_idea")).partition(" …")[0].split("\n")[-1]
    assert written.startswith(start)
    # encoding the text anew may join neighbours that were drawn one by one
    assert 20 <= len(tokenizer(written[len(start) : -1]).input_ids) <= 30
