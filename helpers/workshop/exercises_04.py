"""Exercises of notebook 04: labels, one step of gradient descent, a fair experiment."""

from collections.abc import Mapping

from helpers.errors import UserError, nearest
from helpers.hub.sources import resolve
from helpers.runs.parameters import RULES, check_parameters
from helpers.workshop.exercise import Exercise, by_cases, plain, shown, softmax

IGNORED = -100  # the label that PyTorch's loss leaves out
END = 1  # end of text, and padding, in the rows of 4.1


def _labels(ids: list[int], length: int) -> list[int]:
    return [*ids[:length], *[IGNORED] * (len(ids) - length)]


LABELS = by_cases(
    _labels,
    [([5, 9, 7, 3, 1, 1, 1], 5), ([4, 1, 1], 2), ([8, 6, 4, 1], 4)],
    [
        (
            lambda ids, length: [IGNORED if i == END else i for i in ids],
            "The last real token is masked too: it is the end of the text, and without it the "
            "model never learns to stop. Mask by place, not by value.",
        ),
        (
            lambda ids, length: [IGNORED, *_labels(ids, length)[1:]],
            "You hid the first token, as `collate` does. In a row of one document the model never "
            "uses that label, so it may stay: only padding is hidden here.",
        ),
        (lambda ids, length: list(ids), "Nothing is masked: padding is not to be learned."),
        (
            lambda ids, length: [*_labels(ids, length)[1:], IGNORED],
            "The labels are shifted. The model shifts them itself, so this would be done twice.",
        ),
        (
            lambda ids, length: [*ids[:length], *[0] * (len(ids) - length)],
            "Padding has the label 0 here, which is a token. Which label does the loss ignore?",
        ),
        (
            lambda ids, length: _labels(ids, length + 1)[: len(ids)],
            "One place of the padding is not masked.",
        ),
        (lambda ids, length: ids[:length], "The row is cut off. Labels are as long as the ids."),
    ],
    "Count the places of the row that are real. Which labels have the places after them?",
)


def _step(logits: list[float], target: int, rate: float, sign: int = -1) -> list[float]:
    gradient = [p - (i == target) for i, p in enumerate(softmax(logits))]
    return [logit + sign * rate * g for logit, g in zip(logits, gradient, strict=True)]


STEP = by_cases(
    _step,
    [([2.0, 1.0, 0.0], 1, 0.5), ([0.0, 0.0, 0.0, 0.0], 3, 1.0), ([1.0, -1.0], 0, 2.0)],
    [
        (
            lambda logits, target, rate: _step(logits, target, rate, 1),
            "The target has become less likely: the step goes up the slope, not down.",
        ),
        (
            lambda logits, target, rate: [
                x - rate * p for x, p in zip(logits, softmax(logits), strict=True)
            ],
            "Every logit goes down. The gradient of the target's logit is p − 1, not p.",
        ),
        (
            lambda logits, target, rate: [x + rate * (i == target) for i, x in enumerate(logits)],
            "Only the target's logit has moved. The others share in the loss through softmax.",
        ),
        (
            lambda logits, target, rate: _step(logits, target, 1.0),
            "The learning rate makes no difference.",
        ),
        (
            lambda logits, target, rate: [p - (i == target) for i, p in enumerate(softmax(logits))],
            "This is the gradient. A step takes the learning rate times it from the logits.",
        ),
        (
            lambda logits, target, rate: [
                rate * (p - (i == target)) for i, p in enumerate(softmax(logits))
            ],
            "This is how far the logits move. Where are they after the step?",
        ),
        (
            lambda logits, target, rate: softmax(_step(logits, target, rate)),
            "These are probabilities after the step. The logits themselves are what moves.",
        ),
    ],
    "The gradient of −log p[target] is softmax(logits), less 1 at the target. Go against it.",
)


SPEED = "It changes how fast or in how much memory the model is trained, not how good it becomes."
NO_BETTER = {  # parameters that make no model better, and what they do
    "seed": "It changes chance alone: two seeds show how much luck there is, not what is better.",
    "sample_prompt": "The model continues it on the way; no weight depends on it.",
    "report_to": "It says where the losses are written; no weight depends on it.",
    "merge_lora": "It says how adapters are saved; no weight depends on it.",
    "compute_dtype": SPEED,
    "gradient_checkpointing": SPEED,
    "torch_compile": SPEED,
    "fsdp": SPEED,
}


def _judge_experiment(answer: object) -> str | None:
    """Look whether a run changes one thing, and has a folder of its own."""
    answer = plain(answer)
    if not isinstance(answer, Mapping):
        return f'{shown(answer)} is not a dictionary, such as {{"run_dir": …, "NAME": …}}.'
    settings = {str(key).removeprefix("train."): value for key, value in answer.items()}
    folder = settings.pop("run_dir", None)
    if not isinstance(folder, str) or not folder.strip():
        return (
            "There is no `run_dir`: without one, the run goes into runs/tiny, over what is there."
        )
    if resolve(folder).resolve() == resolve("runs/tiny").resolve():
        return (
            f"run_dir is {folder!r}: that overwrites the run that you want to compare with. "
            "Give the experiment a folder of its own."
        )
    if unknown := [name for name in settings if name not in RULES["train"]]:
        return f"train has no parameter {unknown[0]!r}; {nearest(unknown[0], RULES['train'])}."
    try:
        settings = check_parameters("train", settings)
    except UserError as error:
        return str(error)
    changed = [name for name, value in settings.items() if value != RULES["train"][name].default]
    if not changed:
        return "Nothing differs from the defaults, so there is nothing to find out."
    if set(changed) <= set(NO_BETTER):
        return f"You change `{changed[0]}`. {NO_BETTER[changed[0]]}"
    if len(changed) > 1:
        return (
            f"{' and '.join(changed)} are changed at once. If the loss moves, which of them was it?"
        )
    return None


EXERCISES = (
    Exercise(
        "4.1",
        "Labels of a padded row",
        "easy",
        LABELS,
        (
            "The end of a text and padding have the same id here. What tells them apart?",
            "The first `length` places are real, whatever id stands there.",
            "The loss ignores the label −100.",
        ),
    ),
    Exercise(
        "4.2",
        "One step of gradient descent",
        "middle",
        STEP,
        (
            "Which logit should go up, and which should go down?",
            "Softmax gives p. The gradient is p for every token, and p − 1 for the target.",
            "Logits 0 and 0, target the first: p is ½ and ½, the gradient −½ and ½. At a rate of "
            "0.2 the logits become 0.1 and −0.1.",
        ),
    ),
    Exercise(
        "4.3",
        "A fair experiment",
        "open",
        _judge_experiment,
        (
            "Ask one question, such as: is half the learning rate better?",
            "Everything but that one parameter stays at its default.",
            "The folder is new, such as `runs/half-rate`; `compare` then sets it beside runs/tiny.",
        ),
    ),
)
