"""Training with transformers' Trainer: right losses, none dropped, and a learned end of text."""

import copy
import json
import logging
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    DataCollatorForLanguageModeling,
    EarlyStoppingCallback,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from helpers.chunking import chunk
from helpers.collation import collate
from helpers.engine.trainer import runtime_arguments
from helpers.errors import ModelError, ParameterError
from helpers.hub.sources import PROJECT
from helpers.models import load_model
from helpers.perplexity import score_blocks
from helpers.runs.notebook import path_of
from helpers.training import (
    BlockTrainer,
    Samples,
    add_lora,
    check_separable,
    check_tokenizers_agree,
    save_model,
)
from tests.small_models import llama, small
from tests.small_training import LENGTHS, blocks_of, trained, weights

CLOSE = 1e-6  # the loss of a batch is a float32 number, whose eps is 1.2e-7


def trainer_of(
    model, folder, train=None, test=None, collator=collate, kind=Trainer, callbacks=(), **settings
):
    """A trainer set up as in the notebook, by default transformers' own."""
    defaults = {"save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "report_to": "none"}
    defaults |= {"dataloader_pin_memory": False, "logging_nan_inf_filter": False}
    return kind(
        model=model,
        args=TrainingArguments(str(folder), **(defaults | settings)),
        train_dataset=test if train is None and kind is BlockTrainer else train,
        eval_dataset=test,
        data_collator=collator,
        callbacks=list(callbacks),
    )


def row_losses(model, blocks):
    """Nats and targets of each block by itself: log-softmax in float64."""
    nats, targets = [], []
    for ids, positions in zip(blocks["input_ids"][:], blocks["position_ids"][:], strict=True):
        with torch.no_grad():
            logits = (
                model(torch.tensor([ids]), position_ids=torch.tensor([positions]))
                .logits[0]
                .numpy()
                .astype(np.float64)
            )
        top = logits.max(1, keepdims=True)
        logs = logits - top - np.log(np.exp(logits - top).sum(1, keepdims=True))
        scored = [i for i in range(1, len(ids)) if positions[i] > 0]
        nats.append(-sum(logs[i - 1, ids[i]] for i in scored))
        targets.append(len(scored))
    return np.array(nats), np.array(targets)


def test_trainer_reports_too_low_a_loss_unless_loss_type_is_set(small_model, tmp_path):
    small_model.save_pretrained(tmp_path / "model")
    size = 16
    blocks = blocks_of([7 * size - 1], size, "concat")
    documents = blocks.remove_columns("position_ids").add_column("labels", blocks["input_ids"][:])
    assert len(blocks) == 7
    nats, targets = row_losses(small_model, blocks)
    assert targets.tolist() == [size - 1] * 7
    loss = nats.sum() / targets.sum()

    def reported(model):
        settings = {"collator": default_data_collator, "per_device_eval_batch_size": 7}
        return trainer_of(model, tmp_path, test=documents, **settings).evaluate()["eval_loss"]

    assert getattr(small_model, "loss_type", None) is None
    assert reported(small_model) == pytest.approx(loss * (size - 1) / size, rel=CLOSE)
    assert reported(load_model(tmp_path / "model")) == pytest.approx(loss, rel=CLOSE)
    assert score_blocks(small_model, blocks).loss == pytest.approx(loss, rel=CLOSE)


def test_a_nonfinite_evaluation_loss_is_not_dropped(small_model, tmp_path):
    small_model.loss_type = "ForCausalLM"
    small_model.transformer.wpe.weight.data[12] = math.nan
    blocks = blocks_of([6, 8, 15, 7])  # with its end, the third alone has a position 12
    nats, targets = row_losses(small_model, blocks)
    assert np.isfinite(nats).tolist() == [True, True, False, True]
    hidden = {"logging_nan_inf_filter": True, "per_device_eval_batch_size": 1}
    theirs = trainer_of(small_model, tmp_path, test=blocks, **hidden).evaluate()
    finite = np.isfinite(nats)
    assert theirs["eval_loss"] == pytest.approx((nats / targets)[finite].mean(), rel=CLOSE)
    with pytest.raises(ModelError, match="block 2 a loss of nan"):
        score_blocks(small_model, blocks)
    with pytest.raises(ModelError, match="block 2 a loss of nan"):
        trainer_of(small_model, tmp_path, test=blocks, kind=BlockTrainer).evaluate()


@pytest.mark.parametrize("fault", ["huge learning_rate", "poisoned weight"])
def test_a_nonfinite_training_loss_stops_and_names_the_step(fault, small_model, tmp_path):
    small_model.loss_type = "ForCausalLM"
    if fault == "poisoned weight":
        small_model.transformer.wpe.weight.data[12] = math.nan
    rate = 1e30 if fault == "huge learning_rate" else 0.125
    settings = {
        "learning_rate": rate,
        "max_steps": 6,
        "logging_steps": 1,
        "per_device_train_batch_size": 2,
    }
    blocks = blocks_of([15] * 12)

    hidden = trainer_of(
        copy.deepcopy(small_model),
        tmp_path / "theirs",
        blocks,
        **settings,
        logging_nan_inf_filter=True,
    )
    hidden.train()
    logged = [float(e["loss"]) for e in hidden.state.log_history if "loss" in e]
    assert len(logged) == 6 and np.isfinite(logged).all()  # what the library does
    with pytest.raises(ModelError) as error:
        trainer_of(small_model, tmp_path / "ours", blocks, kind=BlockTrainer, **settings).train()
    assert f"learning_rate, which is {rate:g}" in str(error.value)
    steps = (
        [1] if fault == "poisoned weight" else [2, 3]
    )  # the first loss is from before the first step
    assert any(f"at step {step}" in str(error.value) for step in steps)
    assert "nan" in str(error.value) or "inf" in str(error.value)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 16])
def test_the_evaluation_loss_weighs_tokens_not_rows(batch_size, small_model, tmp_path):
    small_model.loss_type = "ForCausalLM"
    small_model.transformer.wte.weight.data *= 20  # rows are hard and easy now
    blocks = blocks_of([1, 15, 2, 40, 9, 3, 1, 31, 5])
    nats, targets = row_losses(small_model, blocks)
    assert len(set(targets.tolist())) > 3
    token = nats.sum() / targets.sum()
    settings = {"test": blocks, "per_device_eval_batch_size": batch_size}
    ours = trainer_of(small_model, tmp_path, kind=BlockTrainer, **settings).evaluate()
    assert ours["eval_loss"] == pytest.approx(token, rel=CLOSE)
    found = trainer_of(small_model, tmp_path, **settings).evaluate()
    assert score_blocks(small_model, blocks).loss == pytest.approx(token, rel=CLOSE)
    batches = [slice(i, i + batch_size) for i in range(0, len(blocks), batch_size)]
    means = [np.full(len(nats[b]), nats[b].sum() / targets[b].sum()) for b in batches]
    assert found["eval_loss"] == pytest.approx(np.concatenate(means).mean(), rel=CLOSE)
    if batch_size < len(blocks):
        assert abs(found["eval_loss"] - token) > 100 * CLOSE * token


def toy(folder, collator, columns, kind):
    """A model of 9 letters and an end of text, trained on the documents 1 2 3, 4 5 6 and 7 8 9."""
    model = small(0.1, vocab_size=10, n_layer=1)
    documents = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    order = np.random.default_rng(0).integers(0, 3, 256)
    tokens = DatasetDict(train=Dataset.from_dict({"input_ids": [documents[i] for i in order]}))
    blocks = chunk(tokens, 16, 0)[0]["train"].select_columns(columns)
    rates = {"learning_rate": 1e-2, "per_device_train_batch_size": 8, "max_steps": 200}
    trainer_of(model, folder, blocks, collator=collator, kind=kind, **rates).train()
    return model.eval()


def written(model, document):
    output = model.generate(
        torch.tensor([document]), max_new_tokens=16, do_sample=False, pad_token_id=0
    )
    return output[0, len(document) :].tolist()


def test_the_end_of_a_text_is_learned_and_the_usual_collator_hides_it(tmp_path):
    words = Tokenizer(
        WordLevel({"<end>": 0} | {str(i): i for i in range(1, 10)}, unk_token="<end>")
    )
    usual = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", unk_token="<end>")
    usual.pad_token = usual.eos_token
    theirs = toy(
        tmp_path, DataCollatorForLanguageModeling(usual, mlm=False), ["input_ids"], Trainer
    )
    ours = toy(tmp_path, collate, ["input_ids", "position_ids"], BlockTrainer)
    for document in ([1, 2, 3], [4, 5, 6], [7, 8, 9]):
        assert written(ours, document[:1]) == [*document[1:], 0]
        for start in (document[:1], document):
            assert 0 not in written(theirs, start)
            assert len(written(theirs, start)) == 16
        with torch.no_grad():
            end = [
                m(torch.tensor([document])).logits[0, -1].softmax(-1)[0].item()
                for m in (ours, theirs)
            ]
        assert end[0] > 0.99
        assert end[1] < 0.01


@pytest.mark.parametrize(
    ("warmup_ratio", "steps"), [(0.0, 0), (0.1, 6), (0.11, 7), (0.999, 60), (1.0, 60)]
)
def test_warmup_is_a_share_of_all_steps(warmup_ratio, steps, small_model, tmp_path):
    """As the notebook hands it on: the library takes 1.0 for one step."""
    names = dict.fromkeys(("report_to", "dtype"), "none") | {"learning_rate": 5e-4}
    names |= {"lr_scheduler_type": "linear", "gradient_accumulation_steps": 1}
    names |= {"per_device_train_batch_size": 8}
    names |= dict.fromkeys(("gradient_checkpointing", "torch_compile", "fsdp"), False)
    names |= {"weight_decay": 0.0, "num_train_epochs": 1.0, "seed": 0, "warmup_ratio": warmup_ratio}
    names |= {"net": small_model, "step": SimpleNamespace(unfinished=tmp_path)}
    cells = json.loads(path_of("train").read_text(encoding="utf-8"))["cells"]
    names |= {"TrainingArguments": TrainingArguments, "runtime_arguments": runtime_arguments}
    sources = ["".join(cell["source"]) for cell in cells]
    for start in ("rarely_changed = {", "arguments = TrainingArguments("):
        [source] = [source for source in sources if source.startswith(start)]
        exec(source, names)
    assert names["arguments"].get_warmup_steps(60) == steps


def test_tokens_must_be_of_the_model_that_is_trained(tokenizer):
    check_tokenizers_agree(tokenizer, "embedded", copy.deepcopy(tokenizer))
    other = copy.deepcopy(tokenizer)
    other.add_tokens(["an added word"])
    with pytest.raises(
        ModelError, match=r"train\.model is 'my/model'.*preprocess\.model.*-p model=my/model"
    ):
        check_tokenizers_agree(tokenizer, "my/model", other)


def seeded_weights(model, folder, seed):
    set_seed(99)  # a state that the seed must overrule
    model = copy.deepcopy(model)
    blocks = blocks_of([15, 3, 9, 12, 15, 4] * 4)
    trainer_of(model, folder, blocks, seed=seed, max_steps=8, per_device_train_batch_size=3).train()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_training_is_the_same_for_the_same_seed(small_model, tmp_path):
    small_model.loss_type = "ForCausalLM"
    first, again, other = (seeded_weights(small_model, tmp_path, seed) for seed in (1, 1, 2))
    assert first.dtype == torch.float32
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_evaluation_loss_is_that_of_score_blocks_and_the_best_model_is_kept(tmp_path):
    trainer = trained(tmp_path, num_train_epochs=6, learning_rate=3e-2, load_best_model_at_end=True)
    losses = [e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e]
    assert len(losses) == 6
    assert score_blocks(trainer.model, blocks_of(LENGTHS)).loss == pytest.approx(
        min(losses), rel=1e-6
    )


def test_nothing_is_said_of_tied_weights_when_the_best_model_is_loaded(tmp_path, caplog):
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        trainer = trained(tmp_path, num_train_epochs=2, load_best_model_at_end=True)
        assert "missing keys" not in caplog.text
        trainer._issue_warnings_after_load(SimpleNamespace(missing_keys=["a"], unexpected_keys=[]))
    finally:
        logger.removeHandler(caplog.handler)
    assert "missing keys" in caplog.text


def test_training_stops_early(tmp_path):
    settings = {
        "num_train_epochs": 40,
        "learning_rate": 0.3,
        "load_best_model_at_end": True,
        "metric_for_best_model": "loss",
    }
    trainer = trained(tmp_path, callbacks=[EarlyStoppingCallback(1)], **settings)
    losses = [e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e]
    assert len(losses) < 40 and losses[-1] >= losses[-2]


def test_sampling_on_the_way_changes_nothing(tmp_path, tokenizer, capsys):
    model = load_model("embedded")
    blocks = blocks_of(LENGTHS)
    ends = []
    for callbacks in ([], [Samples(tokenizer, "The sky")]):
        settings = runtime_arguments(tmp_path / f"{len(ends)}", model, "float32") | {
            "max_steps": 2,
            "eval_strategy": "steps",
            "eval_steps": 1,
        }
        arguments = TrainingArguments(**settings, save_strategy="no", learning_rate=1e-3)
        net = copy.deepcopy(model)
        BlockTrainer(
            net,
            arguments,
            train_dataset=blocks,
            eval_dataset=blocks,
            data_collator=collate,
            callbacks=callbacks,
        ).train()
        ends.append(weights(net))
    assert torch.equal(*ends)
    assert [
        line[:15] for line in capsys.readouterr().out.splitlines() if line.startswith("step")
    ] == [f"step {n}: The sky" for n in range(3)]


@pytest.mark.parametrize("merge", [True, False])
def test_adapters_are_trained_saved_and_loaded(merge, tmp_path, tokenizer):
    base = load_model("embedded")
    before, count = weights(base), base.num_parameters()
    net = add_lora(load_model("embedded"), 4)
    assert 0 < net.num_parameters(only_trainable=True) < 0.05 * count
    trainer = trained(tmp_path, net)
    trainer.processing_class = tokenizer
    loss = score_blocks(net, blocks_of(LENGTHS)).loss
    save_model(trainer, tmp_path / "model", "embedded", merge)
    assert (tmp_path / "model" / "adapter_config.json").exists() is not merge
    assert str(PROJECT) not in "".join(p.read_text() for p in (tmp_path / "model").glob("*.json"))
    found = load_model(tmp_path / "model")
    assert score_blocks(found, blocks_of(LENGTHS)).loss == pytest.approx(loss, rel=1e-4)
    assert loss < score_blocks(base, blocks_of(LENGTHS)).loss - 0.1
    assert torch.equal(weights(base), before)


def test_a_rank_beyond_the_layer_is_refused():
    with pytest.raises(
        ParameterError, match="lora_rank is 33: the narrowest layer is 32 wide, choose 1 to 32"
    ):
        add_lora(small(), 33)


def test_documents_must_be_separable():
    """OPT takes position_ids and lets documents see each other all the same; Bloom takes none."""
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "n_layer": 1,
        "n_head": 2,
    }
    opt = OPTForCausalLM(OPTConfig(vocab_size=64, ffn_dim=32, word_embed_proj_dim=32, **sizes))
    bloom = BloomForCausalLM(BloomConfig(vocab_size=64, **sizes))
    packed, alone = blocks_of([3, 3, 3], strategy="concat"), blocks_of([3, 3, 3])
    for model in (small(), llama(True)):
        check_separable(model, packed)
    for model in (opt, bloom):
        for weight in model.parameters():
            weight.data *= 10  # random weights hardly attend to anything
        check_separable(model, alone)
        with pytest.raises(
            ModelError,
            match="lets the documents in a block see each other.*chunk.strategy to 'document'",
        ):
            check_separable(model, packed)
