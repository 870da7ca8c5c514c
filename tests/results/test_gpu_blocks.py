"""The search for tiles, the table of its winners, and what the rows of `results.gpu.blocks` say; no
GPU is needed.
"""

import ast
import csv
import itertools
import math
from functools import partial

import pytest
import torch

from results.gpu import PARTS, blocks
from results.gpu.cases.blocks import Case, alike, cases, judged, layout_of, measured, winners_of
from results.gpu.frame.clock import Ceilings
from results.gpu.frame.rows import SOURCE, Table
from zoo.bases.blocks import block_layout
from zoo.bases.kernels import tiles as table_of_tiles
from zoo.bases.kernels import tune
from zoo.bases.kernels.tiles import (
    Class,
    Device,
    Tiles,
    class_of,
    default_tiles,
    fits,
    read,
    reasoned_tiles,
    text,
)

BF16 = torch.bfloat16
CASE = Case(4096, 4096, 0.125, 16, 1)
PEAK = Ceilings(4e12, 8e14)


def layout(m, n, block, ratio):
    return block_layout(m, n, block, int(m * n * ratio), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float32, BF16], ids=str)
@pytest.mark.parametrize("block", [1, 4, 7, 16, 32, 64])
def test_reasoned_tiles_fit(block, dtype):
    for m, n, ratio in itertools.product((1, 7, 64, 64), (1, 9, 64, 1024), (0.05, 0.3, 1.0)):
        m, n = m * block, n * block
        if block**2 * ratio >= 1:
            of = layout(m, n, block, ratio)
            for tokens in (1, 5, 17, 64):
                assert fits(reasoned_tiles(of, tokens, dtype), of, tokens, dtype), (
                    m,
                    n,
                    ratio,
                    tokens,
                )


@pytest.mark.parametrize(
    ("wrong", "value"),
    [
        ("rows", 8),
        ("rows", 512),
        ("rows", 48),
        ("depth", 4),
        ("depth", 512),
        ("positions", 4),
        ("positions", 0),
        ("splits", 0),
        ("splits", 99),
        ("warps", 3),
        ("warps", 32),
        ("stages", 0),
        ("stages", 40),
    ],
)
def test_what_does_not_fit_is_known(wrong, value):
    of = layout_of(CASE)
    good = reasoned_tiles(of, 1, BF16)
    assert fits(good, of, 1, BF16)
    assert not fits(good._replace(**{wrong: value}), of, 1, BF16)


@pytest.mark.parametrize("case", cases(small=False)[::5], ids=str)
def test_neighbours_fit_and_differ_in_one_number(case):
    of = layout_of(case)
    middle = reasoned_tiles(of, case.tokens, BF16)
    found = tune.neighbours(middle, of, case.tokens, BF16)
    assert len(found) >= 5 and len(set(found)) == len(found)
    for each in found:
        assert fits(each, of, case.tokens, BF16)
        assert sum(a != b for a, b in zip(each, middle, strict=True)) == 1


# ---- The search ----------------------------------------------------------------------------------


class Lab:
    """Measures a convex function of tiles, a second each; some do not work."""

    def __init__(self, best, broken=()):
        self.best, self.broken, self.now, self.seen, self.batches = best, broken, 0.0, [], []

    def measure(self, batch):
        self.now += len(batch)
        self.seen += batch
        self.batches.append(len(batch))
        return {each: self.time(each) for each in batch if each not in self.broken}

    def time(self, each):
        return 1 + sum(
            abs(math.log2(1 + a) - math.log2(1 + b)) for a, b in zip(each, self.best, strict=True)
        )

    def search(self, start, until, at_once=1):
        near = partial(tune.neighbours, layout=layout_of(CASE), tokens=1, dtype=BF16)
        return tune.search(start, near, self.measure, until, at_once, lambda: self.now)


@pytest.mark.parametrize("at_once", [1, 4, 16])
def test_a_search_finds_the_best_and_measures_none_twice(at_once):
    usual = reasoned_tiles(layout_of(CASE), 1, BF16)
    best = usual._replace(rows=16, warps=8, stages=2, splits=usual.splits - 1, fused=False)
    lab = Lab(best)
    found = lab.search([usual, usual], 1e9, at_once)
    assert min(found, key=found.get) == best
    assert len(lab.seen) == len(set(lab.seen)) == len(found)
    assert max(lab.batches) <= at_once


@pytest.mark.parametrize("until", [0, 1, 2, 5, 9.5])
def test_a_search_ends_in_time(until):
    """The start is measured in any case; nothing begins that would end too late."""
    lab = Lab(reasoned_tiles(layout_of(CASE), 1, BF16)._replace(warps=16))
    found = lab.search([reasoned_tiles(layout_of(CASE), 1, BF16)], until)
    assert len(found) == max(1, int(until)) and lab.now <= max(1, until)


def test_tiles_that_do_not_work_are_passed_over():
    usual = reasoned_tiles(layout_of(CASE), 1, BF16)
    best = usual._replace(warps=8)
    assert best not in Lab(best, broken=[best]).search([usual], 1e9)
    assert Lab(best, broken=[usual]).search([usual], 1e9) == {}


# ---- The table -----------------------------------------------------------------------------------


def row(case, best, usual=None, **times):
    given = {"dense": 2e-2, "default": 1.2e-2, "best": 1e-2, **times}
    usual = usual or reasoned_tiles(layout_of(case), case.tokens, BF16)
    return {
        **case._asdict(),
        **judged(case, {**given, "usual": usual, "variants": 9, "capability": "9.0"}, best, PEAK),
    }


def written(path, rows):
    part = PARTS["blocks"]
    source = {"command": "bash results/gpu.sh", "commit": "abc", "device": "X", "date": "d"}
    table = Table(path, part.case, part.measured, source)
    for each in rows:
        table.write(**each)
    return list(csv.DictReader(path.read_text().splitlines()))


def evaluate(source):
    """What the text of the table holds, by the names that its module has."""
    tree = ast.parse(source)
    names = {"Class": Class, "Tiles": Tiles, "dict": dict}
    exec(compile(tree, "tiles", "exec"), names)
    return names["MEASURED"]


def test_rows_become_the_table_that_the_code_holds(tmp_path, capsys, monkeypatch):
    """rows -> text -> dict -> default_tiles is the winner, for each of all cases, which are classes
    of their own.
    """
    winners = {}
    for case in cases(small=False):
        usual = reasoned_tiles(layout_of(case), case.tokens, BF16)
        winners[case] = tune.neighbours(usual, layout_of(case), case.tokens, BF16)[-1]
    rows = written(tmp_path / "blocks.csv", [row(case, best) for case, best in winners.items()])
    assert winners_of(rows) == winners
    assert blocks.main([str(tmp_path)]) == 0
    held = evaluate(capsys.readouterr().out)
    assert held == measured(rows) and len(held) == len(winners)
    monkeypatch.setattr(table_of_tiles, "MEASURED", held)
    for case, best in winners.items():
        of = layout_of(case)
        assert default_tiles(of, case.tokens, BF16) == best
        assert default_tiles(of, case.tokens, torch.float16) == best
        for dtype, device in ((BF16, Device(132, (10, 0))), (torch.float32, Device(132, (9, 0)))):
            usual = reasoned_tiles(of, case.tokens, dtype)
            assert default_tiles(of, case.tokens, dtype, device) == usual


def test_an_entry_is_not_used_where_it_does_not_fit(monkeypatch):
    """Of one class: 4096 x 4096, and 512 x 32768, which has 32 block rows; 3 tokens and 4."""
    square, wide = layout_of(CASE), layout(512, 32768, 16, 0.125)
    key = class_of(square, 3, BF16, (9, 0))
    assert key == class_of(wide, 4, BF16, (9, 0)) == class_of(square, 4, BF16, (9, 0))
    monkeypatch.setattr(table_of_tiles, "MEASURED", {key: Tiles(128, 64, 2, 2, 4, 2, True)})
    assert default_tiles(square, 3, BF16) == Tiles(128, 64, 2, 2, 4, 2, True)
    assert default_tiles(wide, 3, BF16) == reasoned_tiles(wide, 3, BF16)


def test_tiles_are_read_as_they_are_written():
    for each in (Tiles(32, 64, 2, 3, 4, 2, True), Tiles(16, 8, 16, 1, 8, 1, False)):
        assert read(text(each)) == each


@pytest.mark.parametrize("words", [[], ["nowhere"], ["a", "b"]])
def test_a_folder_without_rows_is_one_line(place, capsys, words):
    assert blocks.main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_rehearsal_has_no_winners(place, capsys):
    part = PARTS["blocks"]
    source = {**dict.fromkeys(SOURCE, "x"), "command": "bash results/gpu.sh --small"}
    Table(place / "blocks.csv", part.case, part.measured, source).write(
        **dict.fromkeys(part.case, 1)
    )
    assert blocks.main([str(place)]) == 2
    assert "no rows of a GPU" in capsys.readouterr().err


# ---- The rows ------------------------------------------------------------------------------------


def test_the_most_valuable_cases_come_first():
    found = cases(small=False)
    assert len(found) == len(set(found)) == 7 * 3 * 2 * 2
    assert found[0] == CASE and found[1].tokens in (1, 16)
    assert all(case.block == 16 and case.rows >= 4096 for case in found[:4])
    assert {case.tokens for case in found[-4:]} <= {32, 64}


@pytest.mark.parametrize(
    ("share", "ratio", "met"),
    [
        (0.125, 3.01, True),
        (0.125, 2.99, False),
        (0.5, 1.51, True),
        (0.5, 1.49, False),
    ],
)
def test_a_row_says_whether_the_goal_is_met(share, ratio, met):
    case = CASE._replace(share=share)
    found = row(case, reasoned_tiles(layout_of(case), 1, BF16), dense=ratio * 1e-2)
    assert found["met"] is met and found["goal"] == {0.125: 3, 0.5: 1.5}[share]
    assert found["ratio"] == pytest.approx(ratio)
    many = case._replace(tokens=32)
    assert row(many, reasoned_tiles(layout_of(many), 32, BF16))["met"] == ""


def test_a_floor_is_bytes_over_bandwidth():
    """One token of 4096 x 4096: 2 mn bytes dense and an eighth of them, and 16 KB of x and y."""
    found = row(CASE, reasoned_tiles(layout_of(CASE), 1, BF16))
    assert found["dense_floor_ms"] == pytest.approx(1000 * (2 * 4096**2 + 4 * 4096) / 4e12)
    assert found["floor_ms"] == pytest.approx(1000 * (2 * 4096**2 / 8 + 4 * 4096) / 4e12)
    assert found["floor_share"] == pytest.approx(found["floor_ms"] / 1e-2)


def test_a_search_starts_from_what_won_nearby():
    here, far, other = (Tiles(rows, 128, 2, 1, 8, 2, True) for rows in (32, 16, 64))
    winners = {CASE: here, Case(2048, 2048, 0.125, 16, 16): far, CASE._replace(share=0.5): other}
    assert alike(CASE._replace(tokens=2), winners) == [here]
    assert alike(CASE._replace(block=32), winners) == []
    assert alike(CASE._replace(tokens=2), {CASE: here._replace(rows=4096)}) == []


@pytest.mark.parametrize("seconds", [0, 30, 100, 1000])
def test_the_seconds_are_shared_by_worth(seconds):
    """All cases have their turn; shares add up to all there is, and the first has the most."""
    left, shares, now = cases(small=False), [], float(seconds)
    while left:
        shares.append(blocks.share(left, now))
        now, left = now - shares[-1], left[1:]
    needed = blocks.LEAST + blocks.EACH * len(shares)
    assert sum(shares) == pytest.approx(max(seconds, needed) - blocks.LEAST)
    assert all(a > b - 1e-9 for a, b in zip(shares, [*shares[1:], blocks.EACH], strict=True))


def test_lines_are_few_and_narrow(tmp_path):
    rows = written(
        tmp_path / "blocks.csv",
        [
            row(case, reasoned_tiles(layout_of(case), case.tokens, BF16))
            for case in cases(small=False)[:20]
        ]
        + [{**cases(small=False)[-1]._asdict(), "note": "OutOfMemoryError"}],
    )
    said = blocks.lines(rows)
    assert 1 <= len(said) <= 5 and all(len(line) <= 78 for line in said)
    assert "of 10" in " ".join(said) or "of 20" in " ".join(said) or "in 0 of" in " ".join(said)
    assert blocks.lines([]) == []
