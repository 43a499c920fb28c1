"""Notebooks in a real kernel, as a front end runs them: no artifact mixes two attempts."""

import json

import nbformat
import pytest
from jupyter_client import KernelManager

from helpers.hub.sources import PROJECT
from helpers.runs.folder import Run
from helpers.runs.notebook import path_of

COMMITTED = nbformat.read(path_of("load"), as_version=4).cells
IDS = [cell.id for cell in COMMITTED if cell.cell_type == "code"]
CELLS = {  # a small notebook `load`, with ids of the committed one
    IDS[0]: "run_dir, seed = {folder!r}, {seed}",
    IDS[
        1
    ]: "from helpers.runs.step import start_step\nstep = start_step('load', run_dir, seed=seed)",
    IDS[3]: "assert seed != 2, 'a bad value'\ndata = f'made with {{seed}}'",
    IDS[5]: "data = data.upper()",
    IDS[-1]: "(step.path / 'content').write_text(data)\nstep.finish()",
}


class Kernel:
    """A kernel, and a front end that sends it cells without waiting."""

    def __init__(self, client, folder):
        self.client, self.folder, self.sent = client, folder, []

    def send(self, *cells, seed=1, ids=True):
        for cell in cells:
            code = CELLS.get(cell, cell).format(folder=str(self.folder), seed=seed)
            content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}}
            content |= {"allow_stdin": False, "stop_on_error": True}
            metadata = {"cellId": cell} if ids else {}
            message = self.client.session.msg("execute_request", content, metadata=metadata)
            self.client.shell_channel.send(message)
            self.sent.append(message["header"]["msg_id"])

    def replies(self):
        """How each of the cells that were sent ended: `ok`, `aborted`, or what its error says."""
        waiting, found = list(self.sent), {}
        while set(waiting) - found.keys():
            message = self.client.get_shell_msg(timeout=20)
            found[message["parent_header"]["msg_id"]] = message["content"]
        self.sent = []
        return [found[m].get("evalue", found[m]["status"]) for m in waiting]

    def run(self, *cells, **how):
        """Send cells one after the other, each when the one before has ended."""
        said = []
        for cell in cells:
            # by the error of the cell before, which the kernel may not have done with
            reply = "aborted"
            while reply == "aborted":
                self.send(cell, **how)
                (reply,) = self.replies()
            said.append(reply)
        return said

    def published(self):
        """The seed in the record, and the data."""
        run = Run(self.folder)
        return run.record("load")["parameters"]["seed"], (run.path("load") / "content").read_text()


@pytest.fixture(scope="module")
def client():
    manager = KernelManager()
    manager.start_kernel(cwd=str(PROJECT))
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(client, tmp_path):
    """A kernel in which the notebook has run once, with seed 1."""
    kernel = Kernel(client, tmp_path / "run")
    assert kernel.run(*CELLS) == ["ok"] * 5 and kernel.published() == (1, "MADE WITH 1")
    return kernel


P, B, WORK, MORE, F = CELLS


def test_what_runs_after_a_failed_cell_is_not_published(kernel):
    assert kernel.run(*CELLS, seed=2)[-1].startswith(
        "load cannot be finished: the cell `assert seed != 2"
    )
    assert kernel.published() == (1, "MADE WITH 1")
    assert "seed has changed since `begin`" in kernel.run(P, WORK, MORE, F, seed=3)[-1]
    assert kernel.published() == (1, "MADE WITH 1")


def test_a_cell_that_is_mended_and_what_comes_after_it_are_run_again(kernel, monkeypatch):
    assert kernel.run(P, B, WORK, MORE, F, seed=2)[-1] != "ok"
    monkeypatch.setitem(CELLS, WORK, "data = f'mended {{seed}}'")
    said = kernel.run(WORK, F, MORE, F, seed=2)
    assert said[0] == said[2] == said[3] == "ok" and "the cell `data = data.upper()`" in said[1]
    assert kernel.published() == (2, "MENDED 2")


@pytest.mark.parametrize("ids", [True, False])
def test_an_interrupted_cell_may_be_run_again(kernel, tmp_path, ids):
    long = (
        f"import os\nif not os.path.exists({str(tmp_path / 'enough')!r}): raise KeyboardInterrupt"
    )
    said = kernel.run(P, B, WORK, long, MORE, F, seed=3, ids=ids)
    assert (
        said[3] != "ok" and "the cell `import os` failed" in said[-1] and kernel.published()[0] == 1
    )
    (tmp_path / "enough").touch()
    assert (
        "the cell `data = data.upper()` ran after one" in kernel.run(long, F, seed=3, ids=ids)[-1]
    )
    assert kernel.run(WORK, MORE, F, seed=3, ids=ids)[-1] == "ok"
    assert kernel.published() == (3, "MADE WITH 3")


def test_a_cell_that_was_left_out_is_named(kernel):
    said = kernel.run(P, B, MORE, F, seed=3)[-1]
    assert "has not run since `begin`" in said and kernel.published() == (1, "MADE WITH 1")
    assert kernel.run(WORK, MORE, F, seed=3)[-1] == "ok" and kernel.published() == (
        3,
        "MADE WITH 3",
    )


def test_a_begin_that_fails_leaves_nothing_to_finish(kernel):
    said = kernel.run(*CELLS, seed=-1)
    assert "seed is -1" in said[1] and "finished already" in said[-1]
    assert (
        kernel.run(P, B, WORK, seed=3) == ["ok"] * 3
        and "seed is -1" in kernel.run(P, B, seed=-1)[1]
    )
    assert "begun again since" in kernel.run(P, MORE, F, seed=3)[-1] and kernel.published() == (
        1,
        "MADE WITH 1",
    )


def test_the_last_cell_run_twice_says_that_the_step_is_finished(kernel):
    assert kernel.run(F)[0].startswith(
        "load is finished already: for another attempt, run the notebook from `begin` on"
    )


@pytest.mark.parametrize("seed", [2, -1])
def test_ten_times_run_all_with_a_bad_value(kernel, seed):
    for _ in range(10):
        kernel.send(*CELLS, seed=seed)
    assert "ok" in kernel.replies()
    assert kernel.published() == (1, "MADE WITH 1")
    assert kernel.run(*CELLS, seed=3) == ["ok"] * 5 and kernel.published() == (3, "MADE WITH 3")
    assert json.loads((kernel.folder / "metrics.json").read_text()).keys() == {"seconds_load"}
