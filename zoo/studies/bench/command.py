"""`zoo bench`: what parameterized layers cost beside dense ones: time, memory, bytes on disk.

A parameterization is a name, or several with commas, and its arguments, as in --parameterization
DCT ratio=0.5; the option may be repeated, and --parameterization.ratio 0.5 works as in `zoo fit`.
"""

import os
import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from zoo.cli.arguments import call
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
from zoo.studies.folder import facts
from zoo.studies.options import numbers, words
from zoo.studies.progress import Bar

if TYPE_CHECKING:
    import torch

    from zoo.studies.bench.floor import Case, Rates
    from zoo.studies.bench.layers import Contender, Spec
    from zoo.studies.bench.rows import Results

SHAPES, TOKENS = "768x768,3072x768,4096x4096", "1,16,512,4096,16384"
SECONDS = 0.5


def main(argv: list[str]) -> int:
    """Print a table for each shape as it is done, and write what is asked for."""
    # Before torch is imported: its profiler announces itself.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    start = time.perf_counter()
    if any(word.partition("=")[0] == "--goals" for word in argv):
        raise UserError(
            "the project's goals are measured by python -m results.goals, in a clone of zoo"
        )
    call(bench, argv, own=dotted(argv[1:]), argv=argv[1:], start=start)
    return 0


def bench(
    *,
    parameterization: Annotated[list[list[str]] | None, ("NAMES", "KEY=VALUE")] = None,
    shape: Annotated[str | None, "SHAPES"] = None,
    tokens: Annotated[str | None, "NUMBERS"] = None,
    against: Annotated[str | None, "NAMES"] = None,
    update: bool = False,
    recompute: bool = False,
    precision: Annotated[str | None, "NAMES"] = None,
    device: Annotated[str, "NAME"] = "cpu",
    threads: Annotated[int | None, "N"] = None,
    seconds: Annotated[float | None, "S"] = None,
    json: Annotated[str | None, "FILE"] = None,
    csv: Annotated[str | None, "FILE"] = None,
    figure: Annotated[str | None, "FILE"] = None,
    force: bool = False,
    argv: Sequence[str],
    start: float,
) -> None:
    """Measure every case.

    Args:
        parameterization: by default DCT ratio=0.5, BlockDCT ratio=0.5, BlockDCT ratio=0.1, LoRA
            ratio=0.1, RandLoRA ratio=0.1; with --update DCT lora_rank=8, BlockDCT lora_rank=8, LoRA
            rank=8, RandLoRA rank=32.
        shape: outputs x inputs; by default 768x768,3072x768,4096x4096.
        tokens: inputs at once; by default 1,16,512,4096,16384.
        against: some of dense,peft; by default dense. peft's is its layer of the same kind and
            count, or FourierFT where it has none of the kind.
        update: W is added to a frozen weight, as in fine-tuning.
        recompute: W is built again in backward in place of being kept.
        precision: some of float32,bfloat16 (autocast); by default float32.
        device: cpu or cuda; by default cpu.
        threads: of the processor; by default as many as torch takes.
        seconds: for each row, about; by default 0.5.
        json: all that is measured; the same command goes on after an interruption.
        csv: a line for each row, added to those that are there.
        figure: ratios against tokens, as FILE.png and FILE.svg.
        force: replace an earlier --json or --figure.
        argv: the words of the command line after `zoo bench`.
        start: when the command started, by `time.perf_counter`.

    Raises:
        UserError: for an option that will not do, before anything is measured.
    """
    if threads is not None and threads < 1:
        raise UserError(f"--threads must be at least 1, got {threads}")
    from zoo.studies.bench import floor
    from zoo.studies.bench.layers import PRECISIONS
    from zoo.studies.bench.rows import CASES, Results

    rivals = words("--against", _or(against, "dense"), ("dense", "peft"))
    check_peft(rivals, update)
    seconds = SECONDS if seconds is None else seconds
    if not 0 < seconds <= 3600:
        raise UserError(f"--seconds must lie in (0, 3600], got {seconds:g}")
    shapes, counts = shapes_of(_or(shape, SHAPES)), numbers("--tokens", _or(tokens, TOKENS))
    precisions = words("--precision", _or(precision, "float32"), PRECISIONS)
    chosen = specs(parameterization or default(UPDATE if update else DEFAULT))
    if parameterization:
        check_shapes(chosen, shapes, update)
    picture = figure_path(figure, force)
    where = device_of(device, threads)
    settings = {
        "parameterizations": [[spec.cls.__name__, spec.arguments] for spec in chosen],
        "shapes": shapes,
        "tokens": counts,
        "against": rivals,
        "update": update,
        "recompute": recompute,
        "precisions": precisions,
        "seconds": seconds,
        "device": str(where),
        "threads": threads,
    }
    results = Results(
        path(json), path(csv), CASES, settings, lambda: about(argv, start, where), force
    )
    rates = floor.Rates(where)
    try:
        for each in shapes:
            cases = [floor.Case(name, each, count) for name in precisions for count in counts]
            measure_shape(cases, chosen, results, rates, settings)
    except KeyboardInterrupt:
        if results.path is not None and results.rows:
            print(
                f"zoo: {len(results.rows)} rows are in '{results.path}'; the same command goes on",
                file=sys.stderr,
            )
        raise
    report(results, picture)


def _or(given: str | None, usual: str) -> str:
    return usual if given is None else given


def measure_shape(
    cases: Sequence["Case"],
    chosen: Sequence["Spec"],
    results: "Results",
    rates: "Rates",
    settings: dict[str, Any],
) -> None:
    """Measure all cases of one shape, which share their layers, and print a table per precision."""
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


def sort(made: Iterable["Contender | str"]) -> "tuple[list[Contender], list[str]]":
    """Sort layers from lines on those that there cannot be."""
    layers: list[Contender] = []
    lines: list[str] = []
    for each in made:
        if isinstance(each, str):
            lines.append(each)
        else:
            layers.append(each)
    return layers, lines


def show(rows: Sequence[dict[str, Any]], left: Sequence[str]) -> None:
    """Print a table for each precision, and what was left out."""
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
    """Print the legend, and write what is written at the end."""
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
    """Return the facts on top of a report, with commit, torch's version and the device."""
    import torch

    from zoo.provenance import commit, device_name

    return {
        **facts(" ".join(["zoo", "bench", *argv]), start),
        "device": device_name(device),
        "torch": torch.__version__,
        "commit": commit(),
    }
