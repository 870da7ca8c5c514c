"""Thresholds by which zoo chooses between two ways, measured on both sides of each, and fitted.

    python -m results.gpu.thresholds FOLDER    # the constants of FOLDER's table, as lines of source

A row is one way beside another at one size, called in turn in one process; the ratio is a median
over neighbours, with quartiles, and the floor the first way's, by counts. What is fitted, in the
order of worth:

    FFT_FROM           the DCT of a matrix and the transform of its gradient, by FFT or by products;
                       256^2 to 4096^2
    COSTS              BlockDCT's products, and with W built, to a dense layer; 16, 256 and 4096
                       tokens, 768 to 4096 wide
    LARGEST            four weights and gradients as a batch, or one by one; 128^2 to 2048^2
    FACTORS_UP_TO      RandLoRA by factors, or with W built; at 1/4 to 4 times the tokens of equal
                       operations
    TOKENS             inference of 1 to 64 tokens by the kernel, the product or a kept W, past the
                       caches, as a graph
    BLOCK, BLOCKED_FROM, CHUNK_BYTES, ONE_BY_ONE_ABOVE
                       what was chosen for a CPU's caches
    ROWS_PAY_FROM      inference of 1 to 16 tokens by RowDCT's kernel, or with W kept, by the ratio
                       of their floors

and beside it, as comments: the FFT of rows alone, against products in TF32, and replayed as a CUDA
graph; LoRA, which never builds W. Times called from Python hold the launches, as a small network's
do; a graph's do not.

By the counts, on an H200 with 4.3e12 bytes and 7.2e14 operations a second, no call takes over 4 ms,
most take as long as 10 to 60 launches, 0.1 to 0.5 ms; 91 cases, of 0.15 to 0.6 s, are 25 s. Imports
take 8 s, what is drawn and sorted on the CPU some 15 s, and fourteen kernels compile in 20 s, those
that `blocks` has compiled in none.
"""

import re
import statistics
import sys
import textwrap
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from results.gpu.fitting.constants import constants
from results.gpu.frame.clock import alternate, captured, ceilings
from results.gpu.frame.failures import note
from results.gpu.frame.rows import Table, of_folder
from results.gpu.frame.setting import Setting
from zoo.studies.bench.timing import ratio

if TYPE_CHECKING:
    from collections.abc import Iterator

    from results.gpu.cases.pairs import Case, Pair

LAST = 4.0
"""Seconds that must be left to begin a case."""


def measure(setting: Setting, table: Table) -> None:
    """Write the rows of each case, the most valuable first."""
    from results.gpu.cases.thresholds import cases

    torch.manual_seed(0)
    if setting.small:
        torch.set_num_threads(1)  # tiny sizes wait for other threads longer than they work
    for case in cases(setting.device, setting.small):
        left = [pair for pair in case.pairs if not table.has(**_columns(case, pair, setting))]
        if left and setting.left() < LAST:
            print(
                f"thresholds: no time was left from {case.threshold} of {case.shape} on",
                file=sys.stderr,
            )
            return
        if left:
            _measure(case, left, setting, table)


def _measure(case: "Case", left: "list[Pair]", setting: Setting, table: Table) -> None:
    try:
        with _precision(case.dtype):
            calls = case.make()
            if case.launch == "graph":
                calls = {name: captured(call) for name, call in calls.items()}
            often = (0.0, 2, 1) if setting.small else (0.06 * len(calls), 7, 2)
            times = alternate(calls, setting.device, *often)
    except Exception as error:
        why = note(error, setting.device)
        print(f"{case.threshold}, {case.shape}, {case.tokens}: {why}", file=sys.stderr, flush=True)
        for pair in left:
            table.write(**_columns(case, pair, setting), size=float(pair.size), note=why)
        return
    for pair in left:
        first, second = (times[key] for key in pair.keys)
        measured = ratio(first, second)
        table.write(
            **_columns(case, pair, setting),
            size=float(pair.size),
            first_ms=1e3 * statistics.median(first),
            second_ms=1e3 * statistics.median(second),
            ratio=measured.median,
            low=measured.low,
            high=measured.high,
            floor_ms=1e3 * case.floor(pair, ceilings(setting.device)),
        )


@contextmanager
def _precision(dtype: str) -> "Iterator[None]":
    """Provide a context with products of float32 in TF32, if that is what is asked for."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _columns(case: "Case", pair: "Pair", setting: Setting) -> dict[str, Any]:
    return {
        "threshold": case.threshold,
        "first": pair.first,
        "second": pair.second,
        "shape": "x".join(map(str, case.shape)),
        "tokens": case.tokens,
        "share": pair.share,
        "block": pair.block,
        "dtype": case.dtype,
        "launch": case.launch,
        "on": setting.device,
    }


def lines(rows: list[dict[str, str]]) -> list[str]:
    """Summarize what was fitted for this device, in four lines at most."""
    said, device = constants(rows), rows[0].get("on", "") if rows else ""
    fitted = [line for line in said if not line.startswith("#")]
    values = []
    for line in fitted:
        name, value = line.split("  # ")[0].split(" = ")
        if name != "COSTS":
            held = re.search(f'"{device}": ([^,}}]*)', value)
            values.append(f"{name} {held[1] if held else value}".replace(" ", "\0"))
    decided = [
        found
        for line in said
        if (found := re.match(r"# COSTS of (\w+): (\d+ of \d+) decided", line))
    ]
    right = ", ".join(f"{each[2]} of {each[1]}" for each in decided)
    costs = [f"COSTS: {right} decided as measured"] if right else []
    last = f"{len(fitted)} fitted; python -m results.gpu.thresholds prints the source"
    wrapped = [line.replace("\0", " ") for line in textwrap.wrap(", ".join(values), 66)]
    return [*wrapped[: 4 - len(costs) - 1], *costs, last]


def main(words: list[str], say: Callable[[str], object] = print) -> int:
    """Print the constants of a folder's table; return 2 if there is none."""
    try:
        said = constants(of_folder(words, "thresholds"))
    except (ValueError, KeyError, TypeError, ArithmeticError) as error:
        print(f"thresholds: {error}", file=sys.stderr)
        return 2
    for line in said:
        say(line)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
