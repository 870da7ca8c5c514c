"""Tables in a terminal and in Markdown: aligned, within 80 columns, and only what they say."""

import pandas as pd
import pytest

from zoo.pages import markdown
from zoo.pages.table import Cell, Column, Table
from zoo.pages.terminal import aligned, hanging, table

ROWS = [["", "loss", "n"], ["Dense", "1.50", "3"], ["DCT", "-0.25", "10"]]


def test_columns_are_as_wide_as_what_is_in_them():
    assert aligned(ROWS) == ["        loss   n", "Dense   1.50   3", "DCT    -0.25  10"]
    assert aligned(ROWS, left=2, gap=1) == ["      loss   n", "Dense 1.50   3", "DCT   -0.25 10"]


def test_a_long_name_goes_over_several_lines_and_numbers_stay_whole():
    numbers = ["0.123456789"] * 5
    name = "a method of many words, and_of_a_word_that_is_longer"
    head, first, *others, last = aligned([["", *numbers], [name, *numbers], ["  b", *numbers]])
    assert max(map(len, (head, first, *others))) <= 80
    assert first.split()[-5:] == numbers and last.startswith("  b ")
    assert "".join([first[:15], *others]).replace(" ", "") == name.replace(" ", "")
    assert len(others) > 1 and all(line.startswith("  ") for line in others)
    wide = aligned([["", *numbers * 2], [name, *numbers * 2]])
    assert wide[1].split()[-10:] == numbers * 2


def test_remarks_stand_below_their_row():
    frame = pd.DataFrame({"name": ["a", "b"], "value": [1.0, None]})
    columns = [
        Column(
            "name", lambda row: Cell(row.name, ["odd", "late"] if row.name == "a" else []), True
        ),
        Column("value", lambda row: f"{row.value:.1f}" if row.value == row.value else ""),
        Column("none", lambda row: "-"),
    ]
    shown = Table(frame, columns)
    assert table(shown) == [
        "name  value  none",
        "a       1.0     -",
        "  odd",
        "  late",
        "b               -",
    ]
    assert [column.header for column in shown.filled().columns] == ["name", "value"]
    assert table(shown)[1] == "a       1.0"


def test_a_name_cannot_make_a_line_of_its_own():
    shown = Table(pd.DataFrame({"a": [0]}), [Column("a", lambda row: "x\nsearch  equal", True)])
    assert table(shown) == ["a", "x search  equal"]


@pytest.mark.parametrize("words", ["[red]x[/red]", ":smile:", "{{ 1 + 1 }}", "%s"])
def test_names_are_no_markup_of_any_library(words):
    assert aligned([[words, "1"]]) == [f"{words}  1"]


def test_a_table_in_markdown():
    cells = [Cell("-b|c", ["[-1, +2]"]), Cell("-1", ["p = 0.5"], strong=True), "-"]
    columns = [Column(f"*{i}", lambda row, i=i: cells[i], left=i == 0) for i in range(3)]
    assert markdown.table(Table(pd.DataFrame({"a": [0]}), columns)).splitlines() == [
        r"| \*0 | \*1 | \*2 |",
        "| --- | ---: | ---: |",
        r"| -b\|c [-1, +2] | **−1** (p = 0.5) | – |",
    ]


def test_further_lines_hang():
    lines = hanging("search  " + "word " * 30).splitlines()
    assert len(lines) > 1 and max(map(len, lines)) <= 80
    assert all(line.startswith(" " * 8) and line[8] != " " for line in lines[1:])
