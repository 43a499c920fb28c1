"""Every step's parameters: defaults, limits, checks before any work."""

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from helpers.errors import ParameterError, RunError, UserError, nearest
from helpers.hub.secrets import is_secret_name, redacted


@dataclass(frozen=True)
class Rule:
    """The default of a parameter, which gives its type, and the values that it may have.

    Bounds are inclusive unless `open`.
    """

    default: bool | int | float | str
    low: float = -math.inf
    high: float = math.inf
    open: bool = False
    choices: tuple[str, ...] = ()
    empty: bool = False  # whether a string may be empty, which stands for none

    @property
    def kind(self) -> type:
        """`int`, `float`, `str` or `bool`."""
        return type(self.default)

    def needed(self) -> str:
        """Which values are valid, in words."""
        if self.choices:
            return "it must be one of " + ", ".join(repr(c) for c in self.choices)
        text = "a string" if self.empty else "a non-empty string"
        nouns = {int: "a whole number", float: "a number", str: text, bool: "true or false"}
        needed = f"it must be {nouns[self.kind]}"
        if self.high < math.inf:
            excluded = ", both excluded" if self.open else ""
            return f"{needed} between {self.low:,} and {self.high:,}{excluded}"
        if self.low > -math.inf:
            return f"{needed} {'greater than' if self.open else 'of at least'} {self.low}"
        return needed

    def check(self, name: str, value: object) -> object:
        """The value, converted from int to float if needed; ParameterError if it is not valid."""
        if self.kind is float and type(value) is int and abs(value) <= sys.float_info.max:
            value = float(value)
        valid = type(value) is self.kind
        if valid and self.kind in (int, float):
            inside = self.low < value < self.high if self.open else self.low <= value <= self.high
            valid = inside and abs(value) < math.inf
        if valid and self.kind is str:
            valid = value in self.choices if self.choices else self.empty or bool(value.strip())
        if not valid:
            raise ParameterError(name, value, self.needed())
        return value


def _one_of(*choices: str) -> Rule:
    return Rule(choices[0], choices=choices)


SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt")
OPTIONAL = Rule("", empty=True)
PROBES = (
    "It has the same {colour|color}; It is only a few {metres|meters}; "
    "It lies in the {centre|center}; It melts at 100 {°C|degrees}; "
    "Nobody knows why {–|-}; That {isn't|is not}; In a cell, {for example|for instance}"
)
RULES: dict[str, dict[str, Rule]] = {
    "load": {
        "dataset": Rule("embedded"),
        "configuration": OPTIONAL,
        "split": Rule("train"),
        "documents": _one_of("line", "paragraph", "file"),
        "streaming": Rule(False),
        "validation_size": Rule(0.1, 0, 1),
        "test_size": Rule(0.1, 0, 1, open=True),
        "group_near_duplicates": Rule(True),
        "text_column": Rule("answers.text"),
        "seed": Rule(42, 0, 2**32 - 1),
    },
    "preprocess": {
        "model": Rule("embedded"),
        "context": Rule(0, 0),
        "num_proc": Rule(2, 1, 1024),
        "shard": OPTIONAL,
    },
    "chunk": {
        "block_size": Rule(256, 2),
        "strategy": _one_of("concat", "pack", "document"),
        "remainder": _one_of("keep", "pad", "drop"),
        "overlap": Rule(0, 0),
        "seed": Rule(0, 0, 2**32 - 1),
    },
    "train": {
        "model": Rule("embedded"),
        "learning_rate": Rule(5e-4, 0, open=True),
        "weight_decay": Rule(0.01, 0),
        "num_train_epochs": Rule(2.0, 0, open=True),
        "per_device_train_batch_size": Rule(4, 1),
        "gradient_accumulation_steps": Rule(1, 1),
        "lr_scheduler_type": _one_of(*SCHEDULES),
        "warmup_ratio": Rule(0.0, 0, 1),
        "early_stopping_patience": Rule(0, 0),
        "lora_rank": Rule(0, 0),
        "merge_lora": Rule(True),
        "gradient_checkpointing": Rule(False),
        "torch_compile": Rule(False),
        "fsdp": Rule(False),
        "report_to": _one_of("none", "tensorboard", "trackio"),
        "sample_prompt": Rule("The sky is blue because"),
        "compute_dtype": _one_of("auto", "float32", "bfloat16"),
        "seed": Rule(42, 0, 2**32 - 1),
    },
    "evaluate": {
        "compute_dtype": _one_of("auto", "float32", "bfloat16"),
        "stride": Rule(128, 1),
        "max_documents": Rule(2000, 0),
        "probes": Rule(PROBES, empty=True),
        "push_to_hub": Rule(False),
        "hub_model_id": OPTIONAL,
        "hub_private_repo": Rule(True),
    },
    "infer": {
        "prompt": Rule("Bread rises because"),
        "prompts_file": OPTIONAL,
        "max_new_tokens": Rule(100, 1),
        "top_k": Rule(50, 0),
        "top_p": Rule(0.95, 0, 1),
        "temperature": Rule(1.0, 0, open=True),
        "seed": Rule(0, 0, 2**32 - 1),
    },
}
STEPS = tuple(RULES)
# Papermill writes parameters down before any of our code runs.
WRITTEN = "; if papermill was given it, delete the notebook that it wrote, which holds it"


def folder_of(step: str) -> str:
    """The name of a step's notebook, and of its folder in a run: `03_chunk` for `chunk`."""
    if step not in STEPS:
        raise RunError(f"There is no step {step!r}: {nearest(step, STEPS)}.")
    return f"{STEPS.index(step) + 1:02d}_{step}"


def check_order(start: str | None, until: str) -> None:
    """RunError where there is no such step, or the last one to do comes before the first."""
    folder_of(start or STEPS[0])
    folder_of(until)
    if start and STEPS.index(until) < STEPS.index(start):
        raise RunError(
            f"--until is {until!r}: it comes before --from, which is {start!r}; "
            f"end with {start!r} or a later step."
        )


def check_parameters(step: str, parameters: Mapping[str, object]) -> dict[str, object]:
    """The parameters of a step; ParameterError for one that is unknown or not valid."""
    folder_of(step)
    rules = RULES[step]
    for name, value in parameters.items():
        if name not in rules:
            refuse_secret(f"{step}.{name}")
            raise ParameterError(
                f"{step}.{name}", value, f"there is no such parameter, {nearest(name, rules)}"
            )
        if isinstance(value, str) and redacted(value) != value:
            raise UserError(
                f"{step}.{name} holds a token of the Hub: "
                f"set the variable HF_TOKEN instead{WRITTEN}."
            )
    return {name: rules[name].check(name, value) for name, value in parameters.items()}


def refuse_secret(name: str) -> None:
    """UserError, without its value, for a parameter that would hold a secret."""
    if is_secret_name(name):
        instead = f"set the variable HF_TOKEN or use `hf auth login`{WRITTEN}"
        raise UserError(f"{name} is refused: a run takes no secrets, {instead}.")


def parse_value(text: str) -> object:
    """A value from a command line: an int, a float, a bool, or the text itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind, pattern in ((int, r"[+-]?\d+"), (float, r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")):
        if re.fullmatch(pattern, text, re.ASCII):
            try:
                return kind(text)
            except ValueError:  # more digits than Python parses
                return text
    return text


def probes_of(text: str) -> list[tuple[str, str, str]]:
    """`few {metres|meters}; …` as ("few", " metres", " meters"), …: a prompt, two continuations.

    Raises:
        ParameterError: for a probe that does not end in two continuations in braces.
    """
    found, pattern = [], re.compile(r"(.*?)(\s*)\{([^{|}]+)\|([^{|}]+)\}\s*", re.S)
    for probe in filter(str.strip, text.split(";")):
        if not (match := pattern.fullmatch(probe.lstrip())):
            needed = "each part between semicolons must end like this: the same {colour|color}"
            raise ParameterError("probes", text, needed)
        prompt, space, *options = match.groups()
        found.append((prompt, *(space + option for option in options)))
    return found
