"""The cases of `results.gpu.blocks`, in the order of their worth, and what their rows say."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch

from results.gpu.frame.clock import Ceilings
from results.gpu.frame.rows import Row, Value
from zoo.bases.blocks import BlockLayout, block_layout
from zoo.bases.kernels.tiles import Class, Tiles, class_of, fits, read, text
from zoo.bases.seeds import generator

DTYPE = torch.bfloat16
GOALS = {0.5: 1.5, 0.125: 3.0}
"""Times as fast as dense, for up to 16 tokens, by share of the coefficients."""
FEW = 16
TOKENS = (1, 16, 4, 8, 2, 32, 64)
SHAPES = ((4096, 4096), (11008, 4096), (2048, 2048))
SHARES = (0.125, 0.5)
BLOCKS = (16, 32)
"""All in the order of worth."""
REHEARSED = ((16, 64), (1, 17))
"""A shape and tokens, for the CPU."""


class Case(NamedTuple):
    """What a row is of."""

    rows: int
    columns: int
    share: float
    block: int
    tokens: int

    @property
    def place(self) -> int:
        """How far back it stands in the order of worth."""
        shape = (
            SHAPES.index((self.rows, self.columns)) if (self.rows, self.columns) in SHAPES else 0
        )
        block = 2 * BLOCKS.index(self.block)
        return (
            (TOKENS.index(self.tokens) if self.tokens in TOKENS else 0)
            + shape
            + block
            + SHARES.index(self.share)
        )

    @property
    def worth(self) -> float:
        """Its share of the time, beside that of others."""
        return max(0.7**self.place, 0.03)


def cases(small: bool) -> list[Case]:
    """Return all cases in the order of their worth."""
    shapes, tokens = (REHEARSED[:1], REHEARSED[1]) if small else (SHAPES, TOKENS)
    every = [
        Case(*shape, share, block, each)
        for shape in shapes
        for share in SHARES
        for block in BLOCKS[: 1 if small else None]
        for each in tokens
    ]
    return sorted(every, key=lambda case: case.place)


@lru_cache
def layout_of(case: Case) -> BlockLayout:
    """Return where the coefficients of a case stand."""
    return block_layout(
        case.rows,
        case.columns,
        case.block,
        int(case.share * case.rows * case.columns),
        generator(0),
    )


def judged(case: Case, row: Mapping, tiles: Tiles, peak: Ceilings) -> dict[str, Value]:
    """Return the columns of a row: times, their floors and ratios, and whether the goal is met."""
    from zoo.bases.kernels.block_linear import Work, dense_work, work  # and with it triton

    def floor(count: Work) -> float:
        return 1000 * max(count.memory / peak.bandwidth, 2 * count.multiply_adds / peak.products)

    mine = floor(work(layout_of(case), case.tokens, DTYPE, tiles))
    ratio = row["dense"] / row["best"]
    columns: dict[str, Value] = {
        f"{name}_ms": row[name] for name in ("dense", "default", "best") if name in row
    }
    columns |= {
        "floor_ms": mine,
        "dense_floor_ms": floor(dense_work(case.rows, case.columns, case.tokens, DTYPE)),
    }
    columns |= {"floor_share": mine / row["best"], "ratio": ratio, "goal": "", "met": ""}
    if case.tokens <= FEW:
        columns |= {"goal": GOALS[case.share], "met": ratio >= GOALS[case.share]}
    others = {"default_tiles": text(row["usual"]), "best_tiles": text(tiles)}
    return {**columns, **others, "variants": row["variants"], "capability": row["capability"]}


def alike(case: Case, winners: Mapping[Case, Tiles]) -> list[Tiles]:
    """Return what won in the case that is most like this one, if it fits."""

    def distance(other: Case) -> float:
        sizes = [(each.rows * each.columns, each.tokens) for each in (case, other)]
        return sum(abs(math.log(a / b)) for a, b in zip(*sizes, strict=True))

    others = [each for each in winners if (each.share, each.block) == (case.share, case.block)]
    nearest = [winners[min(others, key=distance)]] if others else []
    return [each for each in nearest if fits(each, layout_of(case), case.tokens, DTYPE)]


def case_of(row: Row) -> Case:
    """Return the case of a row as it is read."""
    numbers = [int(str(row[name])) for name in ("rows", "columns", "block", "tokens")]
    return Case(*numbers[:2], float(str(row["share"])), *numbers[2:])


def winners_of(rows: Sequence[Row]) -> dict[Case, Tiles]:
    """Return the fastest tiles by case."""
    return {case_of(row): read(str(row["best_tiles"])) for row in rows if row.get("best_tiles")}


def measured(rows: Sequence[Row]) -> dict[Class, Tiles]:
    """Return the fastest tiles by the class of a call."""
    capability = {case_of(row): str(row["capability"]) for row in rows}
    tiles_of_class = {}
    for case, tiles in winners_of(rows).items():
        major, minor = map(int, capability[case].split("."))
        tiles_of_class[class_of(layout_of(case), case.tokens, DTYPE, (major, minor))] = tiles
    return tiles_of_class
