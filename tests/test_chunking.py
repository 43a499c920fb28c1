"""Blocks against a slow oracle, the account of every token, documents kept apart."""

import itertools
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, concatenate_datasets, load_from_disk
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from helpers.chunking import chunk, totals
from helpers.collation import collate
from helpers.data import load_examples, texts
from helpers.engine.arrow import load
from helpers.engine.blocks import take_segments
from helpers.errors import DataError, ParameterError
from helpers.tokenization import tokenize
from tests.test_packing import slow_best_fit_decreasing

EOS = 0
DOCUMENTS = st.lists(st.lists(st.integers(0, 60), max_size=20), min_size=1, max_size=12)
BLOCK_SIZES = st.integers(2, 12)
STRATEGIES = st.sampled_from(["concat", "pack", "document"])
NUMBERS = itertools.count()
MANY = settings(max_examples=4 * settings.default.max_examples)


def dataset(documents, kind=pa.large_list, values=pa.int32):
    table = pa.table({"input_ids": pa.array(documents, kind(values()))})
    return Dataset(
        table, fingerprint=str(next(NUMBERS))
    )  # hashing the table for one would take most of the time


def chunk_one(documents, block_size, strategy="concat", eos=EOS, **options):
    tokenized = documents if isinstance(documents, Dataset) else dataset(documents)
    blocks, accounts = chunk(DatasetDict(train=tokenized), block_size, eos, strategy, **options)
    return blocks["train"], accounts["train"]


@st.composite
def ways(draw):
    """Documents, a block size, a strategy and its options, the windows small enough for several."""
    block_size, strategy = draw(BLOCK_SIZES), draw(st.sampled_from(["concat", "document"]))
    options = {"eos": draw(st.sampled_from([EOS, 61, None])), "position_ids": draw(st.booleans())}
    if strategy == "concat":
        options["remainder"] = draw(st.sampled_from(["keep", "pad", "drop"]))
    else:
        options["overlap"] = draw(st.integers(0, block_size - 1))
    return (
        draw(DOCUMENTS),
        block_size,
        strategy,
        options,
        draw(st.sampled_from([1, 9, 30, 1 << 20])),
    )


def slow_pieces(documents, block_size, strategy, eos=EOS, remainder="keep", overlap=0, **_):
    """Pieces of (token, number of its document, place in it); a padded place has no document.
    Before lone tokens are dropped.
    """
    marked = [
        [(t, number, place) for place, t in enumerate([*ids, *([] if eos is None else [eos])])]
        for number, ids in enumerate(documents)
    ]
    if strategy == "document":
        starts = [range(0, max(1, len(m) - overlap), block_size - overlap) for m in marked]
        return [m[i : i + block_size] for m, s in zip(marked, starts, strict=True) for i in s if m]
    stream = sum(marked, [])
    pieces = [stream[i : i + block_size] for i in range(0, len(stream), block_size)]
    if pieces and len(pieces[-1]) < block_size and remainder == "drop":
        pieces.pop()
    if pieces and 1 < len(pieces[-1]) < block_size and remainder == "pad":
        pieces[-1] += [(0 if eos is None else eos, None, None)] * (block_size - len(pieces[-1]))
    return pieces


def slow_blocks(documents, block_size, strategy, position_ids=True, **options):
    """The blocks, with all three columns."""
    blocks, seen = [], set()
    for piece in slow_pieces(documents, block_size, strategy, **options):
        if len(piece) < 2:
            continue
        positions, labels = [], []
        for i, (token, number, place) in enumerate(piece):
            follows = i > 0 and number is not None and piece[i - 1][1] == number
            positions.append(positions[-1] + 1 if follows else 0)
            nothing_before = not follows if position_ids else i == 0
            blank = number is None or (number, place) in seen or nothing_before
            labels.append(-100 if blank else token)
        seen |= {(number, place) for _, number, place in piece}
        blocks.append(
            {"input_ids": [t for t, _, _ in piece], "position_ids": positions, "labels": labels}
        )
    return blocks


def columns_of(blocks, names):
    return [{name: block[name] for name in names} for block in blocks]


@MANY
@given(ways())
@example(([[], [], [1]], 2, "concat", {}, 1))
@example(([[1, 2, 3, 4, 5]], 5, "document", {}, 1))
@example(([[1], [2, 3], [4]], 3, "concat", {"eos": None, "remainder": "pad"}, 1))
def test_blocks_and_account_equal_the_slow_oracle(way):
    documents, block_size, strategy, options, window = way
    expected = slow_blocks(documents, block_size, strategy, **options)
    assume(expected)
    with mock.patch("helpers.engine.blocks.WINDOW", window):
        blocks, account = chunk_one(documents, block_size, strategy, **options)
    assert blocks.to_list() == columns_of(expected, blocks.column_names)
    labels = collate(blocks.to_list())["labels"][:, 1:]
    assert (
        account.tokens_scored
        == (labels != -100).sum()
        == sum(x != -100 for b in expected for x in b["labels"])
    )
    pieces = slow_pieces(documents, block_size, strategy, **options)
    places = [p for piece in pieces if len(piece) > 1 for p in piece]
    real = [p for p in places if p[1] is not None]
    assert account.documents == len(documents)
    assert account.tokens_in == sum(map(len, documents))
    assert account.separators == (0 if options.get("eos", EOS) is None else len(documents))
    assert account.tokens_in + account.separators == account.tokens_kept + account.tokens_dropped
    assert account.tokens_kept == len(set(real))
    assert account.tokens_repeated == len(real) - len(set(real))
    assert account.dropped_single == sum(len(piece) == 1 for piece in pieces)
    assert account.blocks == len(blocks)
    assert account.full_blocks == sum(
        sum(n is not None for _, n, _ in piece) == block_size for piece in pieces
    )
    assert account.padding == block_size * len(blocks) - len(real)
    assert account.places_filled == pytest.approx(len(real) / (len(blocks) * block_size), rel=1e-12)


@given(DOCUMENTS, BLOCK_SIZES, st.sampled_from(["concat", "document"]))
def test_a_document_is_cut_where_it_lies_in_two_blocks(documents, block_size, strategy):
    pieces = slow_pieces(documents, block_size, strategy)
    assume(any(len(piece) > 1 for piece in pieces))
    holders = [
        {i for i, piece in enumerate(pieces) for _, n, _ in piece if n == number}
        for number in range(len(documents))
    ]
    assert chunk_one(documents, block_size, strategy)[1].documents_cut == sum(
        len(h) > 1 for h in holders
    )


@given(
    st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=9), min_size=1, max_size=20),
    st.randoms(),
)
def test_segments_are_taken_in_another_order(segments, random):
    order = random.sample(range(len(segments)), len(segments))
    values, sizes = np.array(sum(segments, []), np.int32), np.array([len(s) for s in segments])
    expected = sum((segments[i] for i in order), [])
    assert take_segments(values, sizes, np.array(order)).tolist() == expected


def runs_of(block):
    """The segments of a block, from its position ids."""
    starts = [i for i, p in enumerate(block["position_ids"]) if p == 0] + [len(block["input_ids"])]
    return [block["input_ids"][a:b] for a, b in itertools.pairwise(starts)]


@MANY
@given(st.lists(st.integers(0, 30), min_size=1, max_size=20), st.integers(2, 24), st.integers(0, 3))
def test_packing_keeps_every_token_in_pieces_of_its_document(lengths, block_size, seed):
    tokens = iter(range(1, 1000))
    documents = [[next(tokens) for _ in range(n)] for n in lengths]
    assume(len(documents) > 1 or documents[0])
    blocks, account = chunk_one(documents, block_size, "pack", seed=seed)
    home = {t: number for number, ids in enumerate(documents) for t in ids}
    segments = [run for block in blocks.to_list() for run in runs_of(block)]
    whole = sorted(t for run in segments for t in run)
    assert whole == sorted(t for ids in documents for t in [*ids, EOS])[account.dropped_single :]
    for run in segments:
        inside = [t for t in run if t != EOS]
        assert (
            run[: len(inside)] == inside == list(range(inside[0], inside[0] + len(inside)))
            if inside
            else run == [EOS]
        )
        assert len({home[t] for t in inside}) <= 1
        assert (run[-1] == EOS) == (
            not inside or inside[-1] == documents[home[inside[-1]]][-1]
        ) or run[-1] != EOS
    pieces = [min(block_size, n + 1 - i) for n in lengths for i in range(0, n + 1, block_size)]
    assert (
        account.blocks == len(slow_best_fit_decreasing(pieces, block_size)) - account.dropped_single
    )
    assert max(map(len, blocks["input_ids"])) <= block_size
    assert account.tokens_in + account.separators == account.tokens_kept + account.tokens_dropped
    assert account.tokens_scored == sum(p > 0 for ids in blocks["position_ids"] for p in ids)


def test_the_order_of_packed_blocks_depends_on_the_seed_and_only_that():
    documents = [[i] * (5 + i % 7) for i in range(1, 200)]
    found = [chunk_one(documents, 16, "pack", seed=seed)[0]["input_ids"][:] for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert sorted(found[0]) == sorted(found[2])


def test_every_window_has_an_order_of_its_own():
    documents = [[i] * 5 for i in range(1, 21)]
    with mock.patch("helpers.engine.blocks.WINDOW", 100):
        ids = chunk_one(documents * 2, 6, "pack")[0]["input_ids"][:]
    assert sorted(ids[:20]) == sorted(ids[20:]) and ids[:20] != ids[20:]


@pytest.mark.parametrize("block_size", [1 << 15, (1 << 15) + 1])
def test_places_are_right_in_very_long_blocks(block_size):
    blocks, _ = chunk_one([[1] * 70_000], block_size)
    expected = [*range(block_size)] * 2 + [*range(70_001 - 2 * block_size)]
    assert sum(blocks["position_ids"], []) == expected
    assert blocks.features["position_ids"].feature.dtype == (
        "int16" if block_size == 1 << 15 else "int32"
    )


@pytest.mark.parametrize("block_size", [128, 1024])
def test_packed_blocks_of_real_text_are_full(real_text, tokenizer, block_size):
    tokenized = tokenize(load_examples(str(real_text), "train"), "answers.text", tokenizer)
    _, account = chunk_one(tokenized, block_size, "pack", tokenizer.eos_token_id)
    fewest = -(-(account.tokens_in + account.separators) // block_size)
    assert account.blocks <= 1.003 * fewest
    assert account.tokens_dropped == 0


def test_an_account_by_hand():
    blocks, account = chunk_one([[1, 2, 3], [], [4, 5], [6, 7, 8, 9]], 4)
    assert blocks["input_ids"][:] == [[1, 2, 3, 0], [0, 4, 5, 0], [6, 7, 8, 9]]
    assert blocks["position_ids"][:] == [[0, 1, 2, 3], [0, 0, 1, 2], [0, 1, 2, 3]]
    assert (account.tokens_in, account.separators, account.tokens_kept, account.tokens_dropped) == (
        9,
        4,
        12,
        1,
    )
    assert (
        account.tokens_scored,
        account.full_blocks,
        account.documents_cut,
        account.places_filled,
    ) == (8, 3, 1, 1.0)


def test_totals_over_splits():
    tokenized = DatasetDict(train=dataset([[1, 2, 3], [4]]), test=dataset([[5, 6]]))
    _, accounts = chunk(tokenized, 5, EOS, "document")
    assert totals(accounts) == {
        "documents": 3,
        "documents_cut": 0,
        "separators": 3,
        "tokens_in": 9,
        "tokens_kept": 9,
        "tokens_dropped": 0,
        "tokens_scored": 6,
        "padding": 6,
        "places_filled": 0.6,
        "blocks_train": 2,
        "blocks_test": 1,
    }
    accounts["test"].dropped_remainder = 7
    assert totals(accounts)["tokens_dropped"] == 7


@given(
    st.lists(st.text(max_size=40), min_size=1, max_size=6),
    BLOCK_SIZES,
    st.sampled_from(["concat", "document"]),
)
def test_decoding_the_blocks_gives_the_documents_back(tokenizer, texts, block_size, strategy):
    eos, mark = tokenizer.eos_token_id, tokenizer.eos_token
    assume(not any(mark in text for text in texts))
    tokenized = tokenize(Dataset.from_dict({"text": texts}), "text", tokenizer)
    assume(slow_blocks(tokenized["input_ids"][:], block_size, strategy))
    blocks, accounts = chunk(DatasetDict(train=tokenized), block_size, eos, strategy)
    ids = sum(blocks["train"]["input_ids"], [])
    assert tokenizer.decode([i for i in ids if i != eos]) == "".join(texts)
    assert ids.count(eos) == len(texts) - accounts["train"].tokens_dropped
    if not accounts["train"].tokens_dropped:
        assert tokenizer.decode(ids) == "".join(text + mark for text in texts)


@MANY
@given(
    st.lists(DOCUMENTS | st.just([]), min_size=1, max_size=4),
    BLOCK_SIZES,
    STRATEGIES,
    st.randoms(),
    st.data(),
)
def test_blocks_do_not_depend_on_how_arrow_keeps_the_column(
    parts, block_size, strategy, random, data
):
    documents = sum(parts, [])
    assume(slow_blocks(documents, block_size, "concat" if strategy == "pack" else strategy))
    kind = data.draw(st.sampled_from([pa.list_, pa.large_list]))
    values = data.draw(st.sampled_from([pa.int32, pa.int64, pa.uint16]))
    order = random.sample(range(len(documents)), len(documents))
    whole = concatenate_datasets([dataset(part, kind, values) for part in parts])
    padded = dataset([[1, 2], [3], *documents, [4]], kind, values)
    shuffled = dataset([documents[i] for i in order], kind, values).select(
        [order.index(i) for i in range(len(order))]
    )
    with mock.patch("helpers.engine.blocks.WINDOW", data.draw(st.sampled_from([5, 40, 1 << 20]))):
        expected = chunk_one(documents, block_size, strategy)
        for kept in (
            whole,
            padded.select(range(2, 2 + len(documents))),
            shuffled,
            shuffled.flatten_indices(),
        ):
            blocks, account = chunk_one(kept, block_size, strategy)
            assert blocks.to_list() == expected[0].to_list()
            assert account == expected[1]


def test_blocks_do_not_depend_on_the_processes_and_batches_that_tokenized(tokenizer, tmp_path):
    examples = load_examples("embedded", "train")
    plain, expected = Dataset.from_dict({"text": texts(examples, "answers.text")}), None
    for way in ({}, {"num_proc": 2}, {"batch_size": 7}, {"writer_batch_size": 3}):
        tokenized = plain.map(
            lambda batch: {"input_ids": tokenizer(batch["text"], verbose=False)["input_ids"]},
            batched=True,
            remove_columns="text",
            cache_file_name=None
            if "num_proc" in way
            else str(tmp_path / f"{len(way) and next(iter(way))}.arrow"),
            **way,
        )
        found = [
            chunk_one(tokenized, 128, strategy)[0]["input_ids"][:]
            for strategy in ("concat", "pack", "document")
        ]
        expected = expected or found
        assert found == expected, way


@settings(max_examples=settings.default.max_examples // 4)  # a stream is slow to build
@given(DOCUMENTS, BLOCK_SIZES, STRATEGIES, st.sampled_from([5, 40, 1 << 20]))
def test_a_stream_gives_the_same_blocks_and_account(documents, block_size, strategy, window):
    assume(slow_blocks(documents, block_size, "concat" if strategy == "pack" else strategy))
    with mock.patch("helpers.engine.blocks.WINDOW", window):
        blocks, account = chunk_one(documents, block_size, strategy)
        stream, accounts = chunk(
            dataset(documents).to_iterable_dataset(num_shards=min(2, len(documents))),
            block_size,
            EOS,
            strategy,
        )
        for _ in range(2):  # the second reading counts anew
            assert list(stream) == blocks.to_list()
            assert accounts == account


@pytest.mark.parametrize("strategy", ["concat", "pack", "document"])
def test_blocks_are_written_to_a_folder_as_they_come(tmp_path, strategy):
    tokenized = DatasetDict(
        train=dataset([[1, 2, 3], [], [4] * 9, [5]] * 9), test=dataset([[6, 7]])
    )
    expected, accounts = chunk(tokenized, 4, EOS, strategy)
    with mock.patch("helpers.engine.blocks.WINDOW", 1 << 20):
        blocks, found = chunk(tokenized, 4, EOS, strategy, folder=tmp_path)
    assert found == accounts
    for kept in (blocks, load(tmp_path), load_from_disk(tmp_path)):
        assert {name: part.to_list() for name, part in kept.items()} == {
            n: p.to_list() for n, p in expected.items()
        }
    assert blocks["train"].cache_files == []
    chunk(tokenized["train"], 4, EOS, strategy, folder=tmp_path / "one")
    assert load_from_disk(tmp_path / "one").to_list() == expected["train"].to_list()


def group_texts(examples, block_size):
    """As in the guide."""
    concatenated = {k: sum(examples[k], []) for k in examples}
    total = len(concatenated[next(iter(examples))])
    if total >= block_size:
        total = (total // block_size) * block_size
    return {
        k: [t[i : i + block_size] for i in range(0, total, block_size)]
        for k, t in concatenated.items()
    }


@given(DOCUMENTS, BLOCK_SIZES)
def test_the_guide_can_be_had_token_for_token(documents, block_size):
    assume(sum(map(len, documents)) >= block_size)
    guide = dataset(documents).map(
        group_texts, batched=True, batch_size=None, fn_kwargs={"block_size": block_size}
    )
    blocks, _ = chunk_one(documents, block_size, eos=None, remainder="drop", position_ids=False)
    assert blocks.to_list() == guide.to_list()


def test_the_guide_loses_a_remainder_in_every_batch_and_chunk_loses_none():
    documents = [[i] * (5 + i % 3) for i in range(1, 41)]
    total, lost = sum(map(len, documents)), {}
    for batch_size in (40, 4):
        blocks = dataset(documents).map(
            group_texts, batched=True, batch_size=batch_size, fn_kwargs={"block_size": 17}
        )
        lost[batch_size] = total - sum(map(len, blocks["input_ids"]))
    assert lost[40] == total % 17 > 0
    assert (
        lost[4]
        == sum(sum(map(len, documents[i : i + 4])) % 17 for i in range(0, 40, 4))
        > 2 * lost[40]
    )
    blocks, account = chunk_one(documents, 17)
    assert account.tokens_dropped == 0
    assert sum(map(len, blocks["input_ids"])) == total + len(documents)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "bfd"}, "strategy is 'bfd': it must be one of 'concat', 'pack', 'document'"),
        ({"remainder": "lose"}, "remainder is 'lose': it must be one of 'keep', 'pad', 'drop'"),
        (
            {"remainder": "drop", "strategy": "pack"},
            "remainder is 'drop': 'pack' has no remainder, use 'keep'",
        ),
        (
            {"overlap": -1, "strategy": "document"},
            "overlap is -1: it must be a whole number of at least 0",
        ),
        (
            {"overlap": 4, "strategy": "document"},
            "overlap is 4: it must be less than a block of 4 tokens",
        ),
        ({"overlap": True, "strategy": "document"}, "overlap is True: .*whole number"),
        (
            {"overlap": 1, "strategy": "concat"},
            "overlap is 1: only blocks of the strategy 'document' can overlap, use 0",
        ),
        ({"seed": -1, "strategy": "pack"}, "seed is -1: it must be a whole number of at least 0"),
    ],
)
def test_a_bad_option_is_refused(options, message):
    with pytest.raises(ParameterError, match=message):
        chunk_one([[1, 2, 3]], 4, **options)


@pytest.mark.parametrize("block_size", [1, 0, -3, True, 2.5, "128", None])
def test_a_bad_block_size_is_refused(block_size):
    with pytest.raises(ParameterError, match=r"block_size is .*at least 2") as error:
        chunk_one([[1, 2, 3]], block_size)
    assert repr(block_size) in str(error.value)


@pytest.mark.parametrize("documents", [[], [[]]])
@pytest.mark.parametrize("strategy", ["concat", "pack", "document"])
def test_no_block_at_all_is_refused(documents, strategy):
    with pytest.raises(
        DataError,
        match=f"No block comes out of the train split: its {len(documents)} documents have 0 "
        "tokens",
    ):
        chunk_one(documents, 2, strategy)


def test_a_block_that_is_longer_than_the_text_is_refused_only_if_its_tokens_are_dropped():
    assert chunk_one([[1, 2], [3]], 6)[1].blocks == 1
    with pytest.raises(DataError, match="2 documents have 3 tokens, and a block of 6 needs more"):
        chunk_one([[1, 2], [3]], 6, remainder="drop")


def test_what_is_dropped_is_said_where_it_is_more_than_one_in_a_hundred(capsys):
    chunk_one([[1] * 200], 200)
    assert capsys.readouterr().out == ""
    chunk_one([[1] * 209], 200, remainder="drop")
    said = (
        "10 of 210 tokens of the train split are dropped (4.8%): 10 of a remainder, 0 alone in "
        "a block.\n"
    )
    assert capsys.readouterr().out == said
