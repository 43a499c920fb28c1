"""The table of parameters: rules, values from the command line, the notebooks' defaults."""

import math
import re

import papermill
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from helpers.errors import ParameterError
from helpers.runs.notebook import defaults, path_of
from helpers.runs.parameters import (
    RULES,
    SCHEDULES,
    STEPS,
    check_parameters,
    parse_value,
    probes_of,
)

ALL = [(step, name) for step in STEPS for name in RULES[step]]
NUMBERS = [(step, name) for step, name in ALL if RULES[step][name].kind in (int, float)]
HUGE = 10**400  # no float holds it
SEED = (int, (-1, 2**32), (0, 2**32 - 1), ("whole number", "between 0 and"))
TEXT = (str, ("", "  ", "\n"), ("a", "ü", "42"), ("string", "non-empty"))
SWITCH = (bool, (), (True, False), ("true or false",))
SIZE = (int, (0, -1), (1, 4), ("whole number", "1"))
DTYPE = (
    str,
    ("", "float16"),
    ("auto", "float32", "bfloat16"),
    ("'auto'", "'float32'", "'bfloat16'"),
)
MODEL = TEXT
# kind, values to refuse, values to accept, what the message must hold
OPTIONAL = (str, (), ("", "a b"), ("a string",))
EXPECTED = {
    "load": {
        "dataset": TEXT,
        "configuration": OPTIONAL,
        "split": TEXT,
        "documents": (
            str,
            ("", "page", "Line"),
            ("line", "paragraph", "file"),
            ("'line'", "'paragraph'", "'file'"),
        ),
        "streaming": SWITCH,
        "text_column": TEXT,
        "validation_size": (
            float,
            (-0.1, 1.5, 2),
            (0, 0.0, 1e-9, 0.1),
            ("between 0 and 1",),
        ),
        "test_size": (
            float,
            (0, 1, 0.0, 1.0, -0.1, 1.5, 2),
            (1e-9, 0.2, 0.999),
            ("between 0 and 1", "excluded"),
        ),
        "group_near_duplicates": SWITCH,
        "seed": SEED,
    },
    "preprocess": {
        "model": MODEL,
        "context": (int, (-1,), (0, 512), ("whole number", "0")),
        "num_proc": SIZE,
        "shard": OPTIONAL,
    },
    "chunk": {
        "block_size": (int, (1, 0, -8), (2, 128, 10**6), ("whole number", "2")),
        "strategy": (
            str,
            ("", "both", "Concat"),
            ("concat", "pack", "document"),
            ("'concat'", "'pack'", "'document'"),
        ),
        "remainder": (
            str,
            ("", "lose", "Drop"),
            ("keep", "pad", "drop"),
            ("'keep'", "'pad'", "'drop'"),
        ),
        "overlap": (int, (-1,), (0, 16), ("whole number", "0")),
        "seed": SEED,
    },
    "train": {
        "model": MODEL,
        "learning_rate": (float, (0, 0.0, -1e-4), (1e-12, 5e-4, 1), ("greater than 0",)),
        "weight_decay": (float, (-1e-9, -1), (0, 0.0, 0.01), ("at least 0",)),
        "num_train_epochs": (float, (0, -1), (0.5, 3), ("greater than 0",)),
        "per_device_train_batch_size": SIZE,
        "gradient_accumulation_steps": SIZE,
        "lr_scheduler_type": (
            str,
            ("", "linaer", "cosine_with_min_lr"),
            SCHEDULES,
            tuple(map(repr, SCHEDULES)),
        ),
        "warmup_ratio": (float, (-0.1, 1.5, 100), (0, 0.1, 1), ("between 0 and 1",)),
        "early_stopping_patience": (int, (-1,), (0, 3), ("whole number", "0")),
        "lora_rank": (int, (-1,), (0, 8), ("whole number", "0")),
        **dict.fromkeys(("merge_lora", "gradient_checkpointing", "torch_compile", "fsdp"), SWITCH),
        "report_to": (
            str,
            ("", "wandb"),
            ("none", "tensorboard", "trackio"),
            ("'none'", "'tensorboard'", "'trackio'"),
        ),
        "sample_prompt": TEXT,
        "compute_dtype": DTYPE,
        "seed": SEED,
    },
    "evaluate": {
        "compute_dtype": DTYPE,
        "stride": SIZE,
        "max_documents": (int, (-1,), (0, 2000), ("whole number", "0")),
        "push_to_hub": SWITCH,
        "hub_model_id": OPTIONAL,
        "hub_private_repo": SWITCH,
        "probes": OPTIONAL,
    },
    "infer": {
        "prompt": TEXT,
        "prompts_file": OPTIONAL,
        "max_new_tokens": SIZE,
        "top_k": (int, (-1,), (0, 50), ("whole number", "0")),
        "top_p": (float, (-0.01, 1.01, 2), (0, 0.95, 1), ("between 0 and 1",)),
        "temperature": (float, (0, -1), (0.1, 1), ("greater than 0",)),
        "seed": SEED,
    },
}
WRONG_TYPES = {
    int: (True, False, None, "2", "abc", 2.0, 2.5, math.nan, math.inf, -math.inf, [2], {}),
    float: (True, False, None, "0.5", "abc", math.nan, math.inf, -math.inf, [0.5], {}, 1j),
    bool: (0, 1, None, "true", 1.0, [True]),
    str: (True, None, 1, 0.5, math.nan, ["a"], {}, b"a"),
}


def refuse(step, name, value):
    with pytest.raises(ParameterError) as caught:
        check_parameters(step, {name: value})
    return str(caught.value)


def test_every_rule_is_covered_here():
    assert [(step, name) for step in EXPECTED for name in sorted(EXPECTED[step])] == [
        (step, name) for step in STEPS for name in sorted(RULES[step])
    ]


@pytest.mark.parametrize(("step", "name"), ALL)
def test_refusals_name_the_parameter_the_value_and_what_would_do(step, name):
    kind, bad, _, needed = EXPECTED[step][name]
    for value in (*bad, *WRONG_TYPES[kind]):
        message = refuse(step, name, value)
        shown = (repr(value), repr(float(value))) if type(value) is int else (repr(value),)
        assert message.partition(": ")[0] in [f"{name} is {v}" for v in shown]
        assert all(part in message.partition(": ")[2] for part in needed), message


@pytest.mark.parametrize(("step", "name"), ALL)
def test_fitting_values_are_handed_on(step, name):
    kind, _, good, _ = EXPECTED[step][name]
    for value in good:
        result = check_parameters(step, {name: value})
        assert result == {name: value} and type(result[name]) is kind


@pytest.mark.parametrize("value", [HUGE, -HUGE], ids=["huge", "-huge"])
def test_a_whole_number_beyond_every_float_overflows_nowhere(value):
    for step, name in NUMBERS:
        if RULES[step][name].kind is int and value > 0 and RULES[step][name].high == math.inf:
            assert check_parameters(step, {name: value}) == {name: value}
        else:
            assert refuse(step, name, value).startswith(f"{name} is ")


numbers = st.integers(-10, 10) | st.integers() | st.floats() | st.floats(-1, 2)


@given(st.sampled_from(NUMBERS), numbers)
@example(("load", "seed"), 2**32)
@example(("preprocess", "num_proc"), 1025)
def test_the_bounds_in_a_refusal_are_the_true_ones(where, value):
    step, name = where
    try:
        accepted = check_parameters(step, {name: value})[name]
        assert accepted == value and math.isfinite(value)
    except ParameterError as error:
        needed = str(error).partition(": ")[2]
        bounds = [
            float(b) for b in re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]\d+)?", needed.replace(",", ""))
        ]
        outside = value < bounds[0] or value > bounds[-1] if len(bounds) == 2 else value < bounds[0]
        on_open_bound = value in bounds and ("excluded" in needed or "greater" in needed)
        of_wrong_type = "whole" in needed and type(value) is float
        assert outside or on_open_bound or of_wrong_type or not math.isfinite(value), needed


@pytest.mark.parametrize(
    ("step", "typed", "meant"),
    [
        ("load", "text_colum", "text_column"),
        ("load", "data_set", "dataset"),
        ("chunk", "blocksize", "block_size"),
        ("train", "learning_rat", "learning_rate"),
        ("train", "warmup_steps", "warmup_ratio"),
        ("infer", "temprature", "temperature"),
    ],
)
def test_an_unknown_name_gives_the_nearest(step, typed, meant):
    message = refuse(step, typed, 7)
    assert f"{step}.{typed}" in message and "7" in message and repr(meant) in message


def test_an_unknown_name_that_is_near_nothing_gives_all():
    assert all(name in refuse("chunk", "qqq", 1) for name in RULES["chunk"])


def test_a_known_name_of_another_step_is_unknown():
    assert "chunk.top_p" in refuse("chunk", "top_p", 1)


def test_the_first_bad_value_among_good_ones_is_found():
    with pytest.raises(ParameterError, match="weight_decay"):
        check_parameters("train", {"learning_rate": 1e-4, "weight_decay": -1.0, "seed": 1})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("+2.5e+3", 2500.0),
        (".5e1", 5.0),
        ("0.2", 0.2),
        ("-3", -3),
        ("3", 3),
        ("true", True),
        ("false", False),
        ("abc", "abc"),
        ("e5", "e5"),
        ("", ""),
        ("null", "null"),
        ("[1, 2]", "[1, 2]"),
        ("a: b", "a: b"),
        ("{", "{"),
        ("2026-01-01", "2026-01-01"),
        ("train[:5000]", "train[:5000]"),
    ],
)
def test_values_as_typed(text, value):
    assert parse_value(text) == value and type(parse_value(text)) is type(value)


@pytest.mark.parametrize(
    "text",
    ["2026-13-45", "1" * 5000, "1:30", "null"],
    ids=["no-date", "too-many-digits", "time", "null"],
)
def test_what_looks_like_a_value_and_is_none_is_a_text(text):
    assert parse_value(text) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(1e16)
@example(5e-324)
@example(-0.0)
def test_floats_come_back_from_their_text(value):
    back = parse_value(repr(value))
    assert (
        type(back) is float and back == value and math.copysign(1, back) == math.copysign(1, value)
    )


@given(st.integers())
def test_whole_numbers_come_back_from_their_text(value):
    back = parse_value(str(value))
    assert type(back) is int and back == value


@given(st.text())
def test_any_text_is_parsed_to_a_plain_value(text):
    assert isinstance(parse_value(text), (bool, int, float, str))


@pytest.mark.parametrize("step", STEPS)
def test_the_parameter_cell_of_a_notebook_is_the_table_and_run_dir(step):
    given_ = defaults(path_of(step))
    assert set(given_) == {*RULES[step], "run_dir"}
    run_dir = given_.pop("run_dir")
    assert isinstance(run_dir, str) and run_dir == defaults(path_of("load"))["run_dir"]
    assert given_ == {name: rule.default for name, rule in RULES[step].items()}
    checked = check_parameters(step, given_)
    assert checked == given_ and {n: type(v) for n, v in checked.items()} == {
        n: type(v) for n, v in given_.items()
    }


@pytest.mark.parametrize("step", STEPS)
def test_papermill_finds_the_same_parameters_with_types_and_comments(step):
    found = papermill.inspect_notebook(str(path_of(step)))
    assert set(found) == {*RULES[step], "run_dir"}
    assert all(parameter["help"] for parameter in found.values())
    kinds = {name: rule.kind.__name__ for name, rule in RULES[step].items()} | {"run_dir": "str"}
    assert {name: parameter["inferred_type_name"] for name, parameter in found.items()} == kinds


def test_probes_keep_the_space_with_the_word():
    assert probes_of("about ten {metres|meters};It cost{s|ed}\n; {A|The};") == [
        ("about ten", " metres", " meters"),
        ("It cost", "s", "ed"),
        ("", "A", "The"),
    ]
    assert probes_of(" ") == []


@pytest.mark.parametrize("text", ["colour|color", "the {colour}", "the {a|b} c", "{a|b|c}", "{|b}"])
def test_a_probe_without_two_continuations_is_refused(text):
    with pytest.raises(ParameterError, match=r"probes is .*\{colour\|color\}"):
        probes_of("the same {colour|color}; " + text)
