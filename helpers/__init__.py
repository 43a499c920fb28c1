"""Causal language modelling, step by step: the code that the notebooks import.

The lessons' modules lie directly here, in the order of the notebooks; `engine` makes them fast and
lets a training survive an interruption, `hub` finds models and data, `runs` keeps what was done.
"""

import os

# How long a thread of PyTorch's spins at the end of a piece of work, before it sleeps: by default so long that programs
# beside each other starve one another, kernels and sweeps among them. Read when torch is loaded, by GNU's OpenMP (Linux;
# in turns of a loop), or by LLVM's and Intel's (macOS and Windows; in milliseconds).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2500")
    os.environ.setdefault("KMP_BLOCKTIME", "1")
