"""Which parameters a run has: the table's defaults, a profile's values over them, and settings over these; and what is to be done."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePath

import yaml

from helpers.errors import ParameterError, RunError, UserError, nearest
from helpers.hub.sources import resolve
from helpers.runs.folder import NEEDS, Run
from helpers.runs.notebook import FOLDER, need_notebooks
from helpers.runs.origins import sources
from helpers.runs.parameters import (
    RULES,
    STEPS,
    check_parameters,
    folder_of,
    parse_value,
    refuse_secret,
)

PROFILES = FOLDER / "profiles"
DEFAULT = "tiny"  # the profile of a run that has none
Settings = Sequence[str] | Mapping[str, object]


def plan(profile: str, settings: Settings = ()) -> dict[str, dict[str, object]]:
    """Every parameter of every step: the table's defaults, the profile's values over them, then settings.

    Settings are texts `STEP.NAME=VALUE`, or a table of `STEP.NAME` and values. One without a step goes to each notebook that has the
    parameter. Raises UserError for whatever does not exist or fit.
    """
    chosen = read_profile(profile)
    parameters = {
        s: {name: rule.default for name, rule in RULES[s].items()} | chosen[s] for s in STEPS
    }
    for key, value in spelled_out(settings).items():
        step, _, name = key.partition(".")
        parameters[step][name] = value
    return {step: _checked(step, values) for step, values in parameters.items()}


def spelled_out(settings: Settings) -> dict[str, object]:
    """Settings as a table, each with its step; UserError for one that no step has."""
    found: dict[str, object] = {}
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
        found |= {f"{home}.{name}": value for home in homes}
    return found


def folder_for(run_dir: str | None, profile: str | None) -> str:
    """The run folder that is meant where none is named; ParameterError for a name that no folder can have."""
    if run_dir is None:
        return f"runs/{Path(profile or DEFAULT).stem}"
    if not run_dir.strip() or "\0" in run_dir:
        raise ParameterError("run_dir", run_dir, "it must be the name of a folder")
    return run_dir


def going_on(
    run_dir: str, profile: str | None, settings: Settings
) -> tuple[str, dict[str, object]]:
    """The profile and settings of a run: those that its folder remembers, and those that are given now over them.

    Another `profile` than the one that is remembered replaces its settings too.
    """
    before, remembered = _remembered(resolve(run_dir))
    if profile not in (None, before):
        remembered = {}
    return profile or before or DEFAULT, remembered | spelled_out(settings)


def _remembered(folder: Path) -> tuple[str | None, dict[str, object]]:
    """The profile and settings in a folder's `run.json`; where it has none, what its steps were made with."""
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        profile, settings = str(record["profile"]), dict(record["settings"])
    except (OSError, ValueError, KeyError, TypeError):
        profile, settings = None, {}
        for step in STEPS:
            with suppress(OSError, ValueError, KeyError, TypeError):
                made = json.loads(
                    (folder / folder_of(step) / "step.json").read_text(encoding="utf-8")
                )["parameters"]
                settings |= {f"{step}.{name}": value for name, value in made.items()}
    known = {f"{step}.{name}": rule for step in STEPS for name, rule in RULES[step].items()}
    return profile, {
        k: v for k, v in settings.items() if k in known and (profile or v != known[k].default)
    }


def outlook(
    folder: Run, parameters: Mapping[str, Mapping[str, object]], start: str | None, force: bool
) -> dict[str, str]:
    """What is going to happen to each step, in words; RunError where --from leaves a step out that cannot be used."""
    first, again, found = STEPS.index(start) if start else 0, set(), {}
    for number, step in enumerate(STEPS):
        changes = _changes(folder, step, parameters[step])
        if number < first:
            if why := folder.problem(step):
                raise RunError(f"--from is {start!r}: {why}; start from {step!r} or earlier.")
            found[step] = f"stays as it is, though {changes}" if changes else "stays as it is"
            continue
        asked = "--force" if force else f"--from {start}" if start else ""
        after = [f"it is made from {need}" for need in NEEDS[step] if need in again]
        reasons = [reason for reason in (asked, changes, *after) if reason]
        if folder.record(step) is None:
            reasons = ["it has not been done yet"]
        elif not reasons and not folder.is_done(step, dict(parameters[step])):
            reasons = [_staleness(folder, step)]
        again |= {step} if reasons else set()
        found[step] = f"is to be done: {'; '.join(reasons)}" if reasons else "is left out"
    return found


def _changes(folder: Run, step: str, parameters: Mapping[str, object]) -> str:
    """Which parameters are not those that a step was made with, old → new."""
    made = (folder.record(step) or {"parameters": parameters})["parameters"]
    names = [name for name in {**parameters, **made} if made.get(name) != parameters.get(name)]
    return ", ".join(f"{name} {made.get(name)!r} → {parameters.get(name)!r}" for name in names)


def _staleness(folder: Run, step: str) -> str:
    """Why a step is not done, though it has these parameters."""
    if why := folder.problem(step):
        return why
    record = folder.record(step)
    now = sources(record["parameters"])
    changed = [kind for kind, made_of in now.items() if record["sources"].get(kind) != made_of]
    return f"its {' and '.join(changed)} has changed" if changed else "its code has changed"


def read_profile(name: str) -> dict[str, dict[str, object]]:
    """What a profile sets, for every step: one of ours by its name, or a file by its path.

    UserError where there is no such profile, or where it is no table of steps.
    """
    if name.endswith((".yaml", ".yml")):
        path = resolve(name)
        if not path.is_file():
            raise UserError(f"There is no profile {name!r}: no such file.")
    else:
        need_notebooks()
        names = [path.stem for path in PROFILES.glob("*.yaml") if not path.stem.startswith("sweep")]
        if name not in names:
            raise UserError(
                f"There is no profile {name!r}: {nearest(name, names)}, or give the path of a YAML file."
            )
        path = PROFILES / f"{name}.yaml"
    try:
        chosen = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
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
        return check_parameters(
            step, {n: _plain(v, n in rules and rules[n].kind is str) for n, v in values.items()}
        )
    except ParameterError as error:
        message = str(error)
        raise UserError(
            message if message.startswith(f"{step}.") else f"{step}.{message}"
        ) from None


def _plain(value: object, is_text: bool) -> object:
    """A value as notebooks and records have it: texts that are numbers read as such (YAML takes `1e-4` for a text), paths and NumPy's as Python's own."""
    if isinstance(value, PurePath):
        value = str(value)
    if type(value).__module__ == "numpy" and hasattr(value, "item"):
        value = value.item()
    return parse_value(value) if isinstance(value, str) and not is_text else value
