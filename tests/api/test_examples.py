"""Every name that `import zoo` offers has a docstring with an example, and the example runs."""

import ast
import copy
import doctest
import inspect
from pathlib import Path

import pytest
import torch

import zoo

NAMES = [*zoo.PLACES, *zoo.parameterizations.__all__]


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_every_public_name_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = getattr(zoo, name)
    assert inspect.getdoc(found), name
    names = {"zoo": zoo, "torch": torch, "copy": copy}
    tests = doctest.DocTestFinder(recurse=False).find(found, name, globs=names)
    assert any(test.examples for test in tests), f"{name} has no example"
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner = doctest.DocTestRunner(optionflags=flags)
    out: list[str] = []
    for test in tests:
        runner.run(test, out=out.append)
    assert runner.failures == 0, "".join(out)


def test_what_editors_see_is_what_is_loaded():
    tree = ast.parse(Path(zoo.__file__).read_text())
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname or alias.name: node.module
        for node in typed.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen.pop("*") == "zoo.parameterizations" and seen.pop("hf") == "zoo"
    assert seen == zoo.PLACES
    for name, place in zoo.PLACES.items():
        assert getattr(zoo, name).__module__ == place and name in dir(zoo)
