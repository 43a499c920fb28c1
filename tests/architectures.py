"""Transformers' causal architectures, built small: `python -m tests.architectures TYPE …`.

A line of JSON is printed for each: its type, and what came of it: `passed`, or the step at which it
failed and why. The type `crashes` ends the process, for a test; one of two minutes does so too.
"""

import faulthandler
import inspect
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedConfig, TrainingArguments, logging
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from helpers.chunking import chunk
from helpers.collation import collate
from helpers.engine.trainer import runtime_arguments
from helpers.errors import ModelError
from helpers.models import context_length, load_model
from helpers.perplexity import score_documents
from helpers.training import BlockTrainer, check_separable

SIZES = {  # names of sizes in configurations, by what a small model has there
    64: "attention_chunk_size attention_hidden_size attention_window_size chunk_size "
    "context_length decoder_ffn_dim dense_intermediate_size dff encoder_ffn_dim "
    "feed_forward_size ffn_dim ffn_dim_dense ffn_hidden_size filter_size index_topk "
    "inner_size intermediate_size intermediate_size_mlp lru_width max_position_embeddings "
    "max_seq_len max_sequence_length max_window_layers mlp_dim n_inner n_positions "
    "original_max_position_embeddings seq_length shared_expert_intermediate_size "
    "shared_intermediate_size shared_transformer_intermediate_size sliding_window "
    "vocab_size vocab_size_per_layer_input",
    32: "attention_hidden_dim d_embed d_model dim emb_dim embed_dim embedding_size "
    "expert_ffn_hidden_size hidden_dim hidden_size moe_ffn_hidden_size "
    "moe_intermediate_size n_embd n_embed word_embed_proj_dim",
    16: "attention_head_size d_head d_kv dim_head global_head_dim head_dim "
    "hidden_size_per_layer_input index_head_dim kda_head_dim key_value_proj_dim "
    "kv_lora_rank lightning_head_dim linear_key_head_dim linear_value_head_dim mamba_d_head "
    "mamba_head_dim q_lora_rank qk_head_dim swa_head_dim v_head_dim",
    8: "laurel_rank mamba_d_state mamba_dt_rank mamba_state_dim o_lora_rank qk_nope_head_dim "
    "qk_rope_head_dim rotary_dim ssm_state_size state_size time_step_rank",
    4: "chunk_length conv_L_cache conv_kernel d_conv index_n_heads linear_conv_kernel_dim "
    "mamba_d_conv mamba_n_heads mamba_num_heads moe_num_experts n_mamba_heads "
    "n_routed_experts num_buckets num_experts num_heads_mamba num_local_experts "
    "num_routed_experts",
    2: "decoder_attention_heads decoder_layers encoder_attention_heads encoder_layers "
    "kv_n_heads linear_num_key_heads linear_num_value_heads moe_k moe_top_k moe_topk n_head "
    "n_heads n_kv_heads n_layer n_layers num_attention_groups num_attention_heads "
    "num_decoder_layers num_encoder_layers num_experts_per_tok num_experts_per_token "
    "num_heads num_hidden_layers num_key_value_heads num_kv_heads num_layers "
    "swa_num_attention_heads swa_num_key_value_heads top_k_experts zero_expert_num",
    1: "first_k_dense_replace mamba_n_groups mamba_ngroups n_group n_groups n_shared_experts "
    "num_mem_blocks num_shared_experts num_zero_experts topk_group",
    0.2: "init_std initializer_range initializer_std",
}
MORE = {  # what some need besides
    "bailing_hybrid": {"head_dim": 16},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma4_assistant": {"hidden_size_per_layer_input": 0},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 4},
    "nemotron": {"num_key_value_heads": 2},
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [8, 8]},
    "rwkv": {"attention_hidden_size": 32},
    "xmod": {"default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1},
}
SECONDS = 120  # for one architecture
LIMIT = 2e7  # parameters of a model that counts as small


def small_sizes(base: PreTrainedConfig) -> dict[str, object]:
    """What makes a configuration small, its parts included.

    There are two layers, of different types where a kind has several.
    """
    given, there = {}, base.to_dict()
    aliases = {v: k for k, v in base.attribute_map.items()}
    for size, names in SIZES.items():
        has = [n for n in names.split() if there.get(n) is not None or aliases.get(n) in there]
        given |= dict.fromkeys(has, size)
    if "qk_rope_head_dim" in there:
        given.pop("head_dim", None)
    layers = getattr(base, "num_hidden_layers", None)
    for name, value in there.items():
        if isinstance(value, list) and len(value) == layers and layers > 2:
            different = next((v for v in value if v != value[0]), value[0])
            given[name] = [given[name]] * 2 if name in given else [value[0], different]
    given |= {n: 0 for n in ("pad_token_id", "bos_token_id", "eos_token_id") if n in there}
    for name in base.sub_configs:
        part = getattr(base, name, None)
        if part is not None:
            given[name] = {**part.to_dict(), **small_sizes(part)}
    return given


def small_config(kind: str) -> PreTrainedConfig:
    """A configuration as small as its kind allows."""
    given = small_sizes(CONFIG_MAPPING[kind]())
    return CONFIG_MAPPING[kind](**{**given, "is_decoder": True, **MORE.get(kind, {})})


def build(kind: str) -> torch.nn.Module:
    """A model with random weights (seeded), float32, in evaluation."""
    config = small_config(kind)
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > LIMIT:
        raise ValueError(f"{size:,} parameters")
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def own_nats(model: torch.nn.Module, document: list[int]) -> float:
    """The nats of a document after the prefix 1, by the model's own forward."""
    ids = torch.tensor([[1, *document]])
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
    return float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))


def leaks(model: torch.nn.Module, blocks: Dataset) -> float:
    """How much another first document in a block changes the logits of the second.

    It is the largest change, as a share of the largest logit.
    """
    block = blocks[0]
    start = block["position_ids"].index(0, 1)
    ids = torch.tensor([block["input_ids"], [*[5] * start, *block["input_ids"][start:]]])
    takes = "position_ids" in inspect.signature(model.forward).parameters
    given = {"position_ids": torch.tensor([block["position_ids"]])} if takes else {}
    with torch.no_grad():
        rows = [model(input_ids=row[None], use_cache=False, **given).logits[0] for row in ids]
    one, other = (row[start : start + 5] for row in rows)
    return float((one - other).abs().max() / one.abs().max())


def train(model: torch.nn.Module, blocks: Dataset, folder: Path) -> None:
    """Two steps; AssertionError where the weights stay as they are, or are not finite."""
    before = [p.detach().clone() for p in model.parameters()]
    settings = runtime_arguments(folder, model, "float32") | {
        "max_steps": 2,
        "save_strategy": "no",
        "learning_rate": 1e-3,
    }
    arguments = TrainingArguments(**settings, per_device_train_batch_size=2, logging_strategy="no")
    BlockTrainer(model, arguments, train_dataset=blocks, data_collator=collate).train()
    after = list(model.parameters())
    assert all(p.isfinite().all() for p in after), "weights are not finite"
    assert any((a != b).any() for a, b in zip(before, after, strict=True)), "weights did not change"


def attempt(kind: str) -> tuple[str, str]:
    """How far an architecture gets, and why no further."""
    step = "cannot be built small"
    try:
        with tempfile.TemporaryDirectory() as folder:
            model = build(kind)
            own_nats(model, [3, 4])
            model.save_pretrained(folder)
            step = "load"
            try:
                loaded = load_model(folder)
            except ModelError as error:
                return "refused", str(error).partition(": ")[2]
            step = "score"
            random = np.random.default_rng(0)
            documents = [random.integers(2, 60, n).tolist() for n in (6, 17, 1, 31)]
            expected = np.array([own_nats(model, d) for d in documents])
            context = context_length(loaded)
            if context <= 512:
                documents.append(random.integers(2, 60, context + 9).tolist())
            score = score_documents(loaded, documents, [""] * len(documents), 1)
            np.testing.assert_allclose(score.nats[:4], expected, rtol=1e-4)
            step = "pack"
            split = Dataset.from_dict({"input_ids": documents[:4] * 3})
            blocks = chunk(split, 24, 0, "concat")[0]
            share, said = leaks(loaded, blocks), ""
            try:
                check_separable(loaded, blocks)
                assert share < 1e-2, f"documents see each other ({share:.1e}), which is not refused"
            except ModelError:
                assert share > 1e-5, f"refused, but documents do not see each other ({share:.1e})"
                said, blocks = "packing refused", chunk(split, 24, 0, "document")[0]
            step = "train"
            train(loaded, blocks, Path(folder) / "checkpoints")
            return "passed", said
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        return step, f"{type(error).__name__}: {' '.join(lines[:4])[:300]}"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    for kind in sys.argv[1:]:
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        if kind == "crashes":
            os.abort()
        step, why = attempt(kind)
        print(json.dumps({"type": kind, "step": step, "why": why}), flush=True)
