"""Causal language modelling, step by step: the code that the notebooks import.

The lessons' modules lie directly here, in the order of the notebooks; `engine` makes them fast and
lets a training survive an interruption, `hub` finds models and data, `runs` keeps what was done.
"""

import os

# How long an idle thread of PyTorch's spins before it sleeps. By default it spins so long that
# programs side by side starve each other. GNU's OpenMP (Linux) counts turns of a loop, LLVM's and
# Intel's (macOS and Windows) milliseconds. Read when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2500")
    os.environ.setdefault("KMP_BLOCKTIME", "1")
