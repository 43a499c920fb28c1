"""A sweep as a YAML file: a grid, a list or a random search over the parameters of any step."""

import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from helpers.errors import UserError, nearest
from helpers.hub.sources import resolve

KEYS = ("profile", "set", "grid", "list", "random", "seeds")
Variant = dict[str, object]  # the settings in which a run differs from the profile


@dataclass(frozen=True)
class Sweep:
    """The runs of a sweep: their profile, their common settings, and what varies, by name."""

    profile: str
    common: Mapping[str, object]
    variants: Mapping[str, Variant]


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key given twice in one table; PyYAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        known = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in known:
                raise UserError(
                    f"Line {key.start_mark.line + 1} of the sweep has {key.value!r} a second time: "
                    "leave one of them out."
                )
            known.add(key.value)
        return super().construct_mapping(node, deep)


def read_sweep(file: Path) -> Sweep:
    """Read a sweep; UserError where the file is not one.

    `grid: {NAME: [values]}` is every combination, `list: [{NAME: value}]` each item as it stands.
    `random: {runs: N, seed: S, parameters: {NAME: …}}` draws each parameter from a list of values
    or from `{low: A, high: B, log: true}`. `seeds: [1, 2]` repeats each run with these seeds of
    training, `set` holds for all runs.
    """
    content = _read_yaml(file)
    variants = list(_variants(content))
    seeds, common = content.get("seeds") or [], _table("set", content.get("set") or {})
    if seeds:
        for settings in (common, *variants):
            if "train.seed" in settings:
                raise UserError(
                    f"seeds is {seeds!r}, and train.seed is set to {settings['train.seed']!r} too: "
                    "leave one of them out."
                )
        seeds = _list("seeds", seeds)
        variants = [{**variant, "train.seed": seed} for variant in variants for seed in seeds]
    if not variants:
        raise UserError(
            f"The sweep {str(file)!r} has no runs: it needs one of grid, list or random."
        )
    width = len(str(len(variants) - 1))
    named = {f"{number:0{width}d}": variant for number, variant in enumerate(variants)}
    return Sweep(str(content.get("profile", "tiny")), common, named)


def _read_yaml(file: Path) -> dict[str, object]:
    name = f"The sweep {str(file)!r}"
    try:
        content = yaml.load(resolve(file).read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise UserError(f"{name} cannot be read ({error.strerror}): name a YAML file.") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date, or bad UTF-8
        raise UserError(f"{name} is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        raise UserError(f"{name} must be a table with {', '.join(KEYS)}.")
    for key in content:
        if key not in KEYS:
            raise UserError(f"{name} has the unknown key {key!r}: {nearest(str(key), KEYS)}.")
    return content


def _variants(content: Mapping[str, object]) -> Iterator[Variant]:
    kinds = [kind for kind in ("grid", "list", "random") if kind in content]
    if len(kinds) > 1:
        raise UserError(
            f"A sweep has one of grid, list or random, this one has {' and '.join(kinds)}."
        )
    if kinds == ["grid"]:
        grid = _table("grid", content["grid"])
        values = [_list(f"grid.{name}", values) for name, values in grid.items()]
        yield from (dict(zip(grid, point, strict=True)) for point in itertools.product(*values))
    elif kinds == ["list"]:
        yield from (dict(_table("list", variant)) for variant in _list("list", content["list"]))
    elif kinds == ["random"]:
        yield from _random_variants(_table("random", content["random"]))
    elif content.get("seeds"):
        yield {}


def _random_variants(search: Mapping[str, object]) -> list[Variant]:
    runs, seed = search.get("runs"), search.get("seed", 0)
    if not isinstance(runs, int) or runs < 1:
        raise UserError(f"random.runs is {runs!r}: it must be a whole number of at least 1.")
    if not isinstance(seed, int):
        raise UserError(f"random.seed is {seed!r}: it must be a whole number.")
    spreads = _table("random.parameters", search.get("parameters"))
    generator = random.Random(seed)
    return _distinct(runs, lambda: {n: _draw(n, spreads[n], generator) for n in spreads})


def _distinct(runs: int, draw: Callable[[], Variant]) -> list[Variant]:
    """Draw until there are `runs` different variants."""
    drawn: list[Variant] = []
    for _ in range(100 * runs):
        if (variant := draw()) not in drawn:
            drawn.append(variant)
        if len(drawn) == runs:
            return drawn
    raise UserError(
        f"random.runs is {runs}: only {len(drawn)} different runs were drawn, "
        "ask for fewer or give more values."
    )


def _draw(name: str, spread: object, generator: random.Random) -> object:
    """A random value of a parameter, from a list or a range."""
    if isinstance(spread, list) and spread:
        return generator.choice(spread)
    try:
        low, high = (float(spread[end]) for end in ("low", "high"))
        if spread.get("log"):
            return low * (high / low) ** generator.random()
        if isinstance(spread["low"], int) and isinstance(spread["high"], int):
            return generator.randint(int(low), int(high))
        return generator.uniform(low, high)
    except (TypeError, KeyError, ValueError, ArithmeticError, AttributeError):
        raise UserError(
            f"random.parameters.{name} is {spread!r}: it must be a list of values, or "
            "{low: A, high: B}, with log: true for a logarithmic scale above 0."
        ) from None


def _table(name: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{name} is {value!r}: it must be a table of STEP.NAME and values.")
    return value


def _list(name: str, value: object) -> list[object]:
    if not isinstance(value, list) or not value:
        raise UserError(f"{name} is {value!r}: it must be a non-empty list.")
    return value
