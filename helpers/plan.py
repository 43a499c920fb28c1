"""Which parameters a run has: the notebooks' defaults, a profile's values over them, and settings over these."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath

import yaml

from helpers.errors import ParameterError, UserError, nearest
from helpers.notebooks import defaults, path_of
from helpers.parameters import RULES, STEPS, check_parameters, folder_of, parse_value, refuse_secret
from helpers.sources import PROJECT

PROFILES = PROJECT / "notebooks" / "profiles"


def plan(profile: str, settings: Sequence[str] | Mapping[str, object] = ()) -> dict[str, dict[str, object]]:
    """Every parameter of every step: the notebooks' defaults, the profile's values over them, then settings.

    Settings are texts `STEP.NAME=VALUE`, or a table of `STEP.NAME` and values. One without a step goes to each notebook that has the
    parameter. Raises UserError for whatever does not exist or fit.
    """
    parameters = {step: defaults(path_of(step)) | values for step, values in read_profile(profile).items()}
    for values in parameters.values():
        values.pop("run_dir", None)
    pairs = settings.items() if isinstance(settings, Mapping) else map(_pair, settings)
    for key, value in pairs:
        step, dot, name = key.rpartition(".")
        if dot:
            folder_of(step)
        if name == "run_dir":
            raise UserError(f"{key} is {value!r}: the run folder is set with --run-dir.")
        homes = [s for s in ([step] if dot else STEPS) if name in RULES[s]]
        if not homes:
            check_parameters(step, {name: value}) if dot else refuse_secret(key)
            known = {n for rules in RULES.values() for n in rules}
            raise ParameterError(key, value, f"there is no such parameter, {nearest(name, known)}")
        for home in homes:
            parameters[home][name] = value
    return {step: _checked(step, values) for step, values in parameters.items()}


def read_profile(name: str) -> dict[str, dict[str, object]]:
    """What a profile sets, for every step; UserError where there is no such profile, or where it is no table of steps."""
    names = [path.stem for path in PROFILES.glob("*.yaml") if not path.stem.startswith("sweep")]
    if name not in names:
        raise UserError(f"There is no profile {name!r}: {nearest(name, names)}.")
    try:
        chosen = yaml.safe_load((PROFILES / f"{name}.yaml").read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UserError(f"Profile {name!r} is no YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(chosen, dict):
        raise UserError(f"Profile {name!r} must be a table of steps, such as train: {{seed: 1}}.")
    for step in chosen:
        folder_of(str(step))
        if not isinstance(chosen[step] or {}, dict):
            raise UserError(
                f"Profile {name!r} has {step}: {chosen[step]!r}: it must be a table of parameters and values."
            )
    return {step: chosen.get(step) or {} for step in STEPS}


def _pair(setting: str) -> tuple[str, str]:
    key, equals, text = setting.partition("=")
    if not equals or not key.rpartition(".")[2]:
        raise UserError(
            f"-p is {setting!r}: it must be STEP.NAME=VALUE or NAME=VALUE, such as train.learning_rate=1e-4."
        )
    return key, text


def _checked(step: str, values: dict[str, object]) -> dict[str, object]:
    rules = RULES[step]
    try:
        return check_parameters(step, {n: _plain(v, n in rules and rules[n].kind is str) for n, v in values.items()})
    except ParameterError as error:
        message = str(error)
        raise UserError(message if message.startswith(f"{step}.") else f"{step}.{message}") from None


def _plain(value: object, is_text: bool) -> object:
    """A value as notebooks and records have it: texts that are numbers read as such (YAML takes `1e-4` for a text), paths and NumPy's as Python's own."""
    if isinstance(value, PurePath):
        value = str(value)
    if type(value).__module__ == "numpy" and hasattr(value, "item"):
        value = value.item()
    return parse_value(value) if isinstance(value, str) and not is_text else value
