"""A command's function says its options: by its parameters, their types and its docstring."""

from typing import Annotated, Literal

import pytest

from zoo.cli.arguments import call
from zoo.files.trust import NOBODY, Trust


def command(
    runs: Annotated[list[str], "RUNS"],
    *,
    to: Literal["a", "b"],
    margin: Annotated[float, "X"] = 0.5,
    top_k: int | None = None,
    set_: Annotated[list[str] | None, "KEY=VALUE"] = None,
    many: Annotated[list[list[str]] | None, ("NAMES", "KEY=VALUE")] = None,
    force: bool = False,
    trust: Trust = NOBODY,
    argv: list[str],
) -> dict:
    """Do something.

    Args:
        runs: folders,
            at any depth.
        to: what to write.
        margin: 95 % of it; by default 0.5.
        top_k: a number.
        set_: an argument.
        many: names.
        force: replace: all of it.
        trust: who.
        argv: words.
    """
    return dict(locals())


def given(words: str) -> dict:
    argv = ["thing", *words.split()]
    return call(command, argv, argv=argv[1:])


def test_what_is_not_given_is_the_parameters_default():
    found = given("--to a one")
    assert found.pop("argv") == ["--to", "a", "one"] and found.pop("trust").names == ()
    assert found == {
        "runs": ["one"],
        "to": "a",
        "margin": 0.5,
        "top_k": None,
        "set_": None,
        "many": None,
        "force": False,
    }


def test_arguments_and_options_in_any_order():
    words = "one --to b --set x=1 --many A B --set y=2 --many C --force --top_k 3 --margin -1 two"
    found = given(f"{words} --trust m.C")
    assert (found["runs"], found["to"], found["force"]) == (["one", "two"], "b", True)
    assert (found["top_k"], found["margin"], found["set_"]) == (3, -1.0, ["x=1", "y=2"])
    assert found["many"] == [["A", "B"], ["C"]]
    assert isinstance(found["trust"], Trust) and found["trust"].names == ("m.C",)


def test_help_is_the_docstrings(capsys):
    with pytest.raises(SystemExit) as left:
        given("--help")
    assert left.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("usage: zoo thing [-h] --to {a,b} [--margin X]")
    assert "A command's function says its options" in said
    assert "RUNS folders, at any depth options:" in said
    assert "--margin X 95 % of it; by default 0.5 " in said
    assert "--force replace: all of it " in said and "--trust NAME" in said
    assert "argv" not in said and "--set KEY=VALUE an argument" in said


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("one", "the following arguments are required: --to"),
        ("--to a", "the following arguments are required: RUNS"),
        ("one --to c", "argument --to: invalid choice: 'c' (choose from 'a', 'b')"),
        ("one --to a --top_k x", "argument --top_k: invalid int value: 'x'"),
        ("one --to a --forc", "no option '--forc'; did you mean '--force'?"),
        ("one --to a --zzzzzz", "no option '--zzzzzz'; see zoo thing --help"),
    ],
)
def test_a_mistake_is_one_line(words, line, capsys):
    with pytest.raises(SystemExit) as left:
        given(words)
    assert left.value.code == 2 and capsys.readouterr().err == f"zoo: {line}\n"


def test_words_of_fit_are_left_out_and_trusted_all_the_same():
    argv = ["thing", "one", "--to", "a", "--data=mine.Data"]
    found = call(command, argv, own=argv[1:4], argv=[])
    assert found["runs"] == ["one"] and found["trust"].typed == ("mine.Data",)


def test_options_may_be_joined_with_dashes():
    argv = ["thing", "one", "--to", "a", "--top-k", "3"]
    assert call(command, argv, joint="-", argv=[])["top_k"] == 3
