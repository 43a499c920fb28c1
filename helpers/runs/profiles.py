"""A run's parameters from profile and settings; why a step is redone."""

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
SKIPPED = "is skipped"
Settings = Sequence[str] | Mapping[str, object]  # `STEP.NAME=VALUE`, or a table of them


def plan(profile: str, settings: Settings = ()) -> dict[str, dict[str, object]]:
    """Every parameter of every step, with a profile and settings in place of the defaults.

    A setting without a step goes to each notebook that has the parameter. Raises UserError for
    what does not exist or cannot be used.
    """
    chosen = read_profile(profile)
    parameters = {
        s: {name: rule.default for name, rule in RULES[s].items()} | chosen[s] for s in STEPS
    }
    for key, value in expand_settings(settings).items():
        step, _, name = key.partition(".")
        parameters[step][name] = value
    return {step: _checked(step, values) for step, values in parameters.items()}


def expand_settings(settings: Settings) -> dict[str, object]:
    """Settings as a table of `STEP.NAME`; UserError for one that no step has."""
    expanded: dict[str, object] = {}
    pairs = settings.items() if isinstance(settings, Mapping) else map(_pair, settings)
    for key, value in pairs:
        step, dot, name = key.rpartition(".")
        if dot:
            folder_of(step)
        if name == "run_dir":
            raise UserError(f"{key} is {value!r}: the run folder is set with --run-dir.")
        steps = [s for s in ([step] if dot else STEPS) if name in RULES[s]]
        if not steps:
            check_parameters(step, {name: value}) if dot else refuse_secret(key)
            known = {n for rules in RULES.values() for n in rules}
            raise ParameterError(key, value, f"there is no such parameter, {nearest(name, known)}")
        expanded |= {f"{step}.{name}": value for step in steps}
    return expanded


def choose_folder(run_dir: str | None, profile: str | None) -> str:
    """The given run folder, or that of the profile; ParameterError where it cannot be a folder."""
    if run_dir is None:
        return f"runs/{Path(profile or DEFAULT).stem}"
    if not run_dir.strip() or "\0" in run_dir:
        raise ParameterError("run_dir", run_dir, "it must be the name of a folder")
    return run_dir


def resume(run_dir: str, profile: str | None, settings: Settings) -> tuple[str, dict[str, object]]:
    """The profile and settings of a run: what its folder remembers, then what is given now.

    A `profile` other than the remembered one replaces the remembered settings too.
    """
    remembered, kept = _remembered(resolve(run_dir))
    if profile not in (None, remembered):
        kept = {}
    return profile or remembered or DEFAULT, kept | expand_settings(settings)


def _remembered(folder: Path) -> tuple[str | None, dict[str, object]]:
    """The profile and settings in `run.json`, or the parameters of a folder's steps."""
    unreadable = (OSError, ValueError, KeyError, TypeError)
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        profile, settings = str(record["profile"]), dict(record["settings"])
    except unreadable:
        profile, settings = None, {}
        for step in STEPS:
            with suppress(*unreadable):
                text = (folder / folder_of(step) / "step.json").read_text(encoding="utf-8")
                made = json.loads(text)["parameters"].items()
                settings |= {f"{step}.{name}": value for name, value in made}
    known = {f"{step}.{name}": rule for step in STEPS for name, rule in RULES[step].items()}
    return profile, {
        k: v for k, v in settings.items() if k in known and (profile or v != known[k].default)
    }


def outlook(
    run: Run, parameters: Mapping[str, Mapping[str, object]], start: str | None, force: bool
) -> dict[str, str]:
    """What will happen to each step, in words; RunError where --from skips an unusable step."""
    first, redone, lines = STEPS.index(start) if start else 0, set(), {}
    for number, step in enumerate(STEPS):
        changes = _changes(run, step, parameters[step])
        if number < first:
            if why := run.problem(step):
                raise RunError(f"--from is {start!r}: {why}; start from {step!r} or earlier.")
            lines[step] = f"stays as it is, though {changes}" if changes else "stays as it is"
            continue
        option = "--force" if force else f"--from {start}" if start else ""
        after = [f"it is made from {need}" for need in NEEDS[step] if need in redone]
        reasons = [reason for reason in (option, changes, *after) if reason]
        if run.record(step) is None:
            reasons = ["it has not been done yet"]
        elif not reasons and not run.is_done(step, dict(parameters[step])):
            reasons = [_staleness(run, step)]
        redone |= {step} if reasons else set()
        lines[step] = f"will be done: {'; '.join(reasons)}" if reasons else SKIPPED
    return lines


def _changes(run: Run, step: str, parameters: Mapping[str, object]) -> str:
    """Which parameters differ from those of a step's record, old → new."""
    made = (run.record(step) or {"parameters": parameters})["parameters"]
    names = [name for name in {**parameters, **made} if made.get(name) != parameters.get(name)]
    return ", ".join(f"{name} {made.get(name)!r} → {parameters.get(name)!r}" for name in names)


def _staleness(run: Run, step: str) -> str:
    """Why a step with unchanged parameters must be done again."""
    if why := run.problem(step):
        return why
    record = run.record(step)
    now = sources(record["parameters"])
    changed = [kind for kind, source in now.items() if record["sources"].get(kind) != source]
    return f"its {' and '.join(changed) or 'code'} has changed"


def read_profile(name: str) -> dict[str, dict[str, object]]:
    """The parameters that a profile sets, by step; UserError where it is missing or malformed.

    `name` is that of a file in notebooks/profiles, or the path of a YAML file.
    """
    path = _profile_path(name)
    try:
        chosen = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"Profile {name!r} is not valid YAML: {reason}.") from None
    if not isinstance(chosen, dict):
        raise UserError(f"Profile {name!r} must be a table of steps, such as train: {{seed: 1}}.")
    for step, values in chosen.items():
        folder_of(str(step))
        if not isinstance(values or {}, dict):
            raise UserError(
                f"Profile {name!r} has {step}: {values!r}: it must be a table of parameters "
                "and values."
            )
    return {step: chosen.get(step) or {} for step in STEPS}


def _profile_path(name: str) -> Path:
    if name.endswith((".yaml", ".yml")):
        if not (path := resolve(name)).is_file():
            raise UserError(f"There is no profile {name!r}: no such file.")
        return path
    need_notebooks()
    names = [path.stem for path in PROFILES.glob("*.yaml") if not path.stem.startswith("sweep")]
    if name not in names:
        hint = nearest(name, names)
        raise UserError(f"There is no profile {name!r}: {hint}, or give the path of a YAML file.")
    return PROFILES / f"{name}.yaml"


def _pair(setting: str) -> tuple[str, str]:
    key, equals, text = setting.partition("=")
    if not equals or not key.rpartition(".")[2]:
        raise UserError(
            f"-p is {setting!r}: it must be STEP.NAME=VALUE or NAME=VALUE, "
            "such as train.learning_rate=1e-4."
        )
    return key, text


def _checked(step: str, values: dict[str, object]) -> dict[str, object]:
    """`check_parameters` of plain values, with the step in every error."""
    rules = RULES[step]
    try:
        return check_parameters(
            step, {n: _plain(v, n in rules and rules[n].kind is str) for n, v in values.items()}
        )
    except ParameterError as error:
        prefix = "" if str(error).startswith(f"{step}.") else f"{step}."
        raise UserError(f"{prefix}{error}") from None


def _plain(value: object, is_text: bool) -> object:
    """A value of Python's own types; a number in a string is parsed (YAML leaves `1e-4` one)."""
    if isinstance(value, PurePath):
        value = str(value)
    if type(value).__module__ == "numpy" and hasattr(value, "item"):
        value = value.item()
    return parse_value(value) if isinstance(value, str) and not is_text else value
