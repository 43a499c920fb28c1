"""What each notebook's parameters may be: one table, checked before any work is done."""

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from helpers.errors import ParameterError, RunError, UserError, nearest
from helpers.redaction import is_secret_name, redacted


@dataclass(frozen=True)
class Rule:
    """The type of a parameter, and the values that it may take: bounds (inclusive unless `open`) or choices."""

    kind: type
    low: float = -math.inf
    high: float = math.inf
    open: bool = False
    choices: tuple[str, ...] = ()
    empty: bool = False  # whether a text may be empty, which then stands for none

    def needed(self) -> str:
        """What would do, in words."""
        if self.choices:
            return "it must be one of " + ", ".join(repr(c) for c in self.choices)
        noun = {
            int: "a whole number",
            float: "a number",
            str: "a text" if self.empty else "a text that is not empty",
            bool: "true or false",
        }[self.kind]
        if self.high < math.inf:
            return f"it must be {noun} between {self.low:,} and {self.high:,}" + (
                ", both excluded" if self.open else ""
            )
        if self.low > -math.inf:
            return f"it must be {noun} {'greater than' if self.open else 'of at least'} {self.low}"
        return f"it must be {noun}"

    def check(self, name: str, value: object) -> object:
        """The value, an int made a float where a float is asked for; ParameterError where it does not fit."""
        if self.kind is float and type(value) is int and abs(value) <= sys.float_info.max:
            value = float(value)
        fits = type(value) is self.kind
        if fits and self.kind in (int, float):
            inside = self.low < value < self.high if self.open else self.low <= value <= self.high
            fits = inside and abs(value) < math.inf
        if fits and self.kind is str:
            fits = value in self.choices if self.choices else self.empty or bool(value.strip())
        if not fits:
            raise ParameterError(name, value, self.needed())
        return value


def _text(*choices: str) -> Rule:
    return Rule(str, choices=choices)


SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt")
OPTIONAL = Rule(str, empty=True)
RULES: dict[str, dict[str, Rule]] = {
    "load": {
        "dataset": _text(),
        "configuration": OPTIONAL,
        "split": _text(),
        "test_size": Rule(float, 0, 1, open=True),
        "group_near_duplicates": Rule(bool),
        "text_column": _text(),
        "seed": Rule(int, 0, 2**32 - 1),
    },
    "preprocess": {"model": _text(), "context": Rule(int, 0), "num_proc": Rule(int, 1, 1024)},
    "chunk": {
        "block_size": Rule(int, 2),
        "strategy": _text("concat", "pack", "document"),
        "remainder": _text("keep", "pad", "drop"),
        "overlap": Rule(int, 0),
        "seed": Rule(int, 0, 2**32 - 1),
    },
    "train": {
        "model": _text(),
        "learning_rate": Rule(float, 0, open=True),
        "weight_decay": Rule(float, 0),
        "num_train_epochs": Rule(float, 0, open=True),
        "per_device_train_batch_size": Rule(int, 1),
        "gradient_accumulation_steps": Rule(int, 1),
        "lr_scheduler_type": _text(*SCHEDULES),
        "warmup_ratio": Rule(float, 0, 1),
        "early_stopping_patience": Rule(int, 0),
        "lora_rank": Rule(int, 0),
        "merge_lora": Rule(bool),
        "gradient_checkpointing": Rule(bool),
        "torch_compile": Rule(bool),
        "fsdp": Rule(bool),
        "report_to": _text("none", "tensorboard", "trackio"),
        "sample_prompt": _text(),
        "compute_dtype": _text("auto", "float32", "bfloat16"),
        "seed": Rule(int, 0, 2**32 - 1),
    },
    "evaluate": {
        "compute_dtype": _text("auto", "float32", "bfloat16"),
        "stride": Rule(int, 1),
        "push_to_hub": Rule(bool),
        "hub_model_id": OPTIONAL,
        "hub_private_repo": Rule(bool),
    },
    "infer": {
        "prompt": _text(),
        "max_new_tokens": Rule(int, 1),
        "top_k": Rule(int, 0),
        "top_p": Rule(float, 0, 1),
        "temperature": Rule(float, 0, open=True),
        "seed": Rule(int, 0, 2**32 - 1),
    },
}
STEPS = tuple(RULES)


def folder_of(step: str) -> str:
    """`chunk` is `03_chunk`: the name of its notebook and of its folder in a run; RunError where there is no such step."""
    if step not in STEPS:
        raise RunError(f"There is no step {step!r}: {nearest(step, STEPS)}.")
    return f"{STEPS.index(step) + 1:02d}_{step}"


def check_parameters(step: str, parameters: Mapping[str, object]) -> dict[str, object]:
    """The parameters of a step, each checked against its rule; ParameterError for one that is unknown or does not fit."""
    folder_of(step)
    rules = RULES[step]
    for name, value in parameters.items():
        if name not in rules:
            refuse_secret(f"{step}.{name}")
            raise ParameterError(f"{step}.{name}", value, f"there is no such parameter, {nearest(name, rules)}")
        if isinstance(value, str) and redacted(value) != value:
            raise UserError(f"{step}.{name} holds a token of the Hub: set the variable HF_TOKEN in its place.")
    return {name: rules[name].check(name, value) for name, value in parameters.items()}


def refuse_secret(name: str) -> None:
    """UserError, without its value, for a parameter that would hold a secret."""
    if is_secret_name(name):
        raise UserError(f"{name} is refused: a run takes no secrets, set the variable HF_TOKEN or use `hf auth login`.")


def parse_value(text: str) -> object:
    """A value as typed on a command line: a whole number, a number (`1e-4` too), `true` or `false`, else the text itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind, pattern in ((int, r"[+-]?\d+"), (float, r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")):
        if re.fullmatch(pattern, text, re.ASCII):
            try:
                return kind(text)
            except ValueError:  # more digits than Python reads
                return text
    return text
