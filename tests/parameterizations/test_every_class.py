"""No class is missing where every class belongs: in tests, in the docs, in `zoo list`."""

import ast
import inspect
import pickle
import re
from pathlib import Path

import pytest
from every import factories

import zoo.testing
from zoo import parameterizations
from zoo.__main__ import main
from zoo.testing import Case, case_for

HERE = Path(__file__).parent
PAGE = (HERE.parent.parent / "docs" / "parameterizations.md").read_text()
CONCRETE = [
    name
    for name in parameterizations.__all__
    if not inspect.isabstract(getattr(parameterizations, name))
]


def with_a_case() -> set[str]:
    """Names of the classes that a case of these tests is of."""
    nodes = (
        node for file in HERE.rglob("test_*.py") for node in ast.walk(ast.parse(file.read_text()))
    )
    return {
        node.value.id
        for node in nodes
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Name)
        and [ast.unparse(target) for target in node.targets] == ["parameterization"]
    }


def subclasses(cls: type) -> set[type]:
    """All classes below one."""
    return {cls}.union(*(subclasses(each) for each in cls.__subclasses__()))


def test_every_class_stands_in_the_readme():
    """In one row of its table; and `zoo list` prints them in order."""
    readme = (HERE.parent.parent / "README.md").read_text()
    rows = [line for line in readme.splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(CONCRETE)
    assert sorted(CONCRETE, key=str.casefold) == CONCRETE


def test_every_class_has_a_case():
    assert set(CONCRETE) - with_a_case() == set()


def test_a_case_has_every_contract_that_applies():
    """Of those cases that are imported: in a whole run all of them."""
    cases = [
        c for c in subclasses(Case) if c.__name__.startswith("Test") and "test_" in c.__module__
    ]
    for case in cases:
        chosen = case_for(case.parameterization, case.arguments)
        assert type(chosen).__mro__[1] in case.__mro__, case.__name__


def test_the_path_of_each_is_the_packages_own():
    """It stands in configs, checkpoints and tables, so that no file that moves changes it."""
    for name in parameterizations.__all__:
        cls = getattr(parameterizations, name)
        assert (cls.__module__, cls.__qualname__) == ("zoo.parameterizations", name)
        assert pickle.loads(pickle.dumps(cls)) is cls


@pytest.mark.parametrize("name", CONCRETE)
def test_every_class_is_in_the_docs(name):
    """It has one row in the table and a paragraph that begins with its name."""
    assert len(re.findall(rf"^\| `{name}` \|", PAGE, re.MULTILINE)) == 1
    assert len(re.findall(rf"^\*\*`{name}`\*\* ", PAGE, re.MULTILINE)) == 1


def test_the_docs_have_no_other_class():
    table = PAGE[: PAGE.index("\n\n", PAGE.index("| --- |"))]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) != []
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(CONCRETE)


def test_every_class_is_listed(capsys):
    main(["list"])
    out = capsys.readouterr().out
    assert [
        name for name in parameterizations.__all__ if not re.search(rf"^  {name} ", out, re.M)
    ] == []
    assert max(map(len, out.splitlines())) <= 80


def test_every_class_stands_in_the_matrices_of_tests():
    assert set(factories(of_base=True)) == set(CONCRETE)


def test_every_assertion_of_the_suite_says_what_it_found():
    files = Path(zoo.testing.__file__).parent.glob("*.py")
    asserts = [
        node
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Assert)
    ]
    assert len(asserts) > 15 and [ast.unparse(node) for node in asserts if node.msg is None] == []
