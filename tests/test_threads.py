"""PyTorch's threads sleep soon when they wait, wherever the package is imported before torch; a
user's own setting wins.
"""

import json
import os
import re
import subprocess
import sys

import pytest

from helpers.runs.notebook import path_of
from helpers.runs.parameters import STEPS
from tests import PROJECT

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def python(code, **own):
    """What a Python with these variables, and none of the like inherited, writes."""
    inherited = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=inherited | own,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout + done.stderr


def test_torch_is_loaded_with_the_setting():
    said = python("import helpers, torch", OMP_DISPLAY_ENV="VERBOSE")  # which its OpenMP prints
    assert re.search(r"GOMP_SPINCOUNT ?= ?'2500'|KMP_BLOCKTIME ?= ?'1", said)


@pytest.mark.parametrize(
    "own", [{"GOMP_SPINCOUNT": "7", "KMP_BLOCKTIME": "8"}, {"OMP_WAIT_POLICY": "ACTIVE"}]
)
def test_a_setting_of_the_users_own_wins(own):
    said = python(
        f"import helpers, json, os; print(json.dumps([os.environ.get(n) for n in {NAMES}]))", **own
    )
    assert json.loads(said) == [own.get(name) for name in NAMES]


@pytest.mark.parametrize("step", STEPS)
def test_a_notebook_imports_the_package_before_all_else(step):
    cells = json.loads(path_of(step).read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert re.search(r"^(import|from) \w+", code, re.M)[0] == "from helpers"
