"""`zoo coordinates`: how sizes grow with the width and the depth of a network.

Sizes are of weights, gradients, updates and activations. Each network is trained for a few steps,
at a constant rate, by the trainer of `zoo fit`. Options of --model, --data and --trainer are those
of `zoo fit`, as in --model.optimizer.name muon. A task must have width, layers and heads, as the
character model has: widths are compared at the config's depth, depths at its width, and all heads
are as large.
"""

import inspect
import math
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

from zoo.cli.arguments import call
from zoo.errors import UserError
from zoo.files.access import new_folder, write_text
from zoo.studies.folder import check_out, facts, is_ours
from zoo.studies.options import need_extra, numbers, parameterizations, split
from zoo.studies.progress import Bar

NAMES, WIDTHS, DEPTHS = "Dense,DCT,RandomOrthonormal,LoRA", "64,128,256,512,1024", "2,4,8,12"
SIZES = "64,128,256,512,1024,2048,4096"
GROUPS = ("--model.", "--data.", "--trainer.")
OWN = {
    "--trainer.max_steps": "--steps",
    "--model.parameterization": "--parameterization",
    "--model.parameterization.ratio": "--ratio",
    "--model.optimizer.lr": "--lr",
    "--model.base_sizes": "--base",
    "--model.base_sizes.width": "--base",
    "--model.base_sizes.layers": "--base",
}
"""Options of `zoo fit` that have a name of their own here."""
BATCH = ("--data.batch_size=4", "--data.block_size=64")
"""Small: sizes do not depend on how many windows there are, and time does."""
CONSTANT = ("--model.optimizer.warmup=0", "--model.optimizer.final_lr=1")
"""The first steps of a warm-up would show its slope."""
SHARE = 0.1
"""The share of the config's rate that is taken.

At all of it, and without its warm-up, four steps are as large as the weights, and exponents
those of nothing.
"""


def main(argv: list[str]) -> int:
    """Print exponents and errors, and write them if asked to."""
    own, passed = split(argv[1:], GROUPS)
    print(call(coordinates, argv, own=own, passed=passed, argv=argv[1:]))
    return 0


def coordinates(
    *,
    config: Annotated[str, "FILE"] = "char_lm.yaml",
    parameterization: Annotated[str, "NAMES"] = NAMES,
    ratio: Annotated[float, "R"] = 0.1,
    lr: Annotated[float | None, "LR"] = None,
    base: Annotated[str | None, "WIDTHxDEPTH"] = None,
    widths: Annotated[str, "NUMBERS"] = WIDTHS,
    depths: Annotated[str, "NUMBERS"] = DEPTHS,
    steps: Annotated[int, "N"] = 4,
    seeds: Annotated[int, "N"] = 1,
    sizes: Annotated[str, "NUMBERS"] = SIZES,
    out: Annotated[str | None, "DIR"] = None,
    force: bool = False,
    passed: list[str],
    argv: list[str],
) -> str:
    """Train, rebuild, and write a report if asked to; returns what is to be printed.

    Args:
        config: the network and its data; by default char_lm.yaml.
        parameterization: by default Dense,DCT,RandomOrthonormal,LoRA.
        ratio: share of the weights that is trained, of those that take it; by default 0.1.
        lr: of every step; by default a tenth of the config's.
        base: sizes of a network, as 64x2, from which starts and rates of the others follow
            (--model.base_sizes of zoo fit): each parameterization stands with it beside without.
        widths: by default 64,128,256,512,1024.
        depths: numbers of blocks; by default 2,4,8,12.
        steps: of training; by default 4.
        seeds: that means are taken over; by default 1.
        sizes: of the square matrices that are rebuilt in float32 and bfloat16; by default
            64,128,256,512,1024,2048,4096.
        out: a new folder for coordinates.json, .csv and .html, rebuild.csv and figures.
        force: replace an earlier report in --out.
        passed: options of `zoo fit`.
        argv: the words of the command line after `zoo coordinates`.

    Raises:
        UserError: for an option out of range, a parameterization or task that will not do, or a
            folder that holds something.
    """
    start = time.perf_counter()
    for option, value in (("--steps", steps), ("--seeds", seeds)):
        if value < 1:
            raise UserError(f"{option} must be at least 1, got {value}")
    wide, deep = numbers("--widths", widths), numbers("--depths", depths)
    square = numbers("--sizes", sizes, 2)
    if not 0 < ratio <= 1:
        raise UserError(f"--ratio must lie in (0, 1], got {ratio}")
    if taken := next(
        (OWN[key] for option in passed if (key := option.partition("=")[0]) in OWN), None
    ):
        raise UserError(f"the option for that is {taken} here: zoo coordinates --help")
    if lr is not None and not 0 < lr < math.inf:
        raise UserError(f"--lr must be above 0, got {lr}")
    small = None if base is None else base_sizes(base)
    folder = check_out(out, "coordinates", force)
    need_extra()
    shared = {
        name: [
            "--config",
            config,
            *BATCH,
            *CONSTANT,
            f"--model.parameterization={name}",
            *budget(cls, ratio),
            *passed,
            f"--trainer.max_steps={steps}",
        ]
        for name, cls in parameterizations(parameterization).items()
    }
    maps = dict(shared)
    if small is not None:
        check_base(small, wide, deep)
        scaled = [f"--model.base_sizes.{key}={size}" for key, size in small.items()]
        shared = {
            label: [*options, *extra]
            for name, options in maps.items()
            for label, extra in ((name, []), (f"{name}, {base}", scaled))
        }
    from zoo.studies.coordinates.networks import (
        Cell,
        at_config,
        built,
        data_of,
        rebuild,
        settings,
        sizes_of,
        train,
    )
    from zoo.studies.coordinates.sizes import slopes, summarize
    from zoo.studies.coordinates.terminal import describe

    first = built(next(iter(maps.values())))
    at, data = at_config(first, *(["base_sizes"] if small else [])), data_of(first)
    lr = SHARE * first.model.optimizer_config.lr if lr is None else lr
    if wrong := [width for width in wide if width % at.head]:
        raise UserError(
            f"--widths takes multiples of {at.head}, the size of a head in {config}, got {wrong[0]}"
        )
    factories = {
        name: built([*options, *data]).model.parameterization for name, options in maps.items()
    }
    grid = dict.fromkeys(
        [*((width, at.depth) for width in wide), *((at.width, depth) for depth in deep)]
    )
    cells = [
        Cell(name, width, depth, seed)
        for width, depth in sorted(grid, key=lambda each: each[0] ** 2 * each[1])
        for name in shared
        for seed in range(seeds)
    ]
    bar = Bar("networks and matrices")
    done = bar.expect(len(cells) + len(square) * len(maps))
    rows, rebuilt = [], []
    with (
        new_folder(folder, "--out", is_ours(folder, "coordinates"), force=True)
        if folder
        else nullcontext() as part
    ):
        try:
            for cell in cells:
                options = [
                    *shared[cell.name],
                    *data,
                    *sizes_of(cell, at),
                    f"--model.optimizer.lr={lr}",
                ]
                rows += train(built(options), cell)
                done()
            for name, factory in factories.items():
                rebuilt += [
                    {"parameterization": name, **errors}
                    for errors in rebuild(factory, square, done)
                ]
        finally:
            bar.close()
        summary = summarize(rows)
        report = {
            **facts(" ".join(["zoo", "coordinates", *argv]), start),
            **settings(first),
            "lr": lr,
            "parameterizations": list(shared),
            "ratio": ratio,
            "widths": wide,
            "depths": deep,
            "at": at._asdict(),
            "base": base,
            "steps": steps,
            "seeds": seeds,
            "sizes": square,
            "slopes": slopes(summary, at.width, at.depth, steps),
            "cells": summary,
            "rebuild": rebuilt,
        }
        text = describe(report)
        if part is not None:
            write(part, report, rows)
            text += f"\n\nwritten to  {folder}\nlook        {folder}/coordinates.html"
    return text


def write(folder: Path, report: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write the report, and every number of it as a table."""
    from zoo.pages.page import write_report
    from zoo.pages.texts import csv_text
    from zoo.studies.coordinates.figures import coordinates_figures
    from zoo.studies.coordinates.page import coordinates_page

    tables = {folder / "coordinates.csv": rows, folder / "rebuild.csv": report["rebuild"]}
    for file, rows in tables.items():
        write_text(file, csv_text(list(rows[0]) if rows else [], rows))
    write_report(
        folder, "coordinates", report, coordinates_figures(report), coordinates_page, tables
    )


# ---- Options -------------------------------------------------------------------------------------


def base_sizes(text: str) -> dict[str, int]:
    """Read `64x2` as the width and the depth of a network."""
    found = re.fullmatch(r"([1-9]\d{0,6})x([1-9]\d{0,4})", text)
    if not found:
        raise UserError(f"--base takes a width and a depth, as 64x2, got {text!r}")
    return {"width": int(found[1]), "layers": int(found[2])}


def check_base(base: Mapping[str, int], widths: Sequence[int], depths: Sequence[int]) -> None:
    """Refuse a base that is wider or deeper than a network which follows from it."""
    for option, sizes, least in (
        ("--widths", widths, base["width"]),
        ("--depths", depths, base["layers"]),
    ):
        if min(sizes) < least:
            raise UserError(
                f"{option} {min(sizes)} is less than the {least} of --base: give larger ones, or a "
                "smaller base"
            )


def budget(cls: type, ratio: float) -> list[str]:
    """Return the option of a ratio, for a class that takes one."""
    return (
        [f"--model.parameterization.ratio={ratio}"]
        if "ratio" in inspect.signature(cls).parameters
        else []
    )
