"""Training on blocks: the trainer, checks, adapters, the saved model."""

import inspect
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import TrainerCallback

from helpers.engine.loaded_model import depends_on_others
from helpers.engine.progress import is_watched, no_bars
from helpers.engine.tiled_loss import training_forward
from helpers.engine.trainer import ResumableTrainer
from helpers.errors import ModelError, ParameterError
from helpers.generation import continue_text
from helpers.perplexity import score_blocks

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class BlockTrainer(ResumableTrainer):
    """transformers' Trainer for blocks, with a right loss and a training that can be interrupted.

    - The evaluation loss is that of `score_blocks`: every token has the same weight, and a loss
      that is not a number stops the training.
    - The training loss of large batches is computed tile by tile, see `helpers.engine.tiled_loss`.
    - Checkpoints, resumption and batches too large for memory: see `ResumableTrainer`.
    """

    def train(self, *args, **kwargs):
        """Train to the end, from the last checkpoint on; after an interruption, call it again."""
        with training_forward(self.model, self.args, self.train_dataset):
            return super().train(*args, **kwargs)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """The loss of the evaluation blocks, in nats per token."""
        dtype = "bfloat16" if self.args.bf16 else "float32"
        blocks = self.eval_dataset if eval_dataset is None else eval_dataset
        metrics = {f"{metric_key_prefix}_loss": score_blocks(self.model, blocks, dtype).loss}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


class Samples(TrainerCallback):
    """Lets the model continue a prompt, before the training and after each evaluation.

    The texts get into the log of the training, and are printed where no panel shows them. The
    training is the same as without it.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", prompt: str, max_new_tokens: int = 24):
        self.tokenizer, self.prompt, self.max_new_tokens = tokenizer, prompt, max_new_tokens

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        """Write a text with the base model."""
        if not state.global_step:
            self.on_evaluate(args, state, control, model)

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        """Write a text with the model as it is now."""
        text = continue_text(model, self.tokenizer, self.prompt, self.max_new_tokens)
        text = " ".join(text.split())
        place = {"step": state.global_step, "epoch": state.epoch or 0.0}
        state.log_history.append(place | {"sample": text})
        if state.is_world_process_zero and not is_watched():
            print(f"step {state.global_step}: {text} …")


def check_tokenizers_agree(
    made_with: "PreTrainedTokenizerBase", model: str, own: "PreTrainedTokenizerBase"
) -> None:
    """ModelError if the tokens were made with another tokenizer than the model's own."""
    if made_with.get_vocab() != own.get_vocab():
        raise ModelError(
            f"train.model is {model!r}, but the tokens were made with another model's tokenizer: "
            f"set preprocess.model to {model!r} too (-p model={model})."
        )


def check_separable(model: "PreTrainedModel", blocks: "Dataset") -> None:
    """ModelError if documents share blocks and the model ignores `position_ids`.

    The second document of the first block with two must get the same logits as without the first.
    """
    import torch

    if "position_ids" not in blocks.column_names:
        return
    for block in blocks:
        starts = [i for i, position in enumerate(block["position_ids"]) if position == 0]
        if len(starts) > 1:
            break
    else:
        return
    accepted = {"position_ids"} & inspect.signature(model.forward).parameters.keys()
    inputs = {name: torch.tensor([block[name]]) for name in ("input_ids", *accepted)}
    second = slice(*[*starts, None][1:3])
    if depends_on_others(model, inputs.pop("input_ids"), second, 2e-3, **inputs):
        raise ModelError(
            f"A model of type {model.config.model_type!r} lets the documents in a block see each "
            "other: set chunk.strategy to 'document'."
        )


def add_lora(model: "PreTrainedModel", rank: int) -> "PeftModel":
    """The model with frozen weights, and adapters beside its linear layers (LoRA, Hu et al. 2021).

    Raises:
        ParameterError: for a rank greater than the width of the narrowest layer.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    head = model.get_output_embeddings()
    linear = [m for m in model.modules() if type(m).__name__ in ("Linear", "Conv1D")]
    narrowest = min(min(m.weight.shape) for m in linear if m is not head)
    if rank > narrowest:
        needed = f"the narrowest layer is {narrowest} wide, choose 1 to {narrowest}"
        raise ParameterError("lora_rank", rank, needed)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        fan_in_fan_out=any(type(m).__name__ == "Conv1D" for m in linear),
    )
    return get_peft_model(model, config)


def save_model(trainer: BlockTrainer, folder: Path, base: str, merge: bool = True) -> None:
    """Write the trained model and its tokenizer to a folder that `load_model` loads.

    Weights on several devices are gathered.

    Args:
        base: The name of the base model, which adapters are saved with.
        merge: Whether to merge adapters into the weights, or save them alone.
    """
    model, adapted = trainer.model, hasattr(trainer.model, "peft_config")
    if adapted:
        for config in model.peft_config.values():
            config.base_model_name_or_path = base
        model = model.merge_and_unload() if merge else model
    sharded = trainer.is_fsdp_enabled
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if sharded else None
    if not trainer.is_world_process_zero():
        return
    model.config.use_cache = True
    options = {"save_embedding_layers": False} if adapted and not merge else {}
    with no_bars():
        model.save_pretrained(folder, state_dict=state, **options)
    trainer.processing_class.save_pretrained(folder)
    for logs in (Path(trainer.args.output_dir, name) for name in ("tensorboard", "trackio")):
        if logs.exists():
            shutil.copytree(logs, folder.parent / logs.name, dirs_exist_ok=True)
