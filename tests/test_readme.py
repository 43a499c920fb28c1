"""What the README says is true: its commands, its files, its figures from the notebooks."""

import re

import nbformat
import pytest
import yaml

from helpers.runs.notebook import PROJECT, path_of
from helpers.runs.profiles import PROFILES, plan

README = (PROJECT / "README.md").read_text()


def printed(step):
    """All that the committed notebook of a step shows as text."""
    cells = nbformat.read(path_of(step), as_version=4).cells
    return "\n".join(o.get("text", "") for c in cells if c.cell_type == "code" for o in c.outputs)


def test_the_figures_are_those_of_the_committed_notebook():
    table = dict(re.findall(r"^\| (perplexity|bits per byte) \| (.+?) \|$", README, re.M))
    rolling = re.findall(r"rolling(?: +\d+){3} +([\d.]+) +([\d.]+)", printed("evaluate"))
    for name, place, digits in (("perplexity", 0, 2), ("bits per byte", 1, 3)):
        stated = [float(value) for value in table[name].split(" | ")]
        shown = [float(row[place]) for row in rolling]  # rounded to three digits itself
        assert stated == pytest.approx(shown, abs=0.5 * 10**-digits + 0.0005)
    numbers = dict(re.findall(r"^(perplexity_ratio\w*) +(\S+)$", printed("evaluate"), re.M))
    stated = re.search(
        r"perplexity × (\S+), with a 95 % interval of (\S+) to ([\d.]+)", README
    ).groups()
    shown = [
        float(numbers[f"perplexity_ratio{end}"]) for end in ("", "_low", "_high")
    ]  # rounded to four digits
    assert [float(value) for value in stated] == pytest.approx(shown, abs=0.00055)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_what_it_links_to_is_there(target):
    assert (PROJECT / target).exists()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?:^|[`(\s])make ([a-z-]+)", README))))
def test_its_make_targets_exist(target):
    assert re.search(rf"^{target}:", (PROJECT / "Makefile").read_text(), re.M)


@pytest.mark.parametrize("line", re.findall(r"-m helpers (?:run|train|prefetch).*", README))
def test_its_settings_are_understood(line):
    settings = re.findall(r"-p (\S+)", line)
    assert plan("tiny", settings)
    assert not re.search(r"(?<!-)-p\w|-p *$", line)


def test_it_lists_every_profile():
    for path in PROFILES.glob("*.yaml"):
        yaml.safe_load(path.read_text())
        assert f"| `{path.stem}` |" in README or (
            path.stem.startswith("sweep") and path.name in README
        )
