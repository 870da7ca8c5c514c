"""What results/README.md says is what the rows beside it say."""

import csv
import re
import shutil
import subprocess
import sys

import pytest

from results import rows
from results.claims.claim import FAILS, HOLDS, OPEN, WITH_NULL
from results.claims.table import HEAD, claim_differences, claims, markdown
from results.tables import check
from results.tables.check import TABLES, table_differences
from results.tables.page import table

PAGE = (rows.FOLDER / "README.md").read_text()


@pytest.fixture
def copied(monkeypatch, tmp_path):
    """The rows, to be changed."""
    for path in rows.FOLDER.glob("*.csv"):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(rows, "FOLDER", tmp_path)
    return tmp_path


def changed(path, column: str, value: str, **cells: str) -> None:
    """Give rows of a file another value."""
    with open(path, newline="") as file:
        table = list(csv.DictReader(file))
    for row in table:
        if cells.items() <= row.items():
            row[column] = value
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)


def test_the_table_of_claims_is_what_the_rows_give():
    found = claim_differences(PAGE)
    assert not found, "\n".join(["python -m results.claims prints what the rows give:", *found])


def test_tables_are_what_the_rows_give():
    found = table_differences(PAGE)
    assert not found, "\n".join(found)


def test_a_claim_says_all():
    found = claims()
    assert len({claim.claim for claim in found}) == len(found)
    for claim in found:
        assert claim.verdict in (HOLDS, WITH_NULL, FAILS, OPEN)
        assert (claim.verdict == OPEN) == (not claim.number) == (not claim.n), claim
        assert claim.command and "|" not in "".join(claim)


def test_a_digit_of_the_page_that_differs_is_found():
    digit = PAGE.replace("-0.033 [-0.048, -0.018] | 3 seeds", "-0.034 [-0.048, -0.018] | 3 seeds")
    (found,) = claim_differences(digit)
    assert found.startswith("Half of the cosine coefficients")
    assert "'-0.034 [" in found and "'-0.033 [" in found
    verdict = PAGE.replace(
        "| They are as low after 400 steps | does not hold",
        "| They are as low after 400 steps | holds",
    )
    assert len(claim_differences(verdict)) == 1


def test_a_claim_without_a_row_and_a_row_without_a_claim_are_found():
    lines = PAGE.splitlines()
    at = lines.index(HEAD) + 2
    (less,) = claim_differences("\n".join(lines[:at] + lines[at + 1 :]))
    assert less.startswith("Half of the cosine coefficients") and "no such row" in less
    more = [*lines[:at], "| zoo | Birds fly | holds | 1 | 1 | none |", *lines[at:]]
    (found,) = claim_differences("\n".join(more))
    assert found.startswith("Birds fly") and "no such claim" in found
    lines[at], lines[at + 1] = lines[at + 1], lines[at]
    assert claim_differences("\n".join(lines)) == ["the claims stand in another order"]


def test_a_row_that_differs_is_found(copied):
    changed(
        copied / "char_lm_sweep.csv",
        "loss",
        "2.5",
        parameterization="DCT",
        steps="2000",
        seed="2",
        lr="0.008",
    )
    found = claim_differences(PAGE)
    assert [text.splitlines()[0] for text in found] == [
        "Half of the cosine coefficients end as low as dense weights, after 2000 steps",
        "It does so for `DCT` 1/2 after 2000 steps",
    ]
    assert any("`DCT` 1/2, loss: the page has '1.532" in text for text in table_differences(PAGE))


@pytest.mark.parametrize("head", TABLES)
def test_a_cell_of_another_table_that_differs_is_found(head, monkeypatch):
    monkeypatch.setattr(check, "TABLES", {head: TABLES[head]})
    _, row, *_ = table(PAGE, head)
    cell = next(cell for cell in row[1:] if re.search(r"\d", cell))
    whole = f"| {' | '.join(row)} |".replace("  ", " ")
    other = whole.replace(f" {cell} ", f" {re.sub('[0-9]', '7', cell, count=3)}7 ", 1)
    assert PAGE.count(whole) == 1
    (found,) = table_differences(PAGE.replace(whole, other))
    assert found.startswith(row[0])


def test_it_prints_the_table():
    run = subprocess.run(
        [sys.executable, "-m", "results.claims"], capture_output=True, text=True, check=True
    )
    assert run.stdout == markdown() + "\n" and markdown() in PAGE
