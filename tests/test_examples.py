"""The examples in the docstrings of the lessons' modules give what they show."""

import doctest
import importlib

import pytest

from tests import PROJECT

MODULES = sorted(p.stem for p in (PROJECT / "helpers").glob("[a-z]*.py"))


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    failed, _ = doctest.testmod(importlib.import_module(f"helpers.{name}"))
    assert not failed


@pytest.mark.parametrize("name", ["chunking", "collation", "figures", "packing", "perplexity"])
def test_these_have_one(name):
    assert doctest.testmod(importlib.import_module(f"helpers.{name}")).attempted
