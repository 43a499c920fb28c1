"""One environment, however it is made: the locks, pyproject.toml, conda, Binder, make."""

import fnmatch
import importlib.metadata
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from helpers.hub.sources import PROJECT

PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
LOCKS = [PROJECT / "requirements.lock", PROJECT / "requirements-dev.lock"]
LINES = [
    line
    for lock in LOCKS
    for line in lock.read_text(encoding="utf-8").splitlines()
    if not line.startswith("#") and line != "-r requirements.lock"
]
PINS = [Requirement(line) for line in LINES]
LOCK = {
    canonicalize_name(pin.name): Version(str(pin.specifier).removeprefix("=="))
    for pin in PINS
    if not pin.marker or pin.marker.evaluate()
}
DECLARED = [
    Requirement(text)
    for text in PYPROJECT["dependencies"]
    + PYPROJECT["optional-dependencies"]["lab"]
    + PYPROJECT["optional-dependencies"]["dev"]
]
CUDA = ("nvidia-", "cuda-", "triton")  # torch pins these itself, in its builds that have them
UNPINNED = {"pip", canonicalize_name(PYPROJECT["name"])}
# sys_platform, os_name, platform_machine
SYSTEMS = [("linux", "posix", "x86_64"), ("darwin", "posix", "arm64"), ("win32", "nt", "AMD64")]


def test_every_line_of_the_locks_is_one_exact_version():
    for pin in PINS:
        assert re.fullmatch(r"==[A-Za-z0-9.!]+", str(pin.specifier)) and not pin.extras, pin
    assert len(set(LINES)) == len(LINES) > len(DECLARED)


@pytest.mark.parametrize("python", ["3.11.2", "3.11.9", "3.12.4", "3.13.1", "3.14.0"])
@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system[0])
def test_on_every_system_the_locks_have_one_version_of_each_package(system, python):
    here = dict(zip(("sys_platform", "os_name", "platform_machine"), system, strict=True))
    here |= {"python_full_version": python, "python_version": python.rpartition(".")[0]}
    names = [
        canonicalize_name(pin.name)
        for pin in PINS
        if not pin.marker or pin.marker.evaluate(default_environment() | here)
    ]
    assert len(set(names)) == len(names)
    assert {canonicalize_name(requirement.name) for requirement in DECLARED} <= set(names)
    assert ("colorama" in names) == ("pywinpty" in names) == (system[0] == "win32")


def test_a_learner_gets_no_tools_of_developers():
    learner, dev = (lock.read_text(encoding="utf-8") for lock in LOCKS)
    for name in ("pytest", "ruff", "hypothesis", "tensorboard", "distributed", "nbval"):
        assert f"\n{name}==" not in learner and f"\n{name}==" in dev
    assert "\njupyterlab==" in learner and "\n-r requirements.lock\n" in dev


@pytest.mark.parametrize("requirement", DECLARED, ids=str)
def test_the_lock_pins_what_is_declared_within_its_bounds(requirement):
    assert requirement.specifier, "it has no bound"
    assert LOCK[canonicalize_name(requirement.name)] in requirement.specifier


def test_torch_is_pinned_and_what_it_pins_itself_is_not():
    (torch,) = (requirement for requirement in DECLARED if requirement.name == "torch")
    assert str(torch.specifier) == f"=={LOCK['torch']}"
    assert not [pin.name for pin in PINS if pin.name.startswith(CUDA)]


def differing(installed):
    """What is pinned and is not there, or there in another version."""
    return {
        name: (pin, installed.get(name)) for name, pin in LOCK.items() if installed.get(name) != pin
    }


def test_what_is_installed_is_the_lock():
    """Packages that somebody has added to it, with `pip install trackio` for one, are no matter."""
    installed = {
        canonicalize_name(d.name): Version(d.version).public
        for d in importlib.metadata.distributions()
    }
    assert differing({name: Version(version) for name, version in installed.items()}) == {}


def test_a_package_more_is_no_difference_and_one_less_or_another_is():
    assert differing(LOCK | {"trackio": Version("1")}) == {}
    (name, pin), *others = LOCK.items()
    assert differing(dict(others)) == {name: (pin, None)}
    assert differing(LOCK | {name: Version("0.0.1")}) == {name: (pin, Version("0.0.1"))}


def test_the_lock_holds_what_its_packages_need():
    missing = []
    for name in LOCK:
        for text in importlib.metadata.requires(name) or []:
            requirement = Requirement(text)
            applies = not requirement.marker or requirement.marker.evaluate(
                {**default_environment(), "extra": ""}
            )
            needed = canonicalize_name(requirement.name)
            ours = needed not in UNPINNED and not needed.startswith(CUDA)
            if (
                applies
                and ours
                and (needed not in LOCK or LOCK[needed] not in requirement.specifier)
            ):
                missing.append(f"{name} needs {text}")
    assert missing == []


def test_conda_installs_the_lock_and_this_package():
    environment = yaml.safe_load((PROJECT / "environment.yml").read_text())
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip == ["-r requirements.lock", "-e ."]
    python = [entry.partition("=")[2] for entry in conda if entry.startswith("python=")]
    assert len(python) == 1 and Version(python[0]) in SpecifierSet(PYPROJECT["requires-python"])
    assert sorted(entry.partition("=")[0] for entry in conda) == ["pip", "python"]


def test_the_readme_installs_the_same_on_colab_and_with_uv():
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert "    %pip install --quiet -r requirements.lock -e .\n" in readme
    assert "`uv pip install -r requirements.lock -e .`" in readme


def test_binder_installs_the_lock_and_this_package_on_the_same_python():
    build = PROJECT / ".binder" / "postBuild"
    assert "pip install --no-cache-dir -r requirements.lock -e .\n" in build.read_text()
    assert os.access(build, os.X_OK)
    conda = (PROJECT / "environment.yml").read_text()
    version = (PROJECT / ".binder" / "runtime.txt").read_text().strip().removeprefix("python-")
    assert f"python={version}\n" in conda


def test_make_help_lists_every_target_that_has_a_description():
    described = re.findall(
        r"^([^\s:#]+):[^\n]*?## *(.+)$", (PROJECT / "Makefile").read_text(), re.M
    )
    assert {"run", "test", "test-full", "notebooks", "check"} <= {target for target, _ in described}
    for arguments in ([], ["help"]):
        shown = subprocess.run(
            ["make", "--no-print-directory", *arguments],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert [line.split(maxsplit=1) for line in shown.splitlines()] == [
            list(pair) for pair in described
        ]


def test_every_target_has_a_description_and_is_phony():
    makefile = (PROJECT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][\w-]*):", makefile, re.M))
    assert targets == set(re.findall(r"^([a-z][\w-]*):.*##", makefile, re.M))
    assert targets == set(re.search(r"^\.PHONY: (.+)$", makefile, re.M)[1].split())


def test_make_clean_names_the_caches_elsewhere_and_keeps_them():
    environment = {**os.environ, "XDG_CACHE_HOME": "/c", "HF_HOME": "", "HF_DATASETS_CACHE": ""}
    command = ["make", "-n", "--no-print-directory", "clean"]
    shown = subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=True
    ).stdout
    named = [line for line in shown.splitlines() if "/c/" in line]
    assert len(named) == 1 and named[0].startswith(
        "du -sm /c/clm-notebooks /c/huggingface/datasets "
    )


@pytest.mark.parametrize("status", [0, 3])
def test_continuous_integration_is_make_test_and_test_browser_in_the_project(tmp_path, status):
    make = tmp_path / "make"
    make.write_text(f'#!/bin/sh\necho "$PWD: make $*"\nexit {status}\n')
    make.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    script = PROJECT / ".ci" / "run"
    result = subprocess.run(
        [script], cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    called = ["make test"] if status else ["make test", "make test-browser"]
    assert result.stdout.splitlines() == [f"{PROJECT.resolve()}: {line}" for line in called]
    assert result.returncode == status


def test_no_file_holds_the_path_of_the_checkout():
    ignored = [line.rstrip("/") for line in (PROJECT / ".gitignore").read_text().split()] + [".git"]
    found, checked = [], 0
    for folder, subfolders, files in os.walk(PROJECT):
        place = Path(folder).relative_to(PROJECT).as_posix().removeprefix(".")
        subfolders[:] = [
            name
            for name in subfolders
            if not any(fnmatch.fnmatch(n, i) for n in (name, f"{place}/{name}") for i in ignored)
        ]
        for path in (PROJECT / folder / name for name in files):
            if path.is_file():
                checked += 1
                if str(PROJECT).encode() in path.read_bytes():
                    found.append(str(path.relative_to(PROJECT)))
    assert found == [] and checked > 30
