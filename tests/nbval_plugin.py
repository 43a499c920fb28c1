"""The notebooks as tests: nbval, with smaller values, offline, in a fresh run folder, and stricter.

nbval waits the whole cell timeout for a dead kernel, continues after a failure, and passes a cell
if no error message reaches it. Here the kernel is watched while a cell runs, its own verdict on the
cell counts, and what follows a failed cell is skipped.
"""

import os
import queue
import shutil
import tempfile
import time

import pytest
from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell, IPyNbFile

from helpers.runs.notebook import QUIET

# Before any Hugging Face import: what reaches for the Hub fails at once, and the user's own cache
# is left alone.
os.environ |= {
    **QUIET,
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_CACHE": tempfile.mkdtemp(prefix="clm-notebooks-tests-"),
}

# What is set in a notebook's parameters cell so that it runs small; nothing that a checked output
# depends on.
SMALL = {
    "04_train": {
        "num_train_epochs": 0.1,
        "compute_dtype": "bfloat16",
    },  # "auto" is float32 on some machines; both must run
    "06_infer": {"max_new_tokens": 20},
}


def wait_for_reply(kernel, msg_id, timeout=None):
    """In place of nbval's wait: check once a second that the kernel lives, and keep its reply."""
    give_up = time.monotonic() + (timeout or float("inf"))
    while time.monotonic() < give_up:
        try:
            message = kernel.get_message("shell", timeout=1)
        except queue.Empty:
            if not kernel.is_alive():
                raise RuntimeError(
                    "The kernel died while it ran this cell: out of memory, or a crash."
                ) from None
            continue
        if message["parent_header"].get("msg_id") == msg_id:
            kernel.reply = message["content"]
            return
    raise queue.Empty


def pytest_configure(config):
    """Put our wait in place, and make the run folder that the notebooks share."""
    RunningKernel.await_reply = wait_for_reply


def pytest_unconfigure():
    """Remove the cache of the tests."""
    shutil.rmtree(os.environ["HF_DATASETS_CACHE"], ignore_errors=True)


def pytest_collection_modifyitems(config, items):
    """Append the overrides to each notebook's parameters cell."""
    run_dir = None
    for item in items:
        if isinstance(item, IPyNbCell) and "parameters" in item.cell.metadata.get("tags", []):
            run_dir = run_dir or config._tmp_path_factory.mktemp("notebooks") / "run"
            values = {"run_dir": str(run_dir), **SMALL.get(item.path.stem, {})}
            item.cell.source += "".join(f"\n{name} = {value!r}" for name, value in values.items())


def pytest_runtest_setup(item):
    """Skip what only a person can do, and what comes after a failed cell, in this notebook and in
    those that build on it.
    """
    if isinstance(item, IPyNbCell) and item.options["skip"]:
        pytest.skip(
            f"{item.path.stem}, {item.name} is tagged nbval-skip: a person does it, not a run"
        )
    if isinstance(item, IPyNbCell) and (cause := getattr(item.session, "broken_notebook", None)):
        pytest.skip(f"an earlier cell failed: {cause}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Hold nbval's verdict against the kernel's."""
    result = yield
    if isinstance(item, IPyNbCell) and not item.options["skip"]:
        status = item.parent.kernel.reply["status"]
        if item.options["check_exception"] and status == "ok":
            pytest.fail("The cell is tagged raises-exception, and raised nothing.")
        if not item.options["check_exception"] and status != "ok":
            pytest.fail(
                f"The kernel reports {item.parent.kernel.reply.get('ename', status)}, which "
                "nbval did not see."
            )
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Remember the first cell that failed."""
    report = yield
    if (
        isinstance(item.parent, IPyNbFile)
        and report.failed
        and not getattr(item.session, "broken_notebook", None)
    ):
        item.session.broken_notebook = f"{item.path.name}, {item.name}"
    return report
