"""Text from files does nothing but read as it is: in a terminal, on a page, in Markdown and in a
spreadsheet.
"""

import csv
import json
from pathlib import Path

import pytest
from report_runs import write_run

from zoo.__main__ import main
from zoo.pages.html import ENVIRONMENT
from zoo.pages.markdown import code, escape
from zoo.pages.texts import cell, clean, csv_text, lines, printable


def text(words):
    """What a page shows."""
    return ENVIRONMENT.from_string("{{ words }}").render(words=words)


PLAIN = [
    "DCT ratio=0.5",
    "tiny / CharLM, steps=400",
    "BlockDCT ratio=0.5 lora_rank=8",
    "glue_rte_lora-s0 (2)",
    "a+b",
    "±1 − 3 %",
    "3 runs of 2 methods, all with block size 128",
    "runs/x/version_0",
    "R&D",
    "loss: lower.",
    "bert-base-uncased",
    "targets=query+value",
    "μ = 1e-4!",
]


@pytest.mark.parametrize("words", PLAIN)
def test_ordinary_names_stay_as_they_are(words):
    assert printable(words) == escape(words) == words == lines(words)
    assert code(words) == f"`{words}`"


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("[a](http://b)", r"\[a\](http:\//b)"),
        ("![a](b)", r"\!\[a\](b)"),
        ("<img src=x>", "&lt;img src=x&gt;"),
        ("a|b", r"a\|b"),
        ("`x`", r"\`x\`"),
        ("mlp.*", r"mlp.\*"),
        ("_a_ b_c __d__", r"\_a\_ b_c \_\_d\_\_"),
        ("a\\", "a\\\\"),
        ("https://a.b", r"https:\//a.b"),
        ("WWW.a.b", r"WWW\.a.b"),
        ("me@there", "me@&#8203;there"),
        ("&lt;b&gt;", "&amp;lt;b&amp;gt;"),
        ("&#60;", "&amp;#60;"),
        ("a\n\n# b\t c", "a # b c"),
        ("~~a~~", r"\~\~a\~\~"),
        ("\\[a](b)", r"\\\[a\](b)"),
        ("*_x_*", r"\*\_x\_\*"),
    ],
)
def test_markdown_is_read_as_it_is(words, found):
    assert escape(words) == found


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("a`b", "``a`b``"),
        ("`a", "`` `a ``"),
        ("a``b`c", "```a``b`c```"),
        ("a\nb", "`a b`"),
    ],
)
def test_code_ends_where_it_ends(words, found):
    assert code(words) == found


@pytest.mark.parametrize(
    "character", [*map(chr, (0, 7, 8, 27, 31, 127, 128, 155, 159)), "\u202e", "\u2066", "\ud800"]
)
def test_characters_that_are_not_to_be_seen(character):
    words = f"a{character}b"
    assert printable(words) == "a\ufffdb" == text(words) == escape(words) == cell(words)
    assert clean({words: [words, {"x": words}], "n": 1.5}) == {
        "a\ufffdb": ["a\ufffdb", {"x": "a\ufffdb"}],
        "n": 1.5,
    }
    assert lines(f"{words}\n{words}") == "a\ufffdb\na\ufffdb"
    assert printable(words).encode()


def test_a_name_has_one_line():
    assert printable("a\nb\r\nc\td\u2028e") == "a b  c d e"


@pytest.mark.parametrize(
    "words", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "=", "-"]
)
def test_a_formula_is_text(words):
    assert str(cell(words)).startswith("'")


@pytest.mark.parametrize(
    "value", ["-1.5", "+3", "1e-4", "-.5e+3", -1.5, None, True, "", "a=b", "'=", "– 3", "x-y"]
)
def test_a_number_is_a_number(value):
    assert cell(value) == value


def test_a_table_is_read_back():
    rows = [{"a": 'x,"y"\nz', "b": -1.5}, {"a": "=1", "b": None}]
    assert list(csv.DictReader(csv_text(["a", "b"], rows).splitlines())) == [
        {"a": 'x,"y" z', "b": "-1.5"},
        {"a": "'=1", "b": ""},
    ]
    assert csv_text(["a", "b"], rows, header=False) == csv_text(["a", "b"], rows).partition("\n")[2]


def test_a_report_of_a_run_with_evil_names(place):
    """Each name that a run has, in the table, the Markdown and the page."""
    evil = '=[x](http://evil.example)<script>alert(1)</script>`|*_"'
    write_run(
        Path("runs/a"),
        corpus=evil,
        device=evil,
        optimizer={"name": evil},
        name="=HYPERLINK(1)",
        config={"model.init_args.overrides": {evil: {"class_path": evil}}},
    )
    write_run(Path("runs/-b"), corpus=evil, device=evil, name="Dense")
    assert main(["report", "runs", "--out", "out"]) == 0
    rows = list(csv.reader(Path("out/report.csv").read_text().splitlines()))
    assert not any(value.startswith(("=", "@", "+")) for row in rows for value in row)
    assert any(value.startswith("'=") for row in rows for value in row)
    page, text = Path("out/report.html").read_text(), Path("out/report.md").read_text()
    assert "<script" not in page and "<script" not in text and "](" not in text.replace(r"\](", "")
    assert "http://" not in text
    assert json.loads(Path("out/report.json").read_text())["comparisons"]
