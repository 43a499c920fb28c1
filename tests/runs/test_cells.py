"""Notebooks in a real kernel, as a front end runs them: no artifact mixes two attempts."""

import json
import queue

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

    def send(self, *cells, seed=1, ids=True, deleted=()):
        for cell in cells:
            code = CELLS.get(cell, cell).format(folder=str(self.folder), seed=seed)
            content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}}
            content |= {"allow_stdin": False, "stop_on_error": True}
            metadata = {"cellId": cell, "deletedCells": list(deleted)} if ids else {}
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

    def printed(self):
        """What the cells have printed since the last call."""
        texts = []
        while True:
            try:
                message = self.client.get_iopub_msg(timeout=0.5)
            except queue.Empty:
                return "".join(texts)
            texts.append(message["content"].get("text", ""))

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


# ---- Copies of a notebook, edited or not ------------------------------------------------------

FOLDERS = "import pathlib\nfrom helpers.runs import code, step as module\n"
FOLDERS += "module.PROJECT = code.PROJECT = pathlib.Path({project!r})"


@pytest.fixture
def original(kernel, tmp_path, monkeypatch):
    """The kernel, for which the small notebook is the project's; `edit` changes the copy alone."""
    monkeypatch.setitem(CELLS, WORK, CELLS[WORK] + "\nfound = len(list(step.unfinished.iterdir()))")
    cells = []
    for key, source in CELLS.items():
        text = source.format(folder=str(kernel.folder), seed=1)
        cells.append(nbformat.v4.new_code_cell(text, id=key))
    cells[0].metadata.tags = ["parameters"]
    (tmp_path / "notebooks").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks" / "01_load.ipynb")
    monkeypatch.setattr("helpers.runs.code.PROJECT", tmp_path)
    monkeypatch.setitem(CELLS, "folders", FOLDERS.format(project=str(tmp_path)))
    monkeypatch.setitem(CELLS, "back", FOLDERS.format(project=str(PROJECT)))
    assert kernel.run("folders") == ["ok"]
    kernel.printed()
    yield kernel
    assert kernel.run("back") == ["ok"]


def is_done(kernel):
    """Whether a run would leave the step out."""
    run = Run(kernel.folder)
    return run.is_done("load", run.record("load")["parameters"])


@pytest.mark.parametrize("ids", [True, False])
def test_a_copy_whose_cells_are_those_of_the_notebook_counts_as_done(original, ids):
    assert original.run("scratch = 1", *(P, B, WORK, MORE, F), seed=3, ids=ids) == ["ok"] * 6
    assert is_done(original) and original.published() == (3, "MADE WITH 3")
    assert "A later run" not in original.printed()


@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize("place", [B, WORK, F])
def test_an_edited_copy_finishes_and_a_run_does_the_step_again(original, monkeypatch, place, ids):
    monkeypatch.setitem(CELLS, place, f"{CELLS[place]}\nmine = 1")
    assert original.run(P, B, WORK, MORE, F, seed=3, ids=ids) == ["ok"] * 5
    assert original.published() == (3, "MADE WITH 3") and not is_done(original)
    said = original.printed()
    first = CELLS[place].split("\n")[0]
    assert "load is done. A later run does it again, as cells were executed that" in said
    assert f"notebooks/01_load.ipynb does not have: `{first}`.\n" in said


def test_an_added_cell_counts_and_one_that_was_mended_does_not(original, monkeypatch):
    assert original.run(P, B, WORK, "mine = 1", "mine = 2", MORE, F, seed=3) == ["ok"] * 7
    assert not is_done(original) and "`mine = 1` and 1 more.\n" in original.printed()
    with monkeypatch.context() as edit:
        edit.setitem(CELLS, WORK, "data = 'mine'")
        assert original.run(P, B, WORK, MORE, seed=3) == ["ok"] * 4
    assert original.run(WORK, MORE, P, F, seed=3) == ["ok"] * 4
    assert is_done(original)


def test_a_cell_that_was_deleted_in_the_copy_is_not_waited_for(original, monkeypatch):
    assert original.run(P, B, WORK, MORE, F, seed=4) == ["ok"] * 5
    monkeypatch.setitem(CELLS, MORE, "data = 'shorter'")
    assert "has not run since" in original.run(P, B, MORE, F, seed=3)[-1]
    assert original.run(F, seed=3, deleted=[WORK]) == ["ok"]
    assert original.published() == (3, "shorter") and not is_done(original)


def test_what_an_edited_training_has_reached_is_resumed_by_the_same_cells_alone(original):
    half = f"{CELLS[WORK]}\n(step.unfinished / 'half').touch()".format(seed=3)
    again = "assert (step.unfinished / 'half').exists()"
    assert original.run(P, B, half, "tried = 1", again, seed=3) == ["ok"] * 5
    said = original.run(P, B, half, "assert found == 1", P, B, WORK, "assert found == 0", seed=3)
    assert said == ["ok"] * 8, said
