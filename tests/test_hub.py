"""The Hub: when it is needed, and that its token is never shown."""

import pytest

from helpers.batch import plan
from helpers.hub import login_state, needs_hub


def test_the_default_needs_no_hub_and_the_guides_run_does():
    assert not needs_hub(plan("tiny"))
    assert needs_hub(plan("eli5"))


def test_a_file_on_this_machine_needs_no_hub(tmp_path):
    (tmp_path / "mine.txt").write_text("one\n")
    assert not needs_hub({"load": {"dataset": str(tmp_path / "mine.txt")}, "train": {"model": "embedded"}})
    assert needs_hub({"load": {"dataset": str(tmp_path / "other.txt")}})


@pytest.mark.parametrize("token", ["hf_" + "a" * 34, ""])
def test_the_token_is_not_shown(monkeypatch, tmp_path, token):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: token or None)
    assert ("A token" in login_state()) == bool(token)
    assert "hf_" not in login_state()
