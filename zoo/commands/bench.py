"""`zoo bench`: what parameterized layers cost beside dense ones of the same size: time, memory and bytes on disk.

A parameterization is a name, or several with commas, and its arguments, as in --parameterization DCT ratio=0.5; the
option may be repeated, and --parameterization.ratio 0.5 works as in `zoo fit`.
"""

import importlib.util
import math
import os
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.commands.arguments import parse
from zoo.commands.check import budget, given
from zoo.commands.coordinates import numbers, parameterizations
from zoo.commands.laboratory import Bar, facts, need_extra, words
from zoo.errors import UserError

if TYPE_CHECKING:
    import torch

    from zoo.lab.bench import Case, Contender, Rates, Spec
    from zoo.lab.bench_rows import Results

DEFAULT = "DCT ratio=0.5, BlockDCT ratio=0.5, BlockDCT ratio=0.1, LoRA ratio=0.1, RandLoRA ratio=0.1"
UPDATE = "DCT lora_rank=8, BlockDCT lora_rank=8, LoRA rank=8, RandLoRA rank=32"
SHAPES, TOKENS = "768x768,3072x768,4096x4096", "1,16,512,4096,16384"
SECONDS = 1.0
OPTIONS: dict[str, dict[str, Any]] = {
    "--parameterization": {"action": "append", "nargs": "+", "metavar": ("NAMES", "KEY=VALUE"), "help":
                           f"by default {DEFAULT}; with --update {UPDATE}"},
    "--shape": {"metavar": "SHAPES", "help": f"outputs x inputs; by default {SHAPES}"},
    "--tokens": {"metavar": "NUMBERS", "help": f"inputs at once; by default {TOKENS}"},
    "--against": {"metavar": "NAMES", "help": "some of dense,peft; by default dense"},
    "--update": {"action": "store_true", "help": "W is added to a frozen weight, as in fine-tuning"},
    "--precision": {"metavar": "NAMES", "help": "some of float32,bfloat16 (autocast); by default float32"},
    "--device": {"default": "cpu", "metavar": "NAME", "help": "cpu or cuda; by default cpu"},
    "--threads": {"type": int, "metavar": "N", "help": "of the processor; by default as many as torch takes"},
    "--seconds": {"type": float, "metavar": "S", "help": f"for each row, about; by default {SECONDS:g}"},
    "--goals": {"nargs": "?", "const": "", "metavar": "NAMES", "help": "measure the project's own goals instead, or "
                "some of them"},
    "--json": {"metavar": "FILE", "help": "all that is measured; the same command goes on after an interruption"},
    "--csv": {"metavar": "FILE", "help": "a line for each row, added to those that are there"},
    "--figure": {"metavar": "FILE", "help": "ratios against tokens, as FILE.png and FILE.svg"},
    "--force": {"action": "store_true", "help": "replace an earlier --json or --figure"},
}
NOT_OF_GOALS = ("parameterization", "shape", "tokens", "against", "update", "precision", "seconds", "figure")


def main(argv: list[str]) -> int:
    """Print a table for each shape as it is done, and write what is asked for."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # before torch is imported: its profiler announces itself
    start = time.perf_counter()
    options = vars(parse("bench", __doc__ or "", argv[:1] + dotted(argv[1:]), OPTIONS))
    if options["threads"] is not None and options["threads"] < 1:
        raise UserError(f"--threads must be at least 1, got {options['threads']}")
    if options["goals"] is not None:
        if wrong := next((name for name in NOT_OF_GOALS if options[name]), None):
            raise UserError(f"--goals are measured as they are defined: drop --{wrong}")
        goals(options, argv[1:], start)
    else:
        bench(options, argv[1:], start)
    return 0


def bench(options: dict[str, Any], argv: Sequence[str], start: float) -> None:
    """Measure every case.

    Raises:
        UserError: for an option that will not do, before anything is measured.
    """
    from zoo.lab import bench as lab
    from zoo.lab.bench_rows import CASES, Results

    update = options["update"]
    against = words("--against", options["against"] or "dense", ("dense", "peft"))
    check_peft(against, update)
    seconds = SECONDS if options["seconds"] is None else options["seconds"]
    if not 0 < seconds <= 3600:
        raise UserError(f"--seconds must lie in (0, 3600], got {seconds:g}")
    shapes, tokens = shapes_of(options["shape"] or SHAPES), numbers("--tokens", options["tokens"] or TOKENS)
    precisions = words("--precision", options["precision"] or "float32", lab.PRECISIONS)
    chosen = specs(options["parameterization"] or default(UPDATE if update else DEFAULT))
    if options["parameterization"]:
        check_shapes(chosen, shapes, update)
    figure = figure_path(options["figure"], options["force"])
    device = device_of(options["device"], options["threads"])
    settings = {
        "parameterizations": [[spec.cls.__name__, spec.arguments] for spec in chosen], "shapes": shapes,
        "tokens": tokens, "against": against, "update": update, "precisions": precisions, "seconds": seconds,
        "device": str(device), "threads": options["threads"],
    }
    results = Results(path(options["json"]), path(options["csv"]), CASES, settings,
                      lambda: about(argv, start, device), options["force"])
    rates = lab.Rates(device)
    for shape in shapes:
        cases = [lab.Case(precision, shape, count) for precision in precisions for count in tokens]
        measure_shape(cases, chosen, results, rates, settings)
    report(results, figure)


def measure_shape(
    cases: Sequence["Case"], chosen: Sequence["Spec"], results: "Results", rates: "Rates", settings: dict[str, Any]
) -> None:
    """All cases of one shape, which share their layers; a table for each precision."""
    from zoo.commands.bench_text import table
    from zoo.lab.bench import contenders, measure, too_long

    left = [line for case in cases if (line := too_long(case, settings["seconds"], rates))]
    wanted = [case for case in cases if too_long(case, settings["seconds"], rates) is None]
    layers: list[Contender] = []
    if any(not results.of(case) for case in wanted):
        bar = Bar("x".join(map(str, cases[0].shape)))
        done = bar.expect(len(wanted))
        try:
            for each in contenders(chosen, cases[0].shape, settings["update"], settings["against"], rates.device):
                if isinstance(each, str):
                    left.append(each)
                else:
                    layers.append(each)
            for case in wanted:
                if layers and not results.of(case):
                    results.add(measure(layers, case, settings["seconds"], rates, settings["against"]))
                done()
        finally:
            bar.close()
    results.data["left_out"] += left
    for precision in dict.fromkeys(case.precision for case in wanted):
        rows = [row for case in wanted if case.precision == precision for row in results.of(case)]
        if rows:
            print(f"{table(rows)}\n", flush=True)
    for line in left:
        print(*textwrap.wrap(f"left out  {line}", 80, subsequent_indent=" " * 10), sep="\n", end="\n\n", flush=True)


def report(results: "Results", figure: Path | None) -> None:
    """The legend, and what is written at the end."""
    from zoo.commands.bench_text import legend

    results.write(finished=True)
    if not results.rows:
        raise UserError("nothing was measured: every case is left out")
    print(legend(results.rows))
    written = [str(file) for file in (results.path, results.csv_path) if file is not None]
    if figure is not None:
        from zoo.lab.bench_figures import bench_figure
        from zoo.lab.style import save

        save(bench_figure(results.rows), figure)
        written += [f"{figure}.png", f"{figure}.svg"]
    if written:
        print(f"\nwritten to  {', '.join(written)}")


def goals(options: dict[str, Any], argv: Sequence[str], start: float) -> None:
    """Measure the project's goals and print each beside what is measured."""
    from zoo.commands import bench_text
    from zoo.lab import goals as lab
    from zoo.lab.bench_rows import GOALS, Results

    names = [name.strip() for name in options["goals"].split(",") if name.strip()] or None
    device = device_of(options["device"], options["threads"])
    results = Results(path(options["json"]), path(options["csv"]), GOALS, {"goals": names, "device": str(device)},
                      lambda: about(argv, start, device), options["force"])
    results.rows.clear()  # they are measured together
    bar = Bar("goals")
    try:
        found = lab.measure(names, bar.bar.set_description)
    finally:
        bar.close()
    results.add([goal_row(goal) for goal in found])
    results.write(finished=True)
    print(bench_text.goals(results.rows))
    if written := [str(file) for file in (results.path, results.csv_path) if file is not None]:
        print(f"\nwritten to  {', '.join(written)}")


def goal_row(goal: Any) -> dict[str, Any]:
    """A goal as a row, and whether it is met."""
    fields = goal._asdict()
    at_least = bool(fields.get("at_least"))
    met = goal.measured >= goal.goal if at_least else goal.measured <= goal.goal
    return {**fields, "median": goal.measured, "at_least": at_least, "met": met}


# ---- Options ---------------------------------------------------------------------------------------------------------


def dotted(argv: Sequence[str]) -> list[str]:
    """The words with each `--parameterization.KEY VALUE` as KEY=VALUE of the parameterization before it.

    Raises:
        UserError: if there is none before it.
    """
    option, inside = "--parameterization", False
    found: list[str] = []
    end: int | None = None
    rest: Iterator[str] = iter(argv)
    for word in rest:
        if word.startswith(f"{option}."):
            key, equals, value = word.removeprefix(f"{option}.").partition("=")
            if end is None:
                raise UserError(f"{word} belongs to a parameterization: give {option} NAME before it")
            found.insert(end, f"{key}={value if equals else next(rest, '')}")
            end, inside = end + 1, False
            continue
        if word == option or word.startswith(f"{option}="):
            found += word.split("=", 1)
            inside = True
        else:
            inside = inside and not word.startswith("--")
            found.append(word)
        end = len(found) if inside else end
    return found


def default(text: str) -> list[list[str]]:
    """A default's parameterizations, those that are there."""
    import zoo.parameterizations as zoo

    groups = [part.split() for part in text.split(", ")]
    return [group for group in groups if group[0] in zoo.__all__]


def specs(groups: Sequence[Sequence[str]]) -> list["Spec"]:
    """Parameterizations with their arguments, each once; without arguments, half of the coefficients or rank 1.

    Raises:
        UserError: for a name that is none, or an argument that is no KEY=VALUE.
    """
    from zoo.lab.bench import Spec

    found: dict[str, Spec] = {}
    for names, *pairs in groups:
        if wrong := next((pair for pair in pairs if "=" not in pair), None):
            raise UserError(f"--parameterization takes names with commas and KEY=VALUE, as in DCT,LoRA ratio=0.1, got "
                            f"{wrong!r}")
        for cls in parameterizations(names).values():
            spec = Spec(cls, given(list(pairs)) or budget(cls))
            found.setdefault(spec.label, spec)
    return list(found.values())


def shapes_of(text: str) -> list[tuple[int, int]]:
    """(outputs, inputs) of each, in the order given.

    Raises:
        UserError: naming one that is no shape.
    """
    found = []
    for word in text.split(","):
        sides = word.strip().split("x")
        if len(sides) != 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
            raise UserError(f"--shape takes outputs x inputs, as in 768x768,3072x768, got {word.strip()!r}")
        found.append((int(sides[0]), int(sides[1])))
    return list(dict.fromkeys(found))


def check_shapes(chosen: Sequence["Spec"], shapes: Sequence[tuple[int, int]], update: bool) -> None:
    """Refuse a parameterization that none of the shapes can have, as with an argument that is none.

    Raises:
        UserError: with what it says of the smallest.
    """
    import torch

    from zoo.lab.bench import contenders

    for spec in chosen:
        reasons: list[str] = []
        for shape in sorted(shapes, key=math.prod):
            (found,) = contenders([spec], shape, update, [], torch.device("cpu"))
            if not isinstance(found, str):
                break
            reasons.append(found)
        else:
            raise UserError(f"--parameterization: {reasons[0]}")


def check_peft(against: Sequence[str], update: bool) -> None:
    """Refuse peft where it is not installed, or there is nothing to compare.

    Raises:
        UserError: naming the extra or the option.
    """
    if "peft" not in against:
        return
    if not update:
        raise UserError("peft has updates alone: --against peft goes with --update")
    if importlib.util.find_spec("peft") is None:
        raise UserError('--against peft needs peft, which is not installed: pip install -e ".[glue]" peft')


def path(text: str | None) -> Path | None:
    """A file, if one is given."""
    return None if text is None else Path(text)


def figure_path(text: str | None, force: bool) -> Path | None:
    """Where a figure goes, without its suffix.

    Raises:
        UserError: if it is there, cannot be written, or matplotlib is not installed.
    """
    if text is None:
        return None
    from zoo.lab.bench_rows import check_file

    need_extra()
    base = Path(text.removesuffix(".png").removesuffix(".svg"))
    for file in (Path(f"{base}.png"), Path(f"{base}.svg")):
        check_file(file, "--figure")
        if file.exists() and not force:
            raise UserError(f"'{file}' is there already: give another --figure, or replace it with --force")
    return base


def device_of(name: str, threads: int | None) -> "torch.device":
    """The device, usable; and as many threads as are asked for.

    Raises:
        UserError: if there is none such.
    """
    import torch

    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device takes cpu or cuda, got {name!r}")
    if threads is not None:
        torch.set_num_threads(threads)
    return device


def about(argv: Sequence[str], start: float, device: "torch.device") -> dict[str, Any]:
    """The facts on top of a report: also the commit, torch's version, and the device that is measured."""
    import torch

    from zoo.lab.bench import commit
    from zoo.machine import device_name

    return {**facts("bench", argv, start), "device": device_name(device), "torch": torch.__version__,
            "commit": commit()}
