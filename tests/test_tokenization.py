"""Token ids as the tokenizer itself makes them, with nothing added, cut or padded."""

import copy
import ctypes
import gzip
import json
import logging
import os

import datasets
import pyarrow as pa
import pytest
from datasets import Dataset, Features, Value
from hypothesis import given
from hypothesis import strategies as st

from helpers.data import load_examples
from helpers.engine.columns import TextColumn
from helpers.errors import ParameterError
from helpers.tokenization import tokenize


def tokenized(texts, tokenizer):
    return tokenize(
        Dataset.from_dict({"t": texts}, Features({"t": Value("string")})), "t", tokenizer
    )


def reference(texts, tokenizer):
    return [tokenizer(text, add_special_tokens=False).input_ids for text in texts]


@given(texts=st.lists(st.text(max_size=60), max_size=8))
def test_ids_equal_the_tokenizers_own(tokenizer, texts):
    ids = tokenized(texts, tokenizer)["input_ids"][:]
    assert ids == reference(texts, tokenizer)
    assert [tokenizer.decode(i) for i in ids] == texts


def test_real_text_gives_the_tokenizers_own_ids_and_comes_back(tokenizer, real_text):
    records = json.loads(gzip.decompress(real_text.read_bytes()))
    texts = [" ".join(record["answers"]["text"]) for record in records[:300]]
    ids = tokenized(texts, tokenizer)["input_ids"][:]
    assert sum(map(len, ids)) > 10_000
    assert ids == reference(texts, tokenizer)
    assert [tokenizer.decode(i) for i in ids] == texts


def test_the_end_of_text_mark_inside_a_text_is_one_token(tokenizer):
    text = f"one{tokenizer.eos_token}two"
    ids = tokenized([text], tokenizer)["input_ids"][0]
    assert ids.count(tokenizer.eos_token_id) == 1
    assert ids == reference([text], tokenizer)[0]


def test_empty_texts_give_empty_lists_in_their_places(tokenizer):
    ids = tokenized(["", "Why is the sky blue?", ""], tokenizer)["input_ids"][:]
    assert [len(i) > 0 for i in ids] == [False, True, False]
    assert len(tokenized([], tokenizer)) == 0


def test_the_only_column_is_ids_of_32_bits(tokenizer):
    for texts in (["Why is the sky blue?", ""], [""], []):
        column = tokenized(texts, tokenizer).data.schema
        assert column.names == ["input_ids"]
        assert column.field("input_ids").type == pa.large_list(pa.int32())


def test_special_tokens_that_the_tokenizer_would_add_are_left_out(tokenizer):
    from tokenizers.processors import TemplateProcessing

    eager = copy.deepcopy(tokenizer)
    mark = (eager.eos_token, eager.eos_token_id)
    eager.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {mark[0]}", special_tokens=[mark]
    )
    assert eager("sky").input_ids[-1] == eager.eos_token_id
    assert tokenized(["sky"], eager)["input_ids"][:] == reference(["sky"], tokenizer)


def test_truncation_and_padding_that_were_set_do_not_count(tokenizer):
    texts = ["Why is the sky blue and not violet?", "Why?"]
    expected = reference(texts, tokenizer)
    cutting = copy.deepcopy(tokenizer)
    cutting.backend_tokenizer.enable_truncation(3)
    cutting.backend_tokenizer.enable_padding(length=12)
    assert [len(e) for e in cutting.backend_tokenizer.encode_batch(texts)] == [12, 12]
    assert tokenized(texts, cutting)["input_ids"][:] == expected


def test_no_warning_that_a_text_is_long(tokenizer):
    short = copy.deepcopy(tokenizer)
    short.model_max_length, short.deprecation_warnings = 4, {}  # it warns once
    heard = []
    listener = logging.Handler()
    listener.emit = heard.append
    logger = logging.getLogger("transformers")
    logger.addHandler(listener)
    try:
        ids = tokenized(["Why is the sky blue and not violet?"], short)["input_ids"][0]
        assert len(ids) > 4 and not heard
        short("Why is the sky blue and not violet?")
        assert "longer than the specified maximum" in heard[0].getMessage()
    finally:
        logger.removeHandler(listener)


def test_a_second_time_the_ids_come_from_the_cache(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    examples, calls = load_examples("embedded", "train[:20]"), []
    own = TextColumn.texts
    monkeypatch.setattr(TextColumn, "texts", lambda *given: calls.append(given) or own(*given))
    found = [tokenize(examples, "answers.text", tokenizer) for _ in range(2)]
    assert found[0]["input_ids"][:] == found[1]["input_ids"][:]
    assert len(calls) == 1
    tokenize(examples.select(range(3)), "answers.text", tokenizer)
    assert len(calls) == 2


def test_a_column_without_text_is_refused(tokenizer):
    examples = load_examples("embedded", "train[:5]")
    with pytest.raises(ParameterError, match="text_column is 'answers.score': it holds int"):
        tokenize(examples, "answers.score", tokenizer)


def test_all_cores_are_used_after_map_has_used_processes(tokenizer):
    """`map` with processes would leave the tokenizer on one core; only C sees why."""
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_char_p
    examples = Dataset.from_dict({"t": ["Why?", "Because."]})
    examples.map(lambda row: row, num_proc=2)
    assert (
        libc.getenv(b"TOKENIZERS_PARALLELISM") == b"false"
        and "TOKENIZERS_PARALLELISM" not in os.environ
    )
    tokenize(examples, "t", tokenizer)
    assert libc.getenv(b"TOKENIZERS_PARALLELISM") is None
