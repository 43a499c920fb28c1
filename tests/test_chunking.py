"""Blocks against a slow oracle, the account of every token, and documents that do not see one another."""

from dataclasses import replace

import pyarrow as pa
import pytest
import torch
from datasets import Dataset, DatasetDict, concatenate_datasets
from hypothesis import assume, example, given
from hypothesis import strategies as st
from transformers import (
    DataCollatorForLanguageModeling,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)

from helpers import check_block_size, chunk, collate, tokenize, totals
from helpers.errors import DataError, ParameterError

EOS = 0
DOCUMENTS = st.lists(st.lists(st.integers(0, 60), max_size=20), min_size=1, max_size=12)
BLOCK_SIZES = st.integers(2, 12)
STRATEGIES = st.sampled_from(["concat", "document"])


def dataset(documents, kind=pa.large_list, values=pa.int32):
    return Dataset(pa.table({"input_ids": pa.array(documents, kind(values()))}))


def chunk_one(documents, block_size, strategy="concat"):
    tokenized = documents if isinstance(documents, Dataset) else dataset(documents)
    blocks, accounts = chunk(DatasetDict(train=tokenized), block_size, EOS, strategy)
    return blocks["train"], accounts["train"]


def slow_pieces(documents, block_size, strategy):
    """Pieces of (token, number of its document), before lone tokens are dropped."""
    marked = [[(token, number) for token in [*ids, EOS]] for number, ids in enumerate(documents)]
    streams = marked if strategy == "document" else [sum(marked, [])]
    return [s[i : i + block_size] for s in streams for i in range(0, len(s), block_size)]


def slow_positions(piece):
    positions = []
    for i, (_, number) in enumerate(piece):
        positions.append(positions[-1] + 1 if i and piece[i - 1][1] == number else 0)
    return positions


def slow_blocks(documents, block_size, strategy):
    return [
        {"input_ids": [token for token, _ in piece], "position_ids": slow_positions(piece)}
        for piece in slow_pieces(documents, block_size, strategy)
        if len(piece) > 1
    ]


def has_blocks(documents, block_size, strategy):
    enough = strategy == "document" or sum(len(d) + 1 for d in documents) >= block_size
    return enough and bool(slow_blocks(documents, block_size, strategy))


@given(DOCUMENTS, BLOCK_SIZES, STRATEGIES)
@example([[], [], [1]], 2, "concat")
@example([[1, 2, 3, 4, 5]], 5, "document")
def test_blocks_equal_the_slow_oracle(documents, block_size, strategy):
    assume(has_blocks(documents, block_size, strategy))
    blocks, _ = chunk_one(documents, block_size, strategy)
    assert blocks.to_list() == slow_blocks(documents, block_size, strategy)


@given(DOCUMENTS, BLOCK_SIZES, STRATEGIES)
@example([[1, 2, 3]], 3, "document")  # cut, and its lone separator dropped
def test_the_account_balances_and_each_number_is_what_it_says(documents, block_size, strategy):
    assume(has_blocks(documents, block_size, strategy))
    blocks, account = chunk_one(documents, block_size, strategy)
    pieces = slow_pieces(documents, block_size, strategy)
    places = [{i for i, piece in enumerate(pieces) if any(n == number for _, n in piece)} for number in range(len(documents))]  # fmt: skip
    ids, positions = sum(blocks["input_ids"], []), sum(blocks["position_ids"], [])
    assert account.tokens_in == sum(map(len, documents))
    assert account.documents == account.separators == len(documents)
    assert account.tokens_in + account.separators == account.tokens_kept + account.tokens_dropped
    assert account.tokens_kept == len(ids)
    assert account.tokens_scored == sum(p > 0 for p in positions)
    assert account.blocks == len(blocks)
    assert account.full_blocks == sum(len(b) == block_size for b in blocks["input_ids"])
    assert account.documents_cut == sum(len(p) > 1 for p in places)
    assert account.places_filled == pytest.approx(len(ids) / (len(blocks) * block_size), rel=1e-15)
    assert [i for i in ids if i != EOS] == [i for d in documents for i in d if i != EOS], "only separators are dropped"


def test_an_account_by_hand():
    blocks, account = chunk_one([[1, 2, 3], [], [4, 5], [6, 7, 8, 9]], 4)
    assert blocks["input_ids"][:] == [[1, 2, 3, 0], [0, 4, 5, 0], [6, 7, 8, 9]]
    assert blocks["position_ids"][:] == [[0, 1, 2, 3], [0, 0, 1, 2], [0, 1, 2, 3]]
    assert (account.tokens_in, account.separators, account.tokens_kept, account.tokens_dropped) == (9, 4, 12, 1)
    assert (account.tokens_scored, account.full_blocks, account.documents_cut, account.places_filled) == (8, 3, 1, 1.0)


def test_totals_over_splits():
    tokenized = DatasetDict(train=dataset([[1, 2, 3], [4]]), test=dataset([[5, 6]]))
    _, accounts = chunk(tokenized, 5, EOS, "document")
    assert totals(accounts) == {"tokens_in": 9, "tokens_kept": 9, "tokens_dropped": 0, "blocks_train": 2, "blocks_test": 1}  # fmt: skip
    accounts["test"] = replace(accounts["test"], tokens_dropped=7)
    assert totals(accounts)["tokens_dropped"] == 7


@given(st.lists(st.text(max_size=40), min_size=1, max_size=6), BLOCK_SIZES, STRATEGIES)
def test_decoding_the_blocks_gives_the_documents_back(tokenizer, texts, block_size, strategy):
    eos, mark = tokenizer.eos_token_id, tokenizer.eos_token
    assume(not any(mark in text for text in texts))
    tokenized = tokenize(texts, tokenizer)
    assume(has_blocks(tokenized["input_ids"][:], block_size, strategy))
    blocks, accounts = chunk(DatasetDict(train=tokenized), block_size, eos, strategy)
    ids = sum(blocks["train"]["input_ids"], [])
    assert tokenizer.decode([i for i in ids if i != eos]) == "".join(texts)
    assert ids.count(eos) == len(texts) - accounts["train"].tokens_dropped
    if not accounts["train"].tokens_dropped:
        assert tokenizer.decode(ids) == "".join(text + mark for text in texts)


@given(st.lists(DOCUMENTS | st.just([]), min_size=1, max_size=4), BLOCK_SIZES, STRATEGIES, st.randoms(), st.data())
def test_blocks_do_not_depend_on_how_arrow_keeps_the_column(parts, block_size, strategy, random, data):
    documents = sum(parts, [])
    assume(has_blocks(documents, block_size, strategy))
    kind = data.draw(st.sampled_from([pa.list_, pa.large_list]))
    values = data.draw(st.sampled_from([pa.int32, pa.int64]))
    order = random.sample(range(len(documents)), len(documents))
    whole = concatenate_datasets([dataset(part, kind, values) for part in parts])
    padded = dataset([[1, 2], [3], *documents, [4]], kind, values)
    shuffled = dataset([documents[i] for i in order], kind, values).select([order.index(i) for i in range(len(order))])
    expected = chunk_one(documents, block_size, strategy)
    for kept in (whole, padded.select(range(2, 2 + len(documents))), shuffled, shuffled.flatten_indices()):
        blocks, account = chunk_one(kept, block_size, strategy)
        assert blocks.to_list() == expected[0].to_list()
        assert account == expected[1]


def group_texts(examples, block_size):
    """As in the guide."""
    concatenated = {k: sum(examples[k], []) for k in examples}
    total = len(concatenated[next(iter(examples))])
    if total >= block_size:
        total = (total // block_size) * block_size
    return {k: [t[i : i + block_size] for i in range(0, total, block_size)] for k, t in concatenated.items()}


def test_the_guide_loses_a_remainder_in_every_batch_and_chunk_loses_none():
    documents = [[i] * (5 + i % 3) for i in range(1, 41)]
    total, lost = sum(map(len, documents)), {}
    for batch_size in (40, 4):
        blocks = dataset(documents).map(group_texts, batched=True, batch_size=batch_size, fn_kwargs={"block_size": 17})
        lost[batch_size] = total - sum(map(len, blocks["input_ids"]))
    assert lost[40] == total % 17 > 0
    assert lost[4] == sum(sum(map(len, documents[i : i + 4])) % 17 for i in range(0, 40, 4)) > 2 * lost[40]
    blocks, account = chunk_one(documents, 17)
    assert account.tokens_dropped == 0
    assert sum(map(len, blocks["input_ids"])) == total + len(documents)


@pytest.mark.parametrize("block_size", [1, 0, -3, True, 2.5, "128", None])
def test_a_bad_block_size_is_refused(block_size):
    with pytest.raises(ParameterError, match=r"block_size is .*at least 2") as error:
        chunk_one([[1, 2, 3]], block_size)
    assert repr(block_size) in str(error.value)


def test_an_unknown_strategy_is_refused():
    with pytest.raises(ParameterError, match="strategy is 'pack'.*'concat', 'document'"):
        chunk_one([[1, 2, 3]], 2, "pack")


def test_fewer_tokens_than_one_block_are_refused_when_documents_are_laid_end_to_end():
    with pytest.raises(ParameterError, match="block_size is 6: the train split has only 5 tokens.*smaller"):
        chunk_one([[1, 2], [3]], 6, "concat")
    assert chunk_one([[1, 2], [3]], 5, "concat")[1].blocks == 1
    assert chunk_one([[1, 2], [3]], 6, "document")[1].blocks == 2


@pytest.mark.parametrize("documents", [[], [[]]])
@pytest.mark.parametrize("strategy", ["concat", "document"])
def test_no_block_at_all_is_refused(documents, strategy):
    with pytest.raises(DataError, match="train split.*at least 2 tokens"):
        chunk_one(documents, 2, strategy)


def test_a_block_may_be_as_long_as_the_context_and_no_longer():
    check_block_size(32, 32)
    with pytest.raises(ParameterError, match=r"block_size is 1025: .*1,024"):
        check_block_size(1025, 1024)


@given(DOCUMENTS, BLOCK_SIZES, STRATEGIES)
def test_labels_are_ignored_by_place_only(documents, block_size, strategy):
    assume(has_blocks(documents, block_size, strategy))
    blocks = slow_blocks(documents, block_size, strategy)
    batch = collate(blocks)
    width = max(len(b["input_ids"]) for b in blocks)
    assert {(v.shape, v.dtype) for v in batch.values()} == {((len(blocks), width), torch.int64)}
    for row, block in enumerate(blocks):
        ids, positions, rest = block["input_ids"], block["position_ids"], width - len(block["input_ids"])
        assert batch["input_ids"][row, : len(ids)].tolist() == ids
        assert batch["position_ids"][row, : len(ids)].tolist() == positions
        assert batch["labels"][row].tolist() == [i if p else -100 for i, p in zip(ids, positions, strict=True)] + [-100] * rest  # fmt: skip


def test_end_of_text_is_a_target_unlike_with_the_usual_collator(tokenizer):
    eos = tokenizer.eos_token_id
    blocks = [{"input_ids": [5, eos, 0, 7, eos], "position_ids": [0, 1, 2, 3, 4]}, {"input_ids": [5, eos], "position_ids": [0, 1]}]  # fmt: skip
    assert collate(blocks)["labels"].tolist() == [[-100, eos, 0, 7, eos], [-100, eos, -100, -100, -100]]
    tokenizer.pad_token, before = tokenizer.eos_token, tokenizer.pad_token
    try:
        usual = DataCollatorForLanguageModeling(tokenizer, mlm=False)([{"input_ids": b["input_ids"]} for b in blocks])
    finally:
        tokenizer.pad_token = before
    assert eos not in usual["labels"]


@pytest.fixture(params=["gpt2", "llama"])
def model(request, small_model):
    if request.param == "gpt2":
        chosen = small_model
    else:
        torch.manual_seed(0)
        shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        chosen = LlamaForCausalLM(LlamaConfig(vocab_size=64, max_position_embeddings=32, use_cache=False, **shape))
    for module in chosen.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    chosen.loss_type = "ForCausalLM"
    return chosen.eval()


@pytest.fixture
def mixed_batch():
    """Two blocks of several documents, one cut across them, the second shorter; and where each document lies, (row, start, end)."""
    generator = torch.Generator().manual_seed(1)
    documents = [torch.randint(1, 64, (n,), generator=generator).tolist() for n in (5, 0, 9, 12, 1, 8)]
    spans = []
    for row, piece in enumerate(slow_pieces(documents, 22, "concat")):
        numbers = [number for _, number in piece]
        spans += [(row, numbers.index(n), numbers.index(n) + numbers.count(n)) for n in sorted(set(numbers))]
    return collate(chunk_one(documents, 22)[0].to_list()), spans


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_document_in_a_block_is_read_as_if_it_stood_alone(model, mixed_batch, attention):
    model.set_attn_implementation(attention)
    batch, spans = mixed_batch
    ids = batch["input_ids"]
    assert len(ids) == 2 and len(spans) == 7
    with torch.no_grad():
        apart = model(input_ids=ids, position_ids=batch["position_ids"]).logits
        mixed = model(input_ids=ids).logits
        for row, start, end in spans:
            alone = model(input_ids=ids[row : row + 1, start:end]).logits[0]
            assert (apart[row, start:end] - alone).abs().max() < 1e-6
            assert start == 0 or (mixed[row, start:end] - alone).abs().max() > 1e-3


def trained_loss(model, batch, folder):
    rows = [{k: v[i] for k, v in batch.items()} for i in range(len(batch["labels"]))]
    arguments = TrainingArguments(folder, max_steps=1, per_device_train_batch_size=len(rows), use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True)  # fmt: skip
    stack = lambda rows: {k: torch.stack([r[k] for r in rows]) for k in rows[0]}  # noqa: E731
    return Trainer(model=model, args=arguments, train_dataset=rows, data_collator=stack).train().training_loss


def test_the_training_loss_is_the_mean_over_the_tokens_of_documents_alone(model, mixed_batch, tmp_path):
    (batch, spans), nats, tokens = mixed_batch, 0.0, 0
    with torch.no_grad():
        for row, start, end in spans:
            ids = batch["input_ids"][row, start:end]
            scores = model(input_ids=ids[None]).logits[0].double().log_softmax(-1)
            nats -= sum(scores[i, ids[i + 1]].item() for i in range(len(ids) - 1))
            tokens += len(ids) - 1
    assert trained_loss(model, batch, tmp_path) == pytest.approx(nats / tokens, rel=1e-6)  # float32: 8 units
