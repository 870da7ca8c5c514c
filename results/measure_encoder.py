"""Measure steps of an encoder of BERT-base's size: with zoo's updates, with peft's, and frozen.

    python -m results.measure_encoder encoder.csv
    python -m results.measure_encoder encoder.csv --methods BlockDCT --against LoRA

A step is forward, backward and AdamW under bfloat16 autocast, of a classifier with random weights
whose head is trained. zoo's linear layers have an update at LoRA's count of rank 8, peft's those of
the same kind and count (`zoo.studies.bench.rivals`). The frozen encoder has neither, and still runs
backward through its activations to the first layer that has one. Of neighbours in time,

    ratio      zoo's step over peft's
    own        a step minus the frozen one: what the updates cost by themselves, in ms
    own ratio  zoo's own over peft's own

are medians, each with its 95 % interval by a bootstrap over rounds. Where peft's own cost exceeds
five spreads, half the width of its interval, it is told from noise, and the own ratio says
something. `zoo_mib` and `peft_mib` are the most that a step allocates at a time, in MiB, beyond
weights, gradients and moments; their memory ratio is zoo's over peft's. A row that is in the file
is not measured again.
"""

import copy
import csv
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

# Before torch is imported, whose profiler announces itself otherwise.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import numpy as np
import torch
from torch import nn

import zoo.parameterizations as zoo
from results.goals.peft import ALL, Batch, backbone, stepper
from zoo.__main__ import guarded, prepare_process
from zoo.cli.arguments import OneLineParser
from zoo.cli.check import find, given
from zoo.errors import UserError
from zoo.layers.convert import convert, zoo_layers
from zoo.pages.terminal import aligned, hanging
from zoo.pages.texts import csv_text
from zoo.studies.bench.command import about
from zoo.studies.bench.layers import Spec
from zoo.studies.bench.options import device_of
from zoo.studies.bench.rivals import RIVALS, inject, rival
from zoo.studies.bench.rows import SOURCE, check_file, ratio_columns, source
from zoo.studies.bench.timing import alternate, peak_memory, quartiles, ratio
from zoo.studies.options import numbers, words

Row = dict[str, object]
RANK, SENTENCE = 8, 16
"""LoRA's rank whose count is the budget, and tokens of a sentence."""
ARGUMENTS: dict[str, dict[str, Any]] = {"RandLoRA": {"rank": 32}, "VeRA": {"rank": 256}}
"""Of classes whose count is not free."""
TARGETS = {"qv": ["query", "value"], "all": [f"*.{name}" for name in ALL]}
ENOUGH = 5
"""Spreads that a cost exceeds which is told from noise."""
DRAWS = 2000
"""Of a bootstrap."""
KEY = ("method", "against", "tokens", "targets")
"""Columns by which a row is known."""
COLUMNS = [
    *KEY,
    "rival",
    *("trained", "rival_trained", "rounds", "zoo_ms", "peft_ms", "frozen_ms"),
    *("ratio", "ratio_interval", "ratio_quartiles"),
    *("own_ms", "own_interval", "peft_own_ms", "peft_own_interval"),
    *("own_ratio", "own_ratio_interval", "exceeds_five_spreads"),
    *("zoo_mib", "peft_mib", "memory_ratio"),
    *SOURCE,
]
Times = Mapping[str, Sequence[float]]


def main(argv: Sequence[str]) -> int:
    """Measure the rows that the file lacks, and print all; returns 0, or 2 for a mistake."""
    parser = OneLineParser(
        prog="python -m results.measure_encoder", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("csv", metavar="FILE", help="rows are added to it")
    parser.add_argument(
        "--methods", metavar="NAMES", help="as in 'DCT,Kronecker factor=8'; by default all"
    )
    parser.add_argument(
        "--against", metavar="NAME", help="a class whose peer stands beside all; by default its own"
    )
    parser.add_argument("--tokens", metavar="NUMBERS", default="64,512")
    parser.add_argument("--targets", metavar="NAMES", default="qv,all")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each of the three, a row")
    parser.add_argument("--threads", type=int, help="by default as many as torch takes")
    return guarded(lambda: measure(argv=argv, **vars(parser.parse_args(argv))))


def measure(
    argv: Sequence[str],
    csv: str,
    methods: str | None,
    against: str | None,
    tokens: str,
    targets: str,
    seconds: float,
    threads: int | None,
    sizes: Mapping[str, int] | None = None,
) -> int:
    """Measure what the options say; returns 0.

    Args:
        argv: the command line.
        csv: the file of rows.
        methods: classes with arguments, separated by commas; None for all that have a budget.
        against: a class of `RIVALS`, or None.
        tokens: of a batch, some numbers, multiples of a sentence's.
        targets: some of `TARGETS`.
        seconds: of each side, a row.
        threads: of the processor.
        sizes: of transformers' `BertConfig`, where they are not BERT-base's.

    Raises:
        UserError: for an option that will not do, before anything is measured.
    """
    file, start = Path(csv), time.perf_counter()
    specs = chosen(methods)
    counts = numbers("--tokens", tokens)
    if wrong := next((count for count in counts if count % SENTENCE), None):
        raise UserError(f"--tokens must be multiples of {SENTENCE}, a sentence, got {wrong}")
    if against is not None and against not in RIVALS:
        raise UserError(f"--against must be one of {', '.join(RIVALS)}, got {against!r}")
    if not seconds > 0:
        raise UserError(f"--seconds must be above 0, got {seconds:g}")
    wanted = words("--targets", targets, list(TARGETS))
    if missing := [name for name in ("transformers", "peft") if not importlib.util.find_spec(name)]:
        raise UserError(f'{missing[0]} is not installed: pip install -e ".[test]"')
    check_file(file, "FILE")
    there = read(file)
    device = device_of("cpu", threads)
    for target in wanted:
        for count in counts:
            for spec in specs:
                key = dict(
                    zip(KEY, (spec.label, against or "own", str(count), target), strict=True)
                )
                if any(all(row[name] == key[name] for name in KEY) for row in there):
                    continue
                batch = Batch(count // SENTENCE, SENTENCE, target == "all")
                try:
                    steps, facts = calls(spec, batch, against, sizes)
                except ValueError as error:
                    print(f"left out  {' '.join(key.values())}: {error}", flush=True)
                    continue
                times = alternate(steps, seconds, warmup=2, least=5)
                command = f"python -m results.measure_encoder {' '.join(argv)}"
                origin = source({**about(argv, start, device), "command": command})
                measured = statistics(times) | memory(steps)
                there.append(append(file, key | facts | measured | origin))
                print(line(there[-1]), flush=True)
    print(table(there))
    return 0


def chosen(methods: str | None) -> list[Spec]:
    """Read methods; where none are given, every class that has a budget.

    Raises:
        UserError: for a name that is none, or an argument that is no KEY=VALUE.
    """
    every = [name for name in zoo.__all__ if name in ARGUMENTS or _has_budget(getattr(zoo, name))]
    specs = []
    for text in methods.split(",") if methods else every:
        name, *pairs = text.split() or [""]
        specs.append(Spec(find(name), given(pairs) or ARGUMENTS.get(name, {"lora_rank": RANK})))
    return specs


def _has_budget(cls: Any) -> bool:
    return not cls.__abstractmethods__ and "lora_rank" in cls.__init__.__annotations__


# ---- Networks ------------------------------------------------------------------------------------


def calls(
    spec: Spec, batch: Batch, against: str | None, sizes: Mapping[str, int] | None
) -> tuple[dict[str, Callable[[], object]], Row]:
    """Make a step of each of the three networks, and say what they are.

    Raises:
        ValueError: for a shape that the parameterization, or peft's layer, cannot have.
    """
    ours = convert(
        _fresh(sizes),
        partial(spec.cls, **spec.arguments),
        TARGETS["all" if batch.every else "qv"],
        start="update",
    )
    rivals = {name: rival(layer, against) for name, layer in zoo_layers(ours).items()}
    theirs, frozen = _fresh(sizes), _fresh(sizes)
    inject(theirs, rivals)
    theirs.get_submodule("classifier").requires_grad_(True)
    for name in rivals:
        frozen.get_submodule(name).register_forward_hook(_follow)
    networks = {"zoo": ours, "peft": theirs, "frozen": frozen}
    facts: Row = {
        "rival": "; ".join(dict.fromkeys(found.name for found in rivals.values())),
        "trained": _updates(ours),
        "rival_trained": _updates(theirs),
    }
    return {name: stepper(network, batch)[0] for name, network in networks.items()}, facts


def _follow(layer: nn.Module, args: object, y: torch.Tensor) -> None:
    """Let backward run to here, as to a layer that has an update."""
    if not y.requires_grad:
        y.requires_grad_()


@lru_cache(maxsize=1)
def _drawn(sizes: tuple[tuple[str, int], ...]) -> nn.Module:
    return backbone(dict(sizes))


def _fresh(sizes: Mapping[str, int] | None) -> nn.Module:
    """Copy a network of random weights, drawn once."""
    return copy.deepcopy(_drawn(tuple((sizes or {}).items())))


def _updates(network: nn.Module) -> int:
    """Count what is trained, less the head."""
    head = network.get_submodule("classifier")
    every = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return every - sum(p.numel() for p in head.parameters())


# ---- Statistics ----------------------------------------------------------------------------------


def statistics(times: Times) -> Row:
    """Return what is said of times of `zoo`, `peft` and `frozen`, neighbours at the same place.

    Each median has a 95 % interval: rounds are drawn again, all three times of a round together.
    """
    rounds = min(map(len, times.values()))
    ms = {name: 1e3 * np.array(taken[:rounds]) for name, taken in times.items()}
    drawn = np.random.default_rng(0).integers(rounds, size=(DRAWS, rounds))

    def median(values: np.ndarray) -> tuple[float, np.ndarray]:
        return float(np.median(values)), np.median(values[drawn], axis=1)

    to_peft, to_peft_drawn = median(ms["zoo"] / ms["peft"])
    own, own_drawn = median(ms["zoo"] - ms["frozen"])
    theirs, theirs_drawn = median(ms["peft"] - ms["frozen"])
    low, high = np.quantile(theirs_drawn, (0.025, 0.975))
    exceeds = theirs > ENOUGH * (high - low) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        own_ratio = own_drawn / theirs_drawn
    spread = ratio(times["zoo"], times["peft"])._asdict()
    return {
        "rounds": rounds,
        **{f"{name}_ms": f"{quartiles(list(taken)).median:.4g}" for name, taken in ms.items()},
        "ratio": f"{to_peft:.3f}",
        "ratio_interval": _interval(to_peft_drawn),
        "ratio_quartiles": ratio_columns(spread)["quartiles"],
        "own_ms": f"{own:.2f}",
        "own_interval": _interval(own_drawn, 2),
        "peft_own_ms": f"{theirs:.2f}",
        "peft_own_interval": _interval(theirs_drawn, 2),
        "own_ratio": f"{own / theirs:.3f}" if exceeds else "",
        "own_ratio_interval": _interval(own_ratio) if exceeds else "",
        "exceeds_five_spreads": "yes" if exceeds else "no",
    }


def memory(steps: Mapping[str, Callable[[], object]]) -> Row:
    """Return the peaks of a step of `zoo` and of `peft`, in MiB, and their ratio."""
    ours, theirs = (peak_memory(steps[name]) / 2**20 for name in ("zoo", "peft"))
    return {
        "zoo_mib": f"{ours:.1f}",
        "peft_mib": f"{theirs:.1f}",
        "memory_ratio": f"{ours / theirs:.3f}",
    }


def _interval(drawn: np.ndarray, digits: int = 3) -> str:
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{low:.{digits}f} to {high:.{digits}f}"


# ---- Rows ----------------------------------------------------------------------------------------


def read(file: Path) -> list[Row]:
    """Return the rows that are there.

    Raises:
        UserError: for a file with other columns.
    """
    if not file.exists():
        return []
    with file.open(newline="") as opened:
        reader = csv.DictReader(opened)
        rows: list[Row] = [dict(row) for row in reader]
    if reader.fieldnames != COLUMNS:
        raise UserError(f"'{file}' has other columns than these rows: give another file")
    return rows


def append(file: Path, row: Row) -> Row:
    """Add a row to the file at once, and return it."""
    text = csv_text(COLUMNS, [row], header=not file.exists())
    with file.open("a", encoding="utf-8", newline="") as opened:
        opened.write(text)
    return row


def line(row: Row) -> str:
    """Say a row in a line."""
    own = f", memory {row['memory_ratio']}, own {row['own_ms']} to {row['peft_own_ms']} ms"
    to = f"{row['own_ratio']} [{row['own_ratio_interval']}]" if row["own_ratio"] else "not told"
    return (
        f"{row['method']} to {row['rival']}, {row['tokens']} tokens, {row['targets']}: "
        f"{row['ratio']} [{row['ratio_interval']}]{own}: {to}"
    )


def table(rows: Sequence[Row]) -> str:
    """Lay out all rows within 80 columns, and count those that are as fast as they should be."""
    cells = [["", "tokens", "layers", "step", "interval", "own", "own interval", "memory"]]
    for row in rows:
        about_it = f"{row['method']}\n{row['rival']}"
        names = [*("tokens", "targets", "ratio", "ratio_interval"), "own_ratio"]
        names += ["own_ratio_interval", "memory_ratio"]
        cells.append([about_it, *(str(row[name]).replace(" to ", "-") or "-" for name in names)])
    fast = sum(float(str(row["ratio"])) <= 1 for row in rows)
    told = [float(str(row["own_ratio"])) for row in rows if row["own_ratio"]]
    said = (
        f"{fast} of {len(rows)} steps take at most peft's; {sum(own <= 0.7 for own in told)} of "
        f"{len(told)} own costs that are told from noise are at most 0.7 of peft's"
    )
    return "\n".join([*aligned(cells), "", hanging(said, 0)])


if __name__ == "__main__":
    prepare_process()
    sys.exit(main(sys.argv[1:]))
