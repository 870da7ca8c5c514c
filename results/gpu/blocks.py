"""The block kernel beside cuBLAS, for 1 to 64 tokens in bfloat16.

`python -m results.gpu.blocks FOLDER` prints the winners of the rows in an --out, as
zoo.bases.kernels.tiles holds them.

A row is a weight (m, n) of K = share mn coefficients in blocks of b, and a number of tokens T. All
times are of one product, in milliseconds, from CUDA graphs that go through copies of the weight of
`tune.FLUSH_BYTES` in turn, so that none is found in a cache; the three are measured in alternation:

    dense_ms      F.linear, which is cuBLAS
    default_ms    the kernel with `default_tiles`
    best_ms       with the fastest tiles of a search, whose y is that of the reference

The floors are max(bytes / bandwidth, 2 multiply-adds / products), of `block_linear.work` and
`dense_work`, over the rates of a copy and of a large bfloat16 product in this run. Goals: 1.5 times
as fast as dense at mn / 2, 3 times at mn / 8, for 1 to 16 tokens.

By the counts a 4096 x 4096 product moves 33.6 MB dense and 4.2 MB at mn / 8: 8 and 1 us of an
H200's 4.2 TB/s. What takes time is to compile, about a second a variant; threads do so at a time,
and how many variants there are follows from the seconds left. Rows come in the order of worth.
"""

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from results.gpu.cases.blocks import (
    DTYPE,
    FEW,
    GOALS,
    Case,
    alike,
    case_of,
    cases,
    judged,
    layout_of,
    measured,
    winners_of,
)
from results.gpu.frame.clock import Call, alternate, captured, ceilings, median
from results.gpu.frame.compiling import THREADS, compile_all
from results.gpu.frame.failures import note
from results.gpu.frame.rows import Last, Table, of_folder
from results.gpu.frame.setting import Setting
from zoo.bases.blocks import BlockLayout
from zoo.bases.kernels import tune
from zoo.bases.kernels.tiles import Tiles, default_tiles

if TYPE_CHECKING:
    from zoo.bases.kernels.block_linear import KernelTables

PRODUCTS = 128
"""Products of a graph, at least: launching one takes about as long as a few of them."""
LEAST, EACH = 2.0, 0.7
"""Seconds without which no case is begun, and those that one takes without a search."""


def measure(setting: Setting, table: Table) -> None:
    """Write a row for each case, as long as there is time."""
    peak, every = ceilings(setting.device), cases(setting.small)
    left = [case for case in every if not table.has(**case._asdict())]
    winners = winners_of(table.rows)
    for i, case in enumerate(left):
        if setting.left() < LEAST:
            print(
                f"blocks: no time was left for {len(left) - i} of {len(every)} cases",
                file=sys.stderr,
            )
            return
        if i % THREADS == 0 and not setting.small:
            compile_all(
                [_compiles(each, default(each), setting.device) for each in left[i : i + THREADS]]
            )
        try:
            until = time.time() + (1.5 if setting.small else share(left[i:], setting.left()))
            row = one(case, setting, [default(case), *alike(case, winners)], until)
        except Exception as error:
            table.write(**case._asdict(), note=note(error, setting.device))
            continue
        winners[case] = row.pop("tiles")
        table.write(**case._asdict(), **judged(case, row, winners[case], peak))


def share(left: Sequence[Case], seconds: float) -> float:
    """Return the seconds for the first of the cases that are left.

    They are what all need, and of what is to spare the share of its worth.
    """
    spare = max(0.0, seconds - LEAST - EACH * len(left))
    return EACH + spare * left[0].worth / sum(case.worth for case in left)


def one(case: Case, setting: Setting, start: Sequence[Tiles], until: float) -> dict:
    """Measure the seconds of a case, and its fastest tiles."""
    from zoo.bases.kernels import cases as checks
    from zoo.bases.kernels.block_linear import block_linear, device_of

    small, device = setting.small, setting.device
    x, coefs, layout, tables = operands(case, device, small)
    wanted = checks.expected(x, coefs[0], layout, None)
    quick = {"seconds": 0.0, "least": 1, "warmup": 0} if small else {"seconds": 0.02, "warmup": 1}

    def call(tiles: Tiles) -> Call:
        return graph(
            [partial(block_linear, x, coef, layout, tables, None, tiles) for coef in coefs]
        )

    def graph(calls: Sequence[Call]) -> Call:
        if small:
            return _together(calls)
        return captured(_together([*calls] * _rounds(len(calls))), warmup=1)

    def times(batch: Sequence[Tiles]) -> Mapping[Tiles, float]:
        if not small:
            compile_all([_compiles(case, tiles, device) for tiles in batch])
        seconds_of = {}
        for tiles in batch:
            try:
                y = block_linear(x, coefs[0], layout, tables, None, tiles)
                if checks.distance(y, wanted) <= checks.TOLERANCE[DTYPE]:
                    seconds_of[tiles] = median(alternate({"": call(tiles)}, device, **quick))[""]
            except Exception as error:  # too much for the chip, or for the compiler
                why = note(error, device)
                print(f"{case}: {tiles}: {why}", file=sys.stderr)
                if isinstance(why, Last):
                    raise
        return seconds_of

    with torch.no_grad():
        near = partial(tune.neighbours, layout=layout, tokens=case.tokens, dtype=DTYPE)
        searched = tune.search(start, near, times, until, 1 if small else THREADS)
        if not searched:
            raise RuntimeError("no tiles work")
        usual = start[0]
        best = min(searched, key=lambda tiles: searched[tiles])
        dense = weights(case.rows, case.columns, device, small)
        calls = {"dense": graph([partial(F.linear, x, weight) for weight in dense])}
        calls |= {"default": call(usual)} if usual in searched else {}
        calls |= {"best": call(best)} if best != usual else {}
        final = median(alternate(calls, device, **(quick if small else {"seconds": 0.1})))
    products = {"dense": len(dense), "default": len(coefs), "best": len(coefs)}
    if not small:
        products = {name: number * _rounds(number) for name, number in products.items()}
    each = {name: 1000 * seconds / products[name] for name, seconds in final.items()}
    if each.get("default", math.inf) <= each.get("best", math.inf):
        best, each["best"] = usual, each["default"]
    capability = ".".join(map(str, device_of(x).capability))
    return {
        **each,
        "tiles": best,
        "usual": usual,
        "variants": len(searched),
        "capability": capability,
    }


def default(case: Case) -> Tiles:
    """Return the tiles that a call would take here."""
    from zoo.bases.kernels.block_linear import device_of

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return default_tiles(
        layout_of(case), case.tokens, DTYPE, device_of(torch.empty(0, device=device))
    )


def operands(
    case: Case, device: str, small: bool
) -> tuple[Tensor, Sequence[Tensor], BlockLayout, "KernelTables"]:
    """Make `x`, copies of the coefficients, layout and tables of a case."""
    from zoo.bases.kernels.block_linear import kernel_tables

    layout = layout_of(case)
    x = torch.randn(case.tokens, case.columns, device=device, dtype=DTYPE)
    return (
        x,
        numbers(layout.coefficients, device, small),
        layout,
        kernel_tables(layout, device, DTYPE),
    )


@lru_cache(maxsize=16)  # of 256 MB each
def numbers(count: int, device: str, small: bool) -> tuple[Tensor, ...]:
    """Make copies of a vector of random numbers."""
    vector = torch.randn(count, device=device, dtype=DTYPE)
    return tuple(tune.copies(vector, 0) if small else tune.copies(vector))


def weights(rows: int, columns: int, device: str, small: bool) -> list[Tensor]:
    """Make copies of a dense weight."""
    return [each.view(rows, columns) for each in numbers(rows * columns, device, small)]


def _rounds(copies: int) -> int:
    """Return how often a graph goes through the copies, so that a launch is little of its time."""
    return -(-PRODUCTS // copies)


def _together(calls: Sequence[Call]) -> Call:
    """Return a call that makes all of the calls."""

    def every() -> None:
        for call in calls:
            call()

    return every


def _compiles(case: Case, tiles: Tiles, device: str) -> Callable[[], Sequence[Any]]:
    """Return the job that compiles the kernel of a case."""

    @torch.no_grad()
    def job() -> Sequence[Any]:
        from zoo.bases.kernels.block_linear import kernel_tables, prepare

        layout = layout_of(case)
        x = torch.empty(case.tokens, case.columns, device=device, dtype=DTYPE)
        coef = torch.empty(layout.coefficients, device=device, dtype=DTYPE)
        return prepare(x, coef, layout, kernel_tables(layout, device, DTYPE), None, tiles)

    return job


def lines(rows: list[dict[str, str]]) -> list[str]:
    """Summarize how many goals are met, and how much faster than dense the largest worth is."""
    said = []
    rows = [row for row in rows if row.get("ratio")]
    for share, goal in GOALS.items():
        mine = [row for row in rows if float(row["share"]) == share]
        few = [row for row in mine if row.get("met")]
        if not few:
            continue
        ratios = sorted(float(row["ratio"]) for row in few)
        met = sum(row["met"] == "True" for row in few)
        speeds = f"{ratios[0]:.2g} to {ratios[-1]:.2g} times dense's speed"
        said.append(
            f"mn/{round(1 / share)}, to {FEW} tokens: {speeds}, {goal} in {met} of {len(few)}"
        )
        first = min(few, key=lambda row: case_of(row).place)
        said.append(
            f"  {first['rows']}x{first['columns']}, blocks of {first['block']}, "
            f"{first['tokens']} tokens: "
            f"{float(first['ratio']):.2f}, at {float(first['floor_share']):.0%} of its floor"
        )
    return said


def main(arguments: Sequence[str]) -> int:
    """Print the winners of a folder's rows as the text of `zoo.bases.kernels.tiles.MEASURED`."""
    try:
        rows = of_folder(arguments, "blocks")
        if any("--small" in row["command"] for row in rows) or not rows:
            raise ValueError(f"'{arguments[0]}' has no rows of a GPU")
        text = tune.source(
            measured(rows), f"{rows[0]['device']}, commit {rows[0]['commit']}, {rows[0]['date']}"
        )
    except (ValueError, KeyError, TypeError, ArithmeticError) as error:
        print(f"blocks: {error}", file=sys.stderr)
        return 2
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
