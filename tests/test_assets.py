"""The embedded data set and base model: their cards are right, and there is much to learn."""

import importlib
import json
import re
from collections import Counter

import pytest

from helpers.data import load_examples, texts
from helpers.hub.sources import EMBEDDED
from helpers.models import load_model, prefix_token
from helpers.perplexity import score_documents
from helpers.splitting import split_fairly

CATEGORIES = [
    "Biology",
    "Chemistry",
    "Culture",
    "Economics",
    "Engineering",
    "Mathematics",
    "Other",
    "Physics",
    "Psychology",
    "Repost",
    "Technology",
    "Earth Science",
]
COLUMNS = [
    "q_id",
    "category",
    "title",
    "title_urls",
    "selftext",
    "selftext_urls",
    "subreddit",
    "answers",
]


@pytest.fixture(scope="module")
def records():
    return load_examples("embedded", "train").to_list()


@pytest.fixture(scope="module")
def answers(records):
    return [answer for record in records for answer in record["answers"]["text"]]


def words(text):
    return re.findall(r"[\w'’]+", text.lower())


def test_schema(records):
    for record in records:
        assert list(record) == COLUMNS
        lists = [record["answers"][key] for key in ("a_id", "text", "text_urls", "score")]
        assert len({len(values) for values in lists}) == 1 and len(lists[0]) >= 1
        assert (
            not record["title_urls"]["url"]
            and not record["selftext_urls"]["url"]
            and not any(lists[2])
        )
        assert record["title"].strip() and all(text.strip() for text in lists[1])
    assert (
        len({r["q_id"] for r in records})
        == len({r["title"].lower() for r in records})
        == len(records)
    )


def test_the_card_states_the_counts(records, answers):
    card = (EMBEDDED["dataset"].parent / "README.md").read_text()
    assert (
        f"{len(records)} questions with {len(answers)} answers "
        f"({sum(len(a.split()) for a in answers):,} words)" in card
    )


def test_every_category_is_there(records):
    counts = Counter(record["category"] for record in records)
    assert counts.keys() == set(CATEGORIES) and min(counts.values()) >= 20


def test_no_two_answers_share_a_run_of_twelve_words(answers):
    owner = {}
    for number, answer in enumerate(answers):
        tokens = words(answer)
        for start in range(len(tokens) - 11):
            run = tuple(tokens[start : start + 12])
            assert owner.setdefault(run, number) == number, " ".join(run)


def test_phrases_and_openings_are_not_repeated(answers):
    runs = Counter(tuple(t[i : i + 5]) for t in map(words, answers) for i in range(len(t) - 4))
    assert len(runs) / runs.total() >= 0.97
    openings = Counter(tuple(words(answer)[:4]) for answer in answers)
    assert openings.most_common(1)[0][1] <= 0.01 * len(answers)


def test_no_answer_repeats_its_question(records):
    for record in records:
        for answer in record["answers"]["text"]:
            assert " ".join(words(record["title"])) not in " ".join(words(answer))


def shingles(text, length):
    text = " ".join(text.lower().split())
    return {text[i : i + length] for i in range(max(1, len(text) - length + 1))}


def overlap(one, other):
    """The share of the shorter text's shingles that the other has too."""
    return len(one & other) / min(len(one), len(other))


def test_the_split_is_fair(records):
    examples = load_examples("embedded", "train")
    parts = split_fairly(examples, "answers.text", 0.2, 42, stratify_by_column="category")
    sides = [
        [shingles(" ".join(r["answers"]["text"]), 12) for r in part.to_list()]
        for part in parts.values()
    ]
    assert max(overlap(a, b) for a in sides[0] for b in sides[1]) < 0.3
    whole, test = Counter(examples["category"]), Counter(parts["test"]["category"])
    assert all(abs(test[name] - 0.2 * count) < 1 for name, count in whole.items())


def test_the_check_of_the_split_finds_an_edited_copy(answers):
    longest = max(answers, key=len)
    edited = longest.replace("the", "a")[: 2 * len(longest) // 3]
    assert overlap(shingles(longest, 12), shingles(edited, 12)) > 0.3


def test_sentences_are_readable(answers):
    sentences = sum(len(re.findall(r"[.!?…][”\"’')]*(?:\s|$)", answer)) for answer in answers)
    assert sum(len(answer.split()) for answer in answers) / sentences <= 22


def test_most_answers_are_of_medium_length_and_some_are_short_or_long(answers):
    lengths = [len(answer.split()) for answer in answers]
    assert sum(80 <= n <= 220 for n in lengths) > len(lengths) / 2
    assert sum(n <= 30 for n in lengths) >= 20 and sum(n >= 400 for n in lengths) >= 20


def test_the_card_of_the_base_model_has_the_numbers_of_its_files():
    folder = EMBEDDED["model"]
    card = (folder / "README.md").read_text(encoding="utf-8")
    curve = json.loads((folder / "training.json").read_text())["held_out"]
    assert (
        curve[-1]["tokens"] >= 40_000_000
        and f"{curve[-1]['tokens'] / 1e6:.1f} million tokens" in card
    )
    assert f"{curve[-1]['bits_per_byte']:.3f} bits per byte on one document in a hundred" in card
    recipes = json.loads((folder / "comparison.json").read_text())
    stated = re.findall(r"^\| .* \| ([\d.]+) \| ([\d,]+) \| (\d\.\d{3}) \| .* \|$", card, re.M)
    expected = [
        (v["parameters"] / 1e6, v["tokens"] / 1e3, v["bits_per_byte"]) for v in recipes.values()
    ]
    assert stated == [(f"{a:.2f}", f"{b:,.0f}", f"{c:.3f}") for a, b, c in expected]
    assert (folder / "model.safetensors").stat().st_size < 14e6


def test_the_base_model_has_learned_something(tokenizer):
    """The bar for what a learner sees first: at most 2.2 bits for a byte of the embedded test."""
    examples = load_examples("embedded", "train")
    test = split_fairly(examples, "answers.text", 0.2, 42, stratify_by_column="category")["test"]
    documents = texts(test, "answers.text")[::3]
    ids = [tokenizer(text, add_special_tokens=False).input_ids for text in documents]
    assert (
        score_documents(
            load_model("embedded"), ids, documents, prefix_token(tokenizer)
        ).bits_per_byte
        < 2.2
    )


@pytest.mark.parametrize("part", ["corpus", "train"])
def test_the_recipe_of_the_base_model_can_be_imported(part):
    recipe = importlib.import_module(f"helpers.assets.base_model.{part}")
    assert callable(recipe.documents if part == "train" else recipe.gather)
