"""What comes before and after a training: the precision that is fastest here, checks, adapters, what is kept of it."""

import inspect
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.errors import ModelError, ParameterError

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerState


def choose_dtype(compute_dtype: str = "auto", folder: Path | None = None) -> str:
    """`float32` or `bfloat16`: what to compute in, the weights being float32 in either case.

    `auto` is bfloat16 on a GPU that has it; on a CPU it is bfloat16 if a matrix product is at least 1.5 times as fast in it as in
    float32, measured here and now: a processor that lists the instructions need not be any faster with them.
    What `auto` was decided to be is written down in `folder`: a training that is resumed, and the other processes of one that
    several share, take the same. Raises ParameterError for bfloat16 on a GPU without it.
    """
    import torch
    from filelock import FileLock

    if compute_dtype == "auto" and folder is not None:
        decided = folder / "compute_dtype"
        with FileLock(f"{decided}.lock"):
            if not decided.exists() or not decided.read_text():
                decided.write_text(choose_dtype())
            compute_dtype = decided.read_text()
    if torch.cuda.is_available():
        if compute_dtype == "bfloat16" and not torch.cuda.is_bf16_supported():
            raise ParameterError(
                "compute_dtype", compute_dtype, "this GPU has no bfloat16, use 'float32'"
            )
        return (
            ("bfloat16" if torch.cuda.is_bf16_supported() else "float32")
            if compute_dtype == "auto"
            else compute_dtype
        )
    if compute_dtype != "auto":
        return compute_dtype
    return "bfloat16" if _seconds(torch.float32) > 1.5 * _seconds(torch.bfloat16) else "float32"


def _seconds(dtype: "torch.dtype", size: int = 768, device: str = "cpu") -> float:
    """The best of five products of two square matrices."""
    import torch

    a = torch.ones(size, size, dtype=dtype, device=device)
    times = []
    for _ in range(6):
        began = time.perf_counter()
        a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def peak_share(
    model: "PreTrainedModel", tokens_per_second: float, length: int, dtype: str
) -> float:
    """Which share of this machine's arithmetic peak a training uses: model FLOPs utilization (PaLM, Chowdhery et al. 2022).

    The peak is that of a product of large matrices in `dtype`, measured now. A token takes 2 operations forward and 4 backward (2
    where the weight is frozen) for each weight of a linear layer, and attention 12 for each layer, width and token of the `length` seen.
    """
    import torch

    size = 8192 if model.device.type == "cuda" else 1536
    peak = 2 * size**3 / _seconds(getattr(torch, dtype), size, model.device.type)
    layers = [m.weight for m in model.modules() if type(m).__name__ in ("Linear", "Conv1D")]
    config = model.config.get_text_config()
    operations = sum(weight.numel() * (6 if weight.requires_grad else 4) for weight in layers)
    return (
        tokens_per_second
        * (operations + 12 * config.num_hidden_layers * config.hidden_size * length)
        / peak
    )


def check_tokenizers_agree(
    made_with: "PreTrainedTokenizerBase", model: str, own: "PreTrainedTokenizerBase"
) -> None:
    """ModelError if the tokens of step `preprocess` were not made with the tokenizer that `model` was trained with."""
    if made_with.get_vocab() != own.get_vocab():
        raise ModelError(
            f"train.model is {model!r}, but the tokens were made with another model's tokenizer: set preprocess.model to {model!r} too (-p model={model})."
        )


def check_separable(model: "PreTrainedModel", blocks: "Dataset") -> None:
    """ModelError if documents share blocks, and the model lets them see each other, whatever `position_ids` say.

    It is tried on the first block that holds two documents: the second must get the same logits as without the first.
    """
    import torch

    if "position_ids" not in blocks.column_names:
        return
    for block in blocks:
        positions = torch.tensor([block["position_ids"]], device=model.device)
        starts = (positions[0] == 0).nonzero()[:, 0].tolist()
        if len(starts) > 1:
            ids = torch.tensor([block["input_ids"]], device=model.device)
            second = slice(starts[1], (*starts, len(ids[0]))[2])
            model.eval()
            with torch.inference_mode():
                takes = "position_ids" in inspect.signature(model.forward).parameters
                given = {"position_ids": positions} if takes else {}
                together = model(input_ids=ids, use_cache=False, **given).logits[0, second].float()
                alone = model(input_ids=ids[:, second], use_cache=False).logits[0].float()
            if (together - alone).abs().max() > 2e-3 * alone.abs().max():
                raise ModelError(
                    f"A model of type {model.config.model_type!r} lets the documents in a block see each other: "
                    "set chunk.strategy to 'document'."
                )
            return


def add_lora(model: "PreTrainedModel", rank: int) -> "PeftModel":
    """The model with its weights frozen, and adapters of this rank beside its linear layers (LoRA, Hu et al. 2021), by `peft`.

    Raises ParameterError for a rank that is greater than a layer is wide.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    head = model.get_output_embeddings()
    layers = [
        m for m in model.modules() if type(m).__name__ in ("Linear", "Conv1D") and m is not head
    ]
    widest = min(min(m.weight.shape) for m in layers)
    if rank > widest:
        raise ParameterError(
            "lora_rank", rank, f"the narrowest layer is {widest} wide, choose 1 to {widest}"
        )
    transposed = any(type(m).__name__ == "Conv1D" for m in layers)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        fan_in_fan_out=transposed,
    )
    return get_peft_model(model, config)


def housekeeping(
    checkpoints: Path,
    model: "PreTrainedModel",
    dtype: str,
    report_to: str = "none",
    fsdp: bool = False,
) -> dict[str, object]:
    """Those arguments of `TrainingArguments` that do not change what is learned.

    Where checkpoints go and how many are kept; what is computed in; what is logged, and that losses are not hidden which are not numbers.
    Raises ParameterError for a `report_to` that is not installed, and for `fsdp` where there are not several processes with a GPU each.
    """
    import importlib.util

    if fsdp and (model.device.type != "cuda" or os.environ.get("WORLD_SIZE", "1") == "1"):
        raise ParameterError(
            "fsdp",
            fsdp,
            "it needs several GPUs, and `python -m helpers train --nproc N` to use them",
        )
    if report_to != "none" and importlib.util.find_spec(report_to) is None:
        raise ParameterError(
            "report_to", report_to, f"that package is not here, `pip install {report_to}` brings it"
        )
    os.environ |= {
        "TENSORBOARD_LOGGING_DIR": str(checkpoints / "tensorboard"),
        "TRACKIO_DIR": str(checkpoints / "trackio"),
    }
    cuda = model.device.type == "cuda"
    return {
        "output_dir": str(checkpoints),
        "save_total_limit": 3,  # the best, the last, and the one that is being written
        "metric_for_best_model": "loss",
        "bf16": dtype == "bfloat16",
        "tf32": True if cuda else None,
        "use_cpu": not cuda,
        "dataloader_pin_memory": cuda,
        "logging_steps": 10,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "report_to": report_to,
        "fsdp": fsdp or None,
    }


def save_model(trainer: "Trainer", folder: Path, base: str, merge: bool = True) -> None:
    """Write the trained model and its tokenizer to a folder that `load_model` loads: safetensors, no pickles.

    Adapters are merged into the weights, or else written by themselves, with the name of the `base` model that they belong to. Where weights
    lie on several devices, they are gathered.
    """
    model, adapted = trainer.model, hasattr(trainer.model, "peft_config")
    if adapted:
        for config in model.peft_config.values():
            config.base_model_name_or_path = base
        model = model.merge_and_unload() if merge else model
    state = (
        trainer.accelerator.get_state_dict(trainer.model_wrapped)
        if trainer.is_fsdp_enabled
        else None
    )
    if not trainer.is_world_process_zero():
        return
    model.config.use_cache = True
    model.save_pretrained(
        folder,
        state_dict=state,
        **({} if merge or not adapted else {"save_embedding_layers": False}),
    )
    trainer.processing_class.save_pretrained(folder)
    logs = Path(trainer.args.output_dir) / "tensorboard"
    if logs.exists():
        shutil.copytree(logs, folder.parent / "tensorboard", dirs_exist_ok=True)


def losses_of(state: "TrainerState") -> list[dict[str, float]]:
    """The log of a training: step, epoch, and the training or evaluation loss in nats a token."""
    kept = []
    for entry in state.log_history:
        place = {"step": entry["step"], "epoch": round(float(entry["epoch"]), 4)}
        if "loss" in entry:
            kept.append(place | {"train_loss": float(entry["loss"])})
        if "eval_loss" in entry:
            kept.append(place | {"test_loss": float(entry["eval_loss"])})
    return kept
