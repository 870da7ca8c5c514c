"""Measure what Python's functions take beside peft's, on an encoder of BERT-base's size.

    python -m results.measure_api api.csv
    python -m results.measure_api api.csv --rounds 9 --operations adapt,save

Pairs have as many coefficients: LoRA beside LoRA (r = 8), DCT and BlockDCT beside FourierFT, on
query and value; weights are random, in bfloat16. Operations are

    adapt    zoo.adapt to get_peft_model
    save     zoo.save to save_pretrained, into a new folder
    load     zoo.load to PeftModel.from_pretrained, into a network without adapters
    switch   zoo.use to set_adapter, from one of two adapters to the other
    step     forward, backward and AdamW of 32 sentences of 16 tokens under bfloat16 autocast
    import   `import zoo` to `import peft`, in a process of their own
    import and adapt    the same, with what `zoo.adapt` imports when it is first used
    quantized    bytes of a quantized base, and peak memory of a step beside it, without peft: rows
            of quantized.csv in the file's folder (`results.measure_quantized`)

each done in turn in one process, peak memory in torch's allocators beyond what was there. `bytes`
are those of the saved folders. `ratio` is the median of neighbours, with its quartiles.
"""

import copy
import csv
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# Before torch is imported, whose profiler announces itself otherwise.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import torch
from torch import nn

import zoo
from results import measure_quantized
from results.goals.peft import Batch, backbone, stepper
from zoo.__main__ import guarded, prepare_process
from zoo.cli.arguments import OneLineParser
from zoo.errors import UserError
from zoo.files.access import size
from zoo.pages.texts import csv_text
from zoo.studies.bench.command import about
from zoo.studies.bench.options import device_of
from zoo.studies.bench.rows import SOURCE, source
from zoo.studies.bench.timing import peak_memory, quartiles, ratio
from zoo.studies.options import words

RANK = 8
TARGETS = ["query", "value"]
COLUMNS = ["operation", "method", "rival", "rounds", "zoo_ms", "peft_ms", "ratio", "quartiles"]
COLUMNS += ["zoo_mib", "peft_mib", "zoo_bytes", "peft_bytes", "numbers", *SOURCE]
OPERATIONS = ["adapt", "save", "load", "switch", "step", "import", "quantized"]
IMPORTS = {
    "import": ("import zoo", "import peft"),
    "import and adapt": ("import zoo; zoo.adapt, zoo.DCT", "import peft"),
}
Prepared = tuple[Callable[[], Any], ...]
"""What is done to a fresh start: it is called once, and alone is measured."""


class Pair(NamedTuple):
    """A parameterization, its settings, and what makes peft's config."""

    method: str
    settings: dict[str, Any]
    rival: str
    options: dict[str, Any]


def pairs(width: int) -> list[Pair]:
    """Return the pairs for square layers of a width."""
    count = 2 * RANK * width
    fourier = {"n_frequency": count, "init_weights": True}
    return [
        Pair("LoRA", {"rank": RANK, "alpha": RANK}, "LoraConfig", {"r": RANK, "lora_alpha": RANK}),
        Pair("DCT", {"coefficients": count}, "FourierFTConfig", fourier),
        Pair("BlockDCT", {"coefficients": count}, "FourierFTConfig", fourier),
    ]


class Sides:
    """Both libraries' ways to do the same to copies of one network.

    Args:
        pair: what they make of it.
        network: with random weights.
        folder: for what is written.
    """

    def __init__(self, pair: Pair, network: nn.Module, folder: Path) -> None:
        import peft

        self.peft, self.pair, self.network, self.folder = peft, pair, network, folder
        self.config = getattr(peft, pair.rival)
        self.saved = 0

    def zoo(self, name: str = "default", on: nn.Module | None = None) -> nn.Module:
        """Adapt a copy, or a network that has an adapter already."""
        model = copy.deepcopy(self.network) if on is None else on
        cls = getattr(zoo, self.pair.method)
        return zoo.adapt(model, cls, targets=TARGETS, train=(), name=name, **self.pair.settings)

    def theirs(self, name: str = "default", on: Any = None) -> Any:
        """Do the same with peft."""
        config = self.config(target_modules=TARGETS, **self.pair.options)
        if on is not None:
            on.add_adapter(name, config)
            return on
        return self.peft.get_peft_model(copy.deepcopy(self.network), config, name)

    def fresh(self) -> Path:
        """Return a folder that is not there."""
        self.saved += 1
        return self.folder / str(self.saved)

    def prepared(self, operation: str) -> Iterator[Prepared]:
        """Prepare an operation again and again: ours, and theirs."""
        if operation == "adapt":
            cls, settings = getattr(zoo, self.pair.method), self.pair.settings
            while True:
                a, b = copy.deepcopy(self.network), copy.deepcopy(self.network)
                config = self.config(target_modules=TARGETS, **self.pair.options)
                yield (
                    lambda a=a: zoo.adapt(a, cls, targets=TARGETS, train=(), **settings),
                    lambda b=b, config=config: self.peft.get_peft_model(b, config),
                )
        ours, theirs = self.zoo(), self.theirs()
        if operation == "save":
            while True:
                yield (
                    lambda: zoo.save(ours, self.fresh()),
                    lambda: theirs.save_pretrained(self.fresh()),
                )
        if operation == "load":
            first = zoo.save(ours, self.fresh())
            second = self.fresh()
            theirs.save_pretrained(second)
            while True:
                a, b = copy.deepcopy(self.network), copy.deepcopy(self.network)
                yield (
                    lambda a=a: zoo.load(a, first),
                    lambda b=b: self.peft.PeftModel.from_pretrained(b, str(second)),
                )
        if operation == "switch":
            self.zoo("other", ours)
            self.theirs("other", theirs)
            while True:
                for name in ("default", "other"):
                    yield (
                        lambda name=name: zoo.use(ours, name),
                        lambda name=name: theirs.set_adapter(name),
                    )
        batch = Batch(32, 16)
        steps = [stepper(model, batch)[0] for model in (ours, theirs)]
        while True:
            yield steps[0], steps[1]

    def bytes(self) -> tuple[int, int, int]:
        """Return bytes of both folders, and how many numbers are in ours."""
        ours, theirs = self.zoo(), self.theirs()
        first, second = zoo.save(ours, self.fresh()), self.fresh()
        theirs.save_pretrained(second)
        return size(first), size(second), zoo.summary(ours).coefficients


def measured(prepared: Iterator[Prepared], rounds: int) -> dict[str, Any]:
    """Time what was prepared, in turn, in one order and the reverse; then measure memory once."""
    times: list[list[float]] = [[], []]
    for i in range(rounds + 1):
        calls = list(enumerate(next(prepared)))
        for side, call in calls[::-1] if i % 2 else calls:
            start = time.perf_counter()
            call()
            if i:  # the first is a warm-up
                times[side].append(time.perf_counter() - start)
    peaks = [peak_memory(call) / 2**20 for call in next(prepared)]
    return row_of(times, rounds) | {"zoo_mib": f"{peaks[0]:.2f}", "peft_mib": f"{peaks[1]:.2f}"}


def row_of(times: Sequence[Sequence[float]], rounds: int) -> dict[str, Any]:
    """Return medians, and the ratio of neighbours with its quartiles."""
    found = ratio(times[0], times[1])
    return {
        "rounds": rounds,
        "zoo_ms": f"{1e3 * quartiles(list(times[0])).median:.3g}",
        "peft_ms": f"{1e3 * quartiles(list(times[1])).median:.3g}",
        "ratio": f"{found.median:.3f}",
        "quartiles": f"{found.low:.3f}-{found.high:.3f}",
    }


def imports(ours: str, theirs: str, rounds: int) -> dict[str, Any]:
    """Time two programs, each in a process of its own, in turn."""
    times: list[list[float]] = [[], []]
    for i in range(rounds + 1):
        for side, code in enumerate((ours, theirs)):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            if i:
                times[side].append(time.perf_counter() - start)
    return row_of(times, rounds)


def main(argv: Sequence[str]) -> int:
    """Measure every row that the file lacks, and add it; returns 0, or 2 for a mistake."""
    parser = OneLineParser(
        prog="python -m results.measure_api", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("csv", metavar="FILE", help="rows are added to it")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--operations", default=",".join(OPERATIONS), metavar="NAMES")
    return guarded(lambda: measure(argv=argv, **vars(parser.parse_args(argv))))


def measure(
    argv: Sequence[str],
    csv: str,
    rounds: int,
    operations: str,
    sizes: Mapping[str, int] | None = None,
    stack: Mapping[str, int] = measure_quantized.SIZES,
) -> int:
    """Measure what the options say; returns 0.

    Args:
        argv: the command line.
        csv: the file of rows.
        rounds: of each operation.
        operations: some of `OPERATIONS`.
        sizes: of transformers' `BertConfig`, where they are not BERT-base's.
        stack: of layers with a quantized base.

    Raises:
        UserError: for an option that will not do, before anything is measured.
    """
    if rounds < 1:
        raise UserError(f"--rounds must be at least 1, got {rounds}")
    chosen, file, start = words("--operations", operations, OPERATIONS), Path(csv), time.time()
    there = {(row["operation"], row["method"]) for row in read(file)}
    command = f"python -m results.measure_api {' '.join(argv)}"

    def add(row: dict[str, Any], file: Path = file, columns: list[str] = COLUMNS) -> None:
        origin = source(
            {**about(argv, time.perf_counter(), device_of("cpu", None)), "command": command}
        )
        text = csv_text(
            columns, [{**dict.fromkeys(columns, ""), **row, **origin}], not file.exists()
        )
        with file.open("a", encoding="utf-8", newline="") as opened:
            opened.write(text)
        print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)

    warnings.simplefilter("ignore")  # of transformers, which peft calls as it was
    network = backbone(sizes).to(torch.bfloat16)
    for operation in chosen:
        if operation == "import":
            for name, code in IMPORTS.items():
                if (name, "") not in there:
                    add({"operation": name, "rival": "peft", **imports(*code, rounds)})
            continue
        if operation == "quantized":
            beside, columns = file.with_name("quantized.csv"), measure_quantized.COLUMNS
            known = [tuple(row[key] for key in columns[:3]) for row in read(beside, columns)]
            for row in measure_quantized.rows(stack, known):
                add(row, beside, columns)
            continue
        for pair in pairs(network.config.hidden_size):
            if (operation, pair.method) in there:
                continue
            with tempfile.TemporaryDirectory() as folder:
                sides = Sides(pair, network, Path(folder))
                row = {
                    "operation": operation,
                    "method": pair.method,
                    "rival": pair.rival.removesuffix("Config"),
                    **measured(sides.prepared(operation), rounds),
                }
                if operation == "save":
                    ours, theirs, numbers = sides.bytes()
                    row |= {"zoo_bytes": ours, "peft_bytes": theirs, "numbers": numbers}
                add(row)
    print(f"{time.time() - start:.0f} s")
    return 0


def read(file: Path, columns: Sequence[str] = COLUMNS) -> list[dict[str, str]]:
    """Return the rows that are there.

    Raises:
        UserError: for a file with other columns.
    """
    if not file.exists():
        return []
    with file.open(newline="") as opened:
        reader = csv.DictReader(opened)
        rows = list(reader)
    if reader.fieldnames != columns:
        raise UserError(f"'{file}' has other columns than these rows: give another file")
    return rows


if __name__ == "__main__":
    prepare_process()
    sys.exit(main(sys.argv[1:]))
