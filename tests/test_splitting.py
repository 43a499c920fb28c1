"""Near-duplicates, a split that does not leak, and n-grams that the model has seen."""

import re
import time
from collections import Counter

import datasets
import numpy as np
import pytest
from datasets import Dataset, Features, Value
from hypothesis import example, given
from hypothesis import strategies as st

from helpers.data import load_examples, texts
from helpers.engine.duplicates import Twice
from helpers.errors import ParameterError, UserError
from helpers.splitting import near_duplicates, shared_ngrams, split_fairly
from tests.benchmarks import corpus


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize(
    ("documents", "share"), [(["one"], 0.2), ([f"text {i}" for i in range(9)], 0.9999)]
)
def test_one_record_or_too_large_a_share_is_refused(documents, share):
    with pytest.raises(ParameterError, match=f"test_size is {share}"):
        split_fairly(numbered(documents), "t", share, 0)


def runs_of(document):
    words = re.findall(r"\w+", document.lower())
    return {tuple(words[i : i + 8]) for i in range(max(1, len(words) - 7))} if words else set()


def slow_groups(documents):
    runs, group = [runs_of(d) for d in documents], list(range(len(documents)))
    for i in range(len(documents)):
        for j in range(i):
            shared, shorter = len(runs[i] & runs[j]), min(len(runs[i]), len(runs[j]))
            if shared and 2 * shared >= shorter:
                group = [group[j] if g == group[i] else g for g in group]
    return group


def partition(groups):
    return [list(groups).index(g) for g in groups]


BASE = [f"w{i}" for i in range(36)]


SLICES = st.tuples(st.integers(0, 30), st.integers(0, 20)).map(
    lambda t: " ".join(BASE[t[0] : t[0] + t[1]])
)


TEXT = st.lists(SLICES, max_size=4).map(", ".join) | st.lists(
    st.sampled_from(["so", "So,", "it"]), max_size=14
).map(" ".join)


TEXTS = st.lists(TEXT, min_size=1, max_size=10)


@given(TEXTS)
@example(["", "?!"])
@example(["A b, c.", "a B c", "a b c d"])
@example([" ".join(BASE[:16]), " ".join(BASE[:12] + ["x"] * 9), " ".join(BASE[:11] + ["y"] * 20)])
def test_near_duplicates_equal_the_slow_oracle(documents):
    assert partition(near_duplicates(documents)) == partition(slow_groups(documents))


@given(TEXTS.map(lambda texts: texts * 2), st.integers(1, 300), st.integers(1, 60))
def test_groups_do_not_depend_on_batches(monkeypatch, documents, characters, words):
    expected = partition(near_duplicates(documents))
    monkeypatch.setattr("helpers.engine.shingles.CHARACTERS", characters)
    monkeypatch.setattr("helpers.engine.duplicates.WORDS", words)
    monkeypatch.setattr("helpers.engine.duplicates.PENDING", words)
    assert partition(near_duplicates(documents)) == expected == partition(slow_groups(documents))


def plain_groups(documents):
    """Near-duplicates with sets and a table of who has which shingle, passages of many left out."""
    words = [re.findall(r"\w+", document.lower()) for document in documents]
    group = list(range(len(words)))
    while True:
        sets, of_set, holders = [], {}, {}
        for i, own in enumerate(words):
            runs = {tuple(own[k : k + 8]) for k in range(max(1, len(own) - 7))} if own else set()
            sets.append(runs if group[i] == i else set())
            if sets[i]:
                group[i] = of_set.setdefault(frozenset(sets[i]), i)
        sets = [runs if group[i] == i else set() for i, runs in enumerate(sets)]
        for i, runs in enumerate(sets):
            for run in runs:
                holders.setdefault(run, []).append(i)
        limit = min(max(10, sum(map(bool, sets)) / 20), 1000)
        common = {run for run, having in holders.items() if len(having) > limit}
        if not common:
            break
        for i, own in enumerate(words):
            cut = {
                k + j for k in range(len(own)) if tuple(own[k : k + 8]) in common for j in range(8)
            }
            words[i] = [word for k, word in enumerate(own) if k not in cut]
    for i, runs in enumerate(sets):
        for j, shared in Counter(j for run in runs for j in holders[run] if j < i).items():
            if 2 * shared >= min(len(runs), len(sets[j])):
                first = [i, j]
                for k in (0, 1):
                    while group[first[k]] != first[k]:
                        first[k] = group[first[k]]
                group[max(first)] = min(first)
    for i in range(len(group)):
        group[i] = group[group[i]]
    return group


@pytest.mark.parametrize("count", [600, pytest.param(20_000, marks=pytest.mark.full)])
def test_groups_equal_those_of_plain_sets_where_all_documents_end_alike(monkeypatch, count):
    made = list(corpus.documents(count, seed=1))
    monkeypatch.setattr("helpers.engine.duplicates.WORDS", 20_000)
    monkeypatch.setattr("helpers.engine.duplicates.PENDING", 5_000)
    found = near_duplicates(made)
    assert found.tolist() == plain_groups(made)
    assert 0.01 < 1 - len(set(found.tolist())) / count < 0.03


def test_shingles_that_come_twice_are_all_found_and_few_others():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 1 << 64, 20_000, np.uint64, endpoint=False)
    twice = Twice(20_500)
    for batch in (values[:5000], values[5000:], values[:500]):
        twice.add(batch)
    found = twice(values)
    assert found[:500].all() and found[500:].mean() < 0.15


def test_two_copies_are_found_although_others_quote_parts_of_them():
    parts = [" ".join(f"p{part}w{i}" for i in range(30)) for part in range(4)]
    quotes = [
        part + " " + " ".join(f"own{n}w{i}" for i in range(200)) for n, part in enumerate(parts)
    ]
    documents = [" ".join(parts), *quotes, " ".join(parts)]
    assert partition(slow_groups(documents)) == [0, 1, 2, 3, 4, 0]
    assert partition(near_duplicates(documents)) == [0, 1, 2, 3, 4, 0]


def own_words(number, count):
    return " ".join(f"d{number}w{i}" for i in range(count))


PROMPT, FOOTER = (" ".join(f"{name}{i}" for i in range(30)) for name in ("prompt", "footer"))


@pytest.mark.parametrize("count", [12, 300])
def test_passages_that_many_documents_have_make_no_copies(count):
    documents = [f"{PROMPT} {own_words(i, 12)} {FOOTER}" for i in range(count)]
    assert len(set(near_duplicates(documents))) == count
    parts = split_fairly(numbered(documents), "t", 0.25, 0)
    assert len(parts["test"]) == count // 4


def test_copies_are_found_beside_passages_that_many_documents_have():
    documents = [f"{PROMPT} {own_words(i, 20)} {FOOTER}" for i in range(40)]
    documents += [
        documents[3],
        f"{own_words(4, 20)} and more",
        f"{PROMPT} {own_words(5, 20)} other {FOOTER}",
    ]
    documents += [
        PROMPT,
        PROMPT.upper(),
        f"{PROMPT} {FOOTER}",
        f"{PROMPT} yes",
        f"{PROMPT} no",
        f"{PROMPT} yes!",
    ]
    groups = near_duplicates(documents).tolist()
    assert groups[:40] == list(range(40))
    assert groups[40:] == [3, 4, 5, 43, 43, 45, 46, 47, 46]


def test_a_passage_of_ten_documents_still_counts():
    documents = [f"{PROMPT} {own_words(i, 12)}" for i in range(10)] + [
        own_words(i, 20) for i in range(10, 30)
    ]
    assert (
        partition(near_duplicates(documents))
        == partition(slow_groups(documents))
        == [0] * 10 + list(range(10, 30))
    )


def test_many_documents_with_one_footer_are_compared_in_a_time_that_grows_with_them():
    footer = " ".join(f"footer{i}" for i in range(12))
    documents = [f"{own_words(i, 30)} {footer}" for i in range(8000)]
    began = time.process_time()
    assert len(set(near_duplicates(documents))) == 8000
    assert time.process_time() - began < 5  # pair by pair it takes 40 seconds


def test_groups_can_be_given_and_then_nothing_is_looked_for():
    examples = numbered(["the same text"] * 8)
    parts = split_fairly(examples, "t", 0.25, 0, groups=range(8))
    assert len(parts["test"]) == 2
    parts = split_fairly(
        numbered([f"text {i}" for i in range(8)]), "t", 0.25, 0, groups=[0, 0, 1, 1, 2, 2, 3, 3]
    )
    assert parts["test"]["n"][:] in [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_no_documents_have_no_groups():
    assert len(near_duplicates([])) == 0


def numbered(documents):
    return Dataset.from_dict({"n": range(len(documents)), "t": documents})


@given(TEXTS, st.floats(0.05, 0.95), st.integers(0, 2**32 - 1))
def test_a_fair_split_keeps_groups_whole_and_the_share_near(documents, test_size, seed):
    groups = np.array(slow_groups(documents))
    sizes, target = Counter(groups.tolist()), max(1, round(test_size * len(documents)))
    try:
        parts = split_fairly(numbered(documents), "t", test_size, seed)
    except ParameterError as error:
        assert "test_size" in str(error) and repr(test_size) in str(error)
        assert min(sizes.values()) > 1.1 * target or len(documents) <= 1.1 * target
        return
    train, test = parts["train"]["n"][:], parts["test"]["n"][:]
    assert sorted(train + test) == list(range(len(documents))) and train and test
    assert not set(groups[train]) & set(groups[test])
    assert len(test) <= 1.1 * target
    assert len(test) >= target or all(len(test) + sizes[g] > 1.1 * target for g in groups[train])


def test_a_split_depends_on_the_seed_and_on_nothing_else():
    examples = numbered([f"text {i}" for i in range(40)])
    chosen = [split_fairly(examples, "t", 0.25, seed)["test"]["n"][:] for seed in (1, 1, 2)]
    assert [len(c) for c in chosen] == [10, 10, 10]
    assert chosen[0] == chosen[1] != chosen[2]


@given(
    st.lists(st.sampled_from("aabc"), min_size=2, max_size=60),
    st.floats(0.1, 0.9),
    st.integers(0, 99),
)
def test_a_stratified_split_has_each_value_in_proportion(values, test_size, seed):
    examples = Dataset.from_dict({"t": [f"text {i}" for i in range(len(values))], "kind": values})
    try:
        parts = split_fairly(examples, "t", test_size, seed, stratify_by_column="kind")
    except ParameterError:
        assert round(test_size * len(values)) in (0, len(values)) or len(values) == 2
        return
    counts, test = Counter(values), Counter(parts["test"]["kind"])
    for value, count in counts.items():
        assert abs(test[value] - test_size * count) <= 1.5, value
    assert abs(len(parts["test"]) - test_size * len(values)) <= 1


@given(TEXTS, st.floats(0.05, 0.6), st.floats(0.05, 0.6), st.integers(0, 99))
def test_three_parts_hold_every_document_once_and_no_group_twice(
    documents, validation_size, test_size, seed
):
    groups, examples = np.array(slow_groups(documents)), numbered(documents)
    try:
        parts = split_fairly(examples, "t", test_size, seed, validation_size=validation_size)
    except ParameterError as error:
        assert "part empty" in str(error)
        return
    assert list(parts) == ["train", "validation", "test"]
    rows = {name: part["n"][:] for name, part in parts.items()}
    assert sorted(sum(rows.values(), [])) == list(range(len(documents)))
    assert sum(len(set(groups[r])) for r in rows.values()) == len(set(groups)) and all(
        rows.values()
    )
    for name, share in (("validation", validation_size), ("test", test_size)):
        assert len(rows[name]) <= 1.1 * max(1, round(share * len(documents)))
    assert rows["test"] == split_fairly(examples, "t", test_size, seed)["test"]["n"][:]


def test_three_parts_have_each_value_in_proportion():
    values = ["a"] * 60 + ["b"] * 30 + ["c"] * 10
    examples = Dataset.from_dict({"t": [f"text {i}" for i in range(100)], "kind": values})
    parts = split_fairly(examples, "t", 0.1, 0, "kind", validation_size=0.2)
    assert Counter(parts["test"]["kind"]) == {"a": 6, "b": 3, "c": 1}
    assert Counter(parts["validation"]["kind"]) == {"a": 12, "b": 6, "c": 2}


@pytest.mark.parametrize(
    ("count", "validation_size", "named"),
    [(2, 0.1, "validation"), (10, 0.9, "validation"), (10, 1.0, "validation")],
)
def test_parts_that_leave_nothing_to_train_on_are_refused(count, validation_size, named):
    examples = numbered([f"text {i}" for i in range(count)])
    with pytest.raises(
        ParameterError, match=f"{named}_size is {validation_size}.*train part empty"
    ):
        split_fairly(examples, "t", 0.1, 0, validation_size=validation_size)


def test_a_column_to_stratify_by_that_is_not_there_is_refused():
    with pytest.raises(ParameterError, match="stratify_by_column is 'kind': choose one of n, t"):
        split_fairly(numbered(["a", "b", "c"]), "t", 0.3, 0, stratify_by_column="kind")


@pytest.mark.parametrize("documents", [["a b c"] * 5, ["only one"], []])
def test_a_split_that_leaves_one_side_empty_is_refused(documents):
    examples = Dataset.from_dict({"t": documents}, features=Features({"t": Value("string")}))
    with pytest.raises(UserError, match="test_size is 0.2.*more examples"):
        split_fairly(examples, "t", 0.2, 0)


def test_a_planted_copy_never_lies_on_both_sides_as_it_does_with_train_test_split():
    documents = [" ".join(f"d{n}w{i}" for i in range(20)) for n in range(30)]
    documents.append(documents[7].upper() + " edited")
    examples = numbered(documents)

    def torn(parts):
        return len({7, 30} & set(parts["test"]["n"])) == 1

    assert not any(torn(split_fairly(examples, "t", 0.3, seed)) for seed in range(20))
    assert any(torn(examples.train_test_split(test_size=0.3, seed=seed)) for seed in range(20))


def test_the_real_text_is_read_whole_and_split_without_a_leak(real_text):
    examples = load_examples(str(real_text), "train")
    assert len(examples) == 2375
    parts = split_fairly(examples, "answers.text", 0.2, 0)
    assert len(parts["train"]) + len(parts["test"]) == 2375
    assert abs(len(parts["test"]) - 475) <= 47
    train, test = ([runs_of(t) for t in texts(part, "answers.text")] for part in parts.values())
    holders = {}
    for number, runs in enumerate(train):
        for run in runs:
            holders.setdefault(run, []).append(number)
    for runs in test:
        for number, shared in Counter(n for run in runs for n in holders.get(run, ())).items():
            assert 2 * shared < min(len(runs), len(train[number]))


def test_shared_ngrams_by_hand():
    train = ["a b c d", "x y"]
    found = shared_ngrams(train, ["A b  c", "b c d e", "c b a", "x y", "a b c a b c"], n=3)
    assert found[:3].tolist() == [1.0, 0.5, 0.0]
    assert np.isnan(found[3])
    assert found[4] == pytest.approx(
        1 / 3
    )  # of "a b c", "b c a" and "c a b"; what comes twice counts once


def test_shared_ngrams_do_not_depend_on_batches(monkeypatch):
    train, test = (list(corpus.documents(60, seed)) for seed in (0, 1))
    expected = shared_ngrams(train, test)
    monkeypatch.setattr("helpers.engine.shingles.CHARACTERS", 500)
    assert shared_ngrams(iter(train), test).tolist() == expected.tolist()
    assert 0 < np.nanmin(expected) < np.nanmax(expected) < 1  # the last lines are shared


def test_a_copied_document_is_all_shared_and_the_embedded_test_is_not():
    splits = split_fairly(
        load_examples("embedded", "train"), "answers.text", 0.2, 0, stratify_by_column="category"
    )
    train, test = (texts(splits[name], "answers.text") for name in ("train", "test"))
    assert np.nanmax(shared_ngrams(train, test)) < 0.02
    assert shared_ngrams(train, train[:1]).tolist() == [1.0]
