"""`zoo bench`: what parameterized layers cost beside dense ones of the same size: time, memory and bytes on disk.

A parameterization is a name, or several with commas, and its arguments, as in --parameterization
DCT ratio=0.5; the option may be repeated, and --parameterization.ratio 0.5 works as in `zoo fit`.
"""

import os
import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.cli.arguments import parse
from zoo.errors import UserError
from zoo.studies.bench.options import (
    DEFAULT,
    UPDATE,
    check_peft,
    check_shapes,
    default,
    device_of,
    dotted,
    figure_path,
    path,
    shapes_of,
    specs,
)
from zoo.studies.terminal import Bar, facts, numbers, words

if TYPE_CHECKING:
    import torch

    from zoo.studies.bench.floor import Case, Rates
    from zoo.studies.bench.layers import Contender, Spec
    from zoo.studies.bench.rows import Results

SHAPES, TOKENS = "768x768,3072x768,4096x4096", "1,16,512,4096,16384"
SECONDS = 0.5
OPTIONS: dict[str, dict[str, Any]] = {
    "--parameterization": {
        "action": "append",
        "nargs": "+",
        "metavar": ("NAMES", "KEY=VALUE"),
        "help": f"by default {DEFAULT}; with --update {UPDATE}",
    },
    "--shape": {"metavar": "SHAPES", "help": f"outputs x inputs; by default {SHAPES}"},
    "--tokens": {"metavar": "NUMBERS", "help": f"inputs at once; by default {TOKENS}"},
    "--against": {"metavar": "NAMES", "help": "some of dense,peft; by default dense"},
    "--update": {
        "action": "store_true",
        "help": "W is added to a frozen weight, as in fine-tuning",
    },
    "--recompute": {
        "action": "store_true",
        "help": "W is built again in backward in place of being kept",
    },
    "--precision": {
        "metavar": "NAMES",
        "help": "some of float32,bfloat16 (autocast); by default float32",
    },
    "--device": {"default": "cpu", "metavar": "NAME", "help": "cpu or cuda; by default cpu"},
    "--threads": {
        "type": int,
        "metavar": "N",
        "help": "of the processor; by default as many as torch takes",
    },
    "--seconds": {
        "type": float,
        "metavar": "S",
        "help": f"for each row, about; by default {SECONDS:g}",
    },
    "--json": {
        "metavar": "FILE",
        "help": "all that is measured; the same command goes on after an interruption",
    },
    "--csv": {"metavar": "FILE", "help": "a line for each row, added to those that are there"},
    "--figure": {"metavar": "FILE", "help": "ratios against tokens, as FILE.png and FILE.svg"},
    "--force": {"action": "store_true", "help": "replace an earlier --json or --figure"},
}


def main(argv: list[str]) -> int:
    """Print a table for each shape as it is done, and write what is asked for."""
    os.environ.setdefault(
        "KINETO_LOG_LEVEL", "99"
    )  # before torch is imported: its profiler announces itself
    start = time.perf_counter()
    if any(word.partition("=")[0] == "--goals" for word in argv):
        raise UserError(
            "the project's goals are measured by python -m results.goals, in a clone of zoo"
        )
    options = vars(parse("bench", __doc__ or "", argv[:1] + dotted(argv[1:]), OPTIONS))
    if options["threads"] is not None and options["threads"] < 1:
        raise UserError(f"--threads must be at least 1, got {options['threads']}")
    bench(options, argv[1:], start)
    return 0


def bench(options: dict[str, Any], argv: Sequence[str], start: float) -> None:
    """Measure every case.

    Raises:
        UserError: for an option that will not do, before anything is measured.
    """
    from zoo.studies.bench import floor
    from zoo.studies.bench.layers import PRECISIONS
    from zoo.studies.bench.rows import CASES, Results

    update = options["update"]
    against = words("--against", _or(options["against"], "dense"), ("dense", "peft"))
    check_peft(against, update)
    seconds = SECONDS if options["seconds"] is None else options["seconds"]
    if not 0 < seconds <= 3600:
        raise UserError(f"--seconds must lie in (0, 3600], got {seconds:g}")
    shapes, tokens = (
        shapes_of(_or(options["shape"], SHAPES)),
        numbers("--tokens", _or(options["tokens"], TOKENS)),
    )
    precisions = words("--precision", _or(options["precision"], "float32"), PRECISIONS)
    chosen = specs(options["parameterization"] or default(UPDATE if update else DEFAULT))
    if options["parameterization"]:
        check_shapes(chosen, shapes, update)
    figure = figure_path(options["figure"], options["force"])
    device = device_of(options["device"], options["threads"])
    settings = {
        "parameterizations": [[spec.cls.__name__, spec.arguments] for spec in chosen],
        "shapes": shapes,
        "tokens": tokens,
        "against": against,
        "update": update,
        "recompute": options["recompute"],
        "precisions": precisions,
        "seconds": seconds,
        "device": str(device),
        "threads": options["threads"],
    }
    results = Results(
        path(options["json"]),
        path(options["csv"]),
        CASES,
        settings,
        lambda: about(argv, start, device),
        options["force"],
    )
    rates = floor.Rates(device)
    try:
        for shape in shapes:
            cases = [
                floor.Case(precision, shape, count) for precision in precisions for count in tokens
            ]
            measure_shape(cases, chosen, results, rates, settings)
    except KeyboardInterrupt:
        if results.path is not None and results.rows:
            print(
                f"zoo: {len(results.rows)} rows are in '{results.path}'; the same command goes on",
                file=sys.stderr,
            )
        raise
    report(results, figure)


def _or(given: str | None, usual: str) -> str:
    return usual if given is None else given


def measure_shape(
    cases: Sequence["Case"],
    chosen: Sequence["Spec"],
    results: "Results",
    rates: "Rates",
    settings: dict[str, Any],
) -> None:
    """All cases of one shape, which share their layers; then a table for each precision, of what there is."""
    from zoo.studies.bench.floor import too_long
    from zoo.studies.bench.layers import contenders, measure

    for precision in dict.fromkeys(case.precision for case in cases):
        rates.again(precision)
    lines = {case: too_long(case, settings["seconds"], rates) for case in cases}
    left = [line for line in lines.values() if line]
    wanted = [case for case, line in lines.items() if not line]
    layers: list[Contender] = []
    bar = Bar("x".join(map(str, cases[0].shape)))
    done = bar.expect(len(wanted))
    try:
        for case in wanted:
            if not results.of(case):
                if not layers:
                    layers, reasons = sort(
                        contenders(
                            chosen,
                            case.shape,
                            settings["update"],
                            settings["against"],
                            rates.device,
                            settings["recompute"],
                        )
                    )
                    left += reasons
                results.add(measure(layers, case, settings["seconds"], rates, settings["against"]))
            done()
    finally:
        bar.close()
        results.data["left_out"] += left
        show([row for case in wanted for row in results.of(case)], left)


def sort(found: Iterable["Contender | str"]) -> "tuple[list[Contender], list[str]]":
    """Layers, and lines on those that there cannot be."""
    layers: list[Contender] = []
    lines: list[str] = []
    for each in found:
        if isinstance(each, str):
            lines.append(each)
        else:
            layers.append(each)
    return layers, lines


def show(rows: Sequence[dict[str, Any]], left: Sequence[str]) -> None:
    """A table for each precision, and what was left out."""
    from zoo.studies.bench.terminal import table

    for precision in dict.fromkeys(row["precision"] for row in rows):
        print(table([row for row in rows if row["precision"] == precision]), end="\n\n", flush=True)
    for line in left:
        print(
            *textwrap.wrap(f"left out  {line}", 80, subsequent_indent=" " * 10),
            sep="\n",
            end="\n\n",
            flush=True,
        )


def report(results: "Results", figure: Path | None) -> None:
    """The legend, and what is written at the end."""
    from zoo.studies.bench.terminal import legend

    if not results.rows:
        raise UserError("nothing was measured: every case is left out")
    results.write(finished=True)
    print(legend(results.rows))
    written = [str(file) for file in (results.path, results.csv_path) if file is not None]
    if figure is not None and any(row["ratio"] for row in results.rows):
        from zoo.pages.style import save
        from zoo.studies.bench.figures import bench_figure

        save(bench_figure(results.rows), figure)
        written += [f"{figure}.png", f"{figure}.svg"]
    if written:
        print(f"\nwritten to  {', '.join(written)}")


def about(argv: Sequence[str], start: float, device: "torch.device") -> dict[str, Any]:
    """The facts on top of a report: also the commit, torch's version, and the device that is measured."""
    import torch

    from zoo.provenance import commit, device_name

    return {
        **facts("bench", argv, start),
        "device": device_name(device),
        "torch": torch.__version__,
        "commit": commit(),
    }
