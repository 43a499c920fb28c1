"""Batches: what is padded, what is a target, and what a model makes of it."""

import pytest
import torch
from hypothesis import assume, given
from transformers import (
    DataCollatorForLanguageModeling,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)

from helpers.collation import check_block_size, collate
from helpers.errors import ParameterError
from tests.test_chunking import chunk_one, columns_of, slow_blocks, slow_pieces, ways


def test_a_block_may_be_as_long_as_the_context_and_no_longer():
    check_block_size(32, 32)
    with pytest.raises(ParameterError, match=r"block_size is 1025: .*1,024"):
        check_block_size(1025, 1024)


@given(ways())
def test_labels_are_ignored_by_place_only(way):
    documents, block_size, strategy, options, _ = way
    blocks = slow_blocks(documents, block_size, strategy, **options)
    assume(blocks)
    labelled = options.get("remainder") == "pad" or options.get("overlap")
    names = ["input_ids"] + ["position_ids"] * options["position_ids"] + ["labels"] * bool(labelled)
    batch = collate([block | {"attention_mask": None} for block in columns_of(blocks, names)])
    width = max(len(b["input_ids"]) for b in blocks)
    assert list(batch) == ["input_ids", *["position_ids"] * options["position_ids"], "labels"]
    assert {(v.shape, v.dtype) for v in batch.values()} == {((len(blocks), width), torch.int64)}
    for row, block in enumerate(blocks):
        rest = width - len(block["input_ids"])
        assert batch["input_ids"][row].tolist() == block["input_ids"] + [0] * rest
        if options["position_ids"]:
            assert batch["position_ids"][row].tolist() == block["position_ids"] + [0] * rest
        assert batch["labels"][row, 1:].tolist() == block["labels"][1:] + [-100] * rest


def test_end_of_text_is_a_target_unlike_with_the_usual_collator(tokenizer):
    eos = tokenizer.eos_token_id
    blocks = [
        {"input_ids": [5, eos, 0, 7, eos], "position_ids": [0, 1, 2, 3, 4]},
        {"input_ids": [5, eos], "position_ids": [0, 1]},
    ]
    assert collate(blocks)["labels"].tolist() == [
        [-100, eos, 0, 7, eos],
        [-100, eos, -100, -100, -100],
    ]
    tokenizer.pad_token, before = tokenizer.eos_token, tokenizer.pad_token
    try:
        usual = DataCollatorForLanguageModeling(tokenizer, mlm=False)(
            [{"input_ids": b["input_ids"]} for b in blocks]
        )
    finally:
        tokenizer.pad_token = before
    assert eos not in usual["labels"]


@pytest.fixture(params=["gpt2", "llama"])
def model(request, small_model):
    if request.param == "gpt2":
        chosen = small_model
    else:
        torch.manual_seed(0)
        shape = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        }
        chosen = LlamaForCausalLM(
            LlamaConfig(vocab_size=64, max_position_embeddings=32, use_cache=False, **shape)
        )
    for module in chosen.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    chosen.loss_type = "ForCausalLM"
    return chosen.eval()


@pytest.fixture
def mixed_batch():
    """Two blocks of several documents, one cut across them, the second shorter; and where each
    document lies, (row, start, end).
    """
    generator = torch.Generator().manual_seed(1)
    documents = [
        torch.randint(1, 64, (n,), generator=generator).tolist() for n in (5, 0, 9, 12, 1, 8)
    ]
    spans = []
    for row, piece in enumerate(slow_pieces(documents, 22, "concat")):
        numbers = [number for _, number, _ in piece]
        spans += [
            (row, numbers.index(n), numbers.index(n) + numbers.count(n))
            for n in sorted(set(numbers))
        ]
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
    arguments = TrainingArguments(
        folder,
        max_steps=1,
        per_device_train_batch_size=len(rows),
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    stack = lambda rows: {k: torch.stack([r[k] for r in rows]) for k in rows[0]}  # noqa: E731
    model.config.use_cache = (
        True  # as most are loaded: left so by Trainer, it would switch the mask off
    )
    return (
        Trainer(model=model, args=arguments, train_dataset=rows, data_collator=stack)
        .train()
        .training_loss
    )


def test_the_training_loss_is_the_mean_over_the_tokens_of_documents_alone(
    model, mixed_batch, tmp_path
):
    (batch, spans), nats, tokens = mixed_batch, 0.0, 0
    with torch.no_grad():
        for row, start, end in spans:
            ids = batch["input_ids"][row, start:end]
            scores = model(input_ids=ids[None]).logits[0].double().log_softmax(-1)
            nats -= sum(scores[i, ids[i + 1]].item() for i in range(len(ids) - 1))
            tokens += len(ids) - 1
    assert trained_loss(model, batch, tmp_path) == pytest.approx(
        nats / tokens, rel=1e-6
    )  # float32: 8 units
