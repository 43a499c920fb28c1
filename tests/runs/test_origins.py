"""What a step is made from: the state of files, packages, and adapters with their base model."""

import json

import pytest

from helpers.hub.packages import MODELS
from helpers.runs.origins import sources


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty folder in the place of the project's."""
    monkeypatch.setattr("helpers.hub.sources.PROJECT", tmp_path)
    return tmp_path


def changed(parameters, change):
    """The kinds whose state a change changes."""
    before = sources(parameters)
    change()
    after = sources(parameters)
    return {kind for kind in after if after[kind] != before[kind]}


def test_of_files_it_is_what_they_contain(project):
    for name in "ab":
        (project / f"{name}.jsonl").write_text("1")
    parameters = {"dataset": "*.jsonl", "seed": 1}
    assert changed(parameters, lambda: (project / "other.txt").write_text("1")) == set()
    assert changed(parameters, lambda: (project / "b.jsonl").write_text("2")) == {"dataset"}
    assert changed(parameters, lambda: (project / "c.jsonl").write_text("1")) == {"dataset"}
    assert sources({"dataset": "c.jsonl"}) != sources({"dataset": "b.jsonl"})


def test_of_prompts_it_is_what_their_file_contains(project):
    (project / "a.txt").write_text("1")
    assert changed({"prompts_file": "a.txt"}, lambda: (project / "a.txt").write_text("2")) == {
        "prompts_file"
    }
    assert sources({"prompts_file": ""}) == {} == sources({"prompts_file": "none.txt"})


def test_of_a_package_it_is_its_hash_and_without_a_name_there_is_none(project):
    assert sources({"model": "smollm2"}) == {"model": MODELS["smollm2"].hash}
    assert sources({"seed": 1}) == {} == sources({"dataset": "", "model": ""})


def test_of_adapters_it_is_theirs_and_that_of_their_base_model(project):
    for name, content in (("net", {}), ("more", {"base_model_name_or_path": "net"})):
        (project / name).mkdir()
        (project / name / "adapter_config.json").write_text(json.dumps(content))
    parameters = {"model": "more"}
    assert sources(parameters)["model"].endswith(" on " + sources({"model": "net"})["model"])
    assert changed(parameters, lambda: (project / "net" / "weights").write_text("2")) == {"model"}
    assert changed(parameters, lambda: (project / "more" / "weights").write_text("2")) == {"model"}
