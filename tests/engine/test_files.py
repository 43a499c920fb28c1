"""Files: hashes that follow their contents, and writes that leave the old or the new."""

import os
import time

import pytest

from helpers.engine.files import fingerprint, replace


def test_a_file_that_is_written_twice_in_one_tick_of_the_clock_is_hashed_twice(tmp_path):
    tick, found = time.time_ns(), set()
    for text in "123":
        (tmp_path / "a").write_text(text)
        os.utime(tmp_path / "a", ns=(tick, tick))
        found.add(fingerprint(tmp_path))
    assert len(found) == 3


def test_the_hash_of_a_folder_is_that_of_its_data(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.arrow").write_text("1")
    first = fingerprint(tmp_path)
    for name in ("step.json", "run.ipynb", "README.md", "code.py"):
        (tmp_path / name).write_text("left out")
        assert fingerprint(tmp_path) == first, name
    for name in ("data/step.json", "data/b.arrow"):
        (tmp_path / name).write_text("1")
        assert fingerprint(tmp_path) != first, name
        (tmp_path / name).unlink()
    (tmp_path / "data" / "a.arrow").rename(tmp_path / "data" / "c.arrow")
    assert fingerprint(tmp_path) != first


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    replace(path, "old")

    def fails(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(os, "fsync", fails)
        replace(path, "new")
    assert path.read_text() == "old"
    replace(path, "new")
    assert path.read_text() == "new"
