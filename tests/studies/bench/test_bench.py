"""`zoo bench`: known ratios and floors, what it prints, writes and refuses, and that an
interruption loses nothing.
"""

import csv
import json
from pathlib import Path

import pytest
import torch
from conftest import refused
from lab_figures import axes, inside, lines, words
from torch import nn

from zoo.__main__ import main
from zoo.errors import UserError
from zoo.parameterizations import DCT, LoRA, RandLoRA
from zoo.studies.bench.figures import bench_figure
from zoo.studies.bench.floor import Case, Rates, floor, operations, too_long
from zoo.studies.bench.layers import PASSES, ROUNDS, Spec, contender, contenders, measure
from zoo.studies.bench.options import DEFAULT, UPDATE, default, dotted, shapes_of, specs
from zoo.studies.bench.rows import CASES, Results
from zoo.studies.bench.terminal import median_and_half, significant

CPU = torch.device("cpu")
TINY = [
    "bench",
    "--shape",
    "12x8,8x8",
    "--tokens",
    "1,3",
    "--seconds",
    "0.001",
    "--parameterization",
    "DCT",
]


class Still(Rates):
    """A machine of 1 GFLOP/s and 1 MB/s, on which time passes only in the layers."""

    def __init__(self, device=CPU, clock=None):
        super().__init__(device, clock or self.tick)
        self.now = 0.0

    def tick(self):
        self.now += 1e-6
        return self.now

    def again(self, precision):
        self.best[precision] = 1e9 if precision == "float32" else 4e9

    def bytes(self, count):
        return 1e6


class Waits(nn.Linear):
    """A layer that takes so many seconds forward, and so many more in evaluation mode."""

    def __init__(self, rates, forward, more=0.0):
        super().__init__(8, 12)
        self.rates, self.seconds, self.more = rates, forward, more

    def forward(self, x):
        self.rates.now += self.seconds + self.more * (not self.training)
        return super().forward(x)


@pytest.fixture
def still(monkeypatch):
    """Rates that are not measured, in place of the machine's."""
    monkeypatch.setattr("zoo.studies.bench.floor.Rates", Still)


# ---- Measuring -----------------------------------------------------------------------------------


def test_ratios_are_those_of_the_layers():
    rates = Still()
    layers = [
        contender("dense", "torch", None, Waits(rates, 1.0)),
        contender("mine", "zoo", Spec(DCT, {"ratio": 0.5}), Waits(rates, 1.5, 0.5)),
    ]
    dense, mine = measure(layers, Case("float32", (12, 8), 3), 0.01, rates, ["dense"])
    assert dense["ratio"] == {} and mine["ratio"]["dense"]["to"] == "dense"
    found = {name: mine["ratio"]["dense"][name]["median"] for name in PASSES}
    expected = {"forward": 1.5, "forward_backward": 1.5, "step": 1.0, "evaluation": 2.0}
    assert found == pytest.approx(expected, rel=1e-3)
    assert mine["ms"]["evaluation"]["median"] == pytest.approx(2000, rel=1e-3)
    assert layers[1].layer.training


def test_bytes_are_those_of_a_dense_layer():
    """Kept: x. A step allocates y, both gradients of the layer and x's, and begins without
    gradients.
    """
    (dense,) = measure(
        list(contenders([], (12, 8), False, ["dense"], CPU)),
        Case("float32", (12, 8), 3),
        1e-6,
        Still(),
        ["dense"],
    )
    parameters = 4 * (12 * 8 + 12)
    assert dense["trainable"] == 108
    assert dense["bytes"]["kept"] == 4 * 3 * 8
    assert dense["bytes"]["held"] == {
        "parameters": parameters,
        "frozen": 0,
        "gradients": parameters,
        "buffers": 0,
        "optimizer": 2 * parameters + 8,
        "total": 4 * parameters + 8,
    }
    assert dense["bytes"]["peak"] == parameters + 4 * 3 * 12 + 4 * 3 * 8
    assert dense["bytes"]["checkpoint"] == parameters


@pytest.mark.parametrize("recompute, kept", [(False, 4 * (3 * 8 + 12 * 8)), (True, 4 * 3 * 8)])
def test_recompute_keeps_the_input_alone(recompute, kept):
    (layer,) = contenders([Spec(DCT, {"ratio": 0.5})], (12, 8), False, [], CPU, recompute)
    (row,) = measure([layer], Case("float32", (12, 8), 3), 1e-6, Still(), [])
    assert row["bytes"]["kept"] == kept


def test_autocast_keeps_rounded_copies():
    """Of x and of W, both of which the module holds in float32."""
    (dense,) = measure(
        list(contenders([], (12, 8), False, ["dense"], CPU)),
        Case("bfloat16", (12, 8), 3),
        1e-6,
        Still(),
        ["dense"],
    )
    assert dense["bytes"]["kept"] == 2 * (3 * 8 + 12 * 8)


@pytest.mark.parametrize("precision, element, rate", [("float32", 4, 1e9), ("bfloat16", 2, 4e9)])
def test_floor_counts_a_dense_product_and_what_must_move(precision, element, rate):
    (layer,) = contenders([Spec(DCT, {"coefficients": 10})], (12, 8), True, [], CPU)
    case = Case(precision, (12, 8), 5)
    found = floor(layer.layer, case, Still())
    moved = 3 * 4 * 5 * 8 + 2 * element * 5 * 12 + 3 * 4 * 10 + 2 * 4 * (12 * 8 + 12)
    assert (found["operations"], found["bytes"]) == (6 * 5 * 12 * 8, moved)
    assert found["arithmetic_ms"] == pytest.approx(1e3 * 6 * 5 * 12 * 8 / rate)
    assert found["ms"] == found["memory_ms"] == pytest.approx(1e3 * moved / 1e6)


def test_rates_are_of_the_best_of_their_kind():
    """A product that takes 2 s: 2 n^3 operations of the larger n; a copy of 2 s reads and writes
    its bytes.
    """
    rates = Rates(CPU, Still().tick)
    rates._best = lambda call: 2.0
    assert rates.operations("float32") == rates.operations("bfloat16") == 2048**3
    for seconds, best in ((4.0, 1), (1.0, 2)):  # a slow minute changes nothing, a better one does
        rates._best = lambda call, seconds=seconds: seconds
        rates.again("float32")
        assert (rates.operations("float32"), rates.operations("bfloat16")) == (
            best * 2048**3,
            2048**3,
        )
    rates._best = lambda call: 2.0
    assert rates.bytes(3.0e6) == 2**21 / 2 and rates.bytes(5) == 2**20 / 2


def test_a_case_is_left_out_when_a_dense_pass_takes_too_long():
    rates = Still()
    case = Case("float32", (1000, 1000), 1000)  # 6 s
    assert operations(case) == 6e9
    assert too_long(case, 0.5, rates) is None
    line = too_long(case, 0.4, rates)
    assert (
        line == "1000 x 1000, 1000 tokens, float32: a dense pass takes at least 6.0 s; "
        "--seconds 0.5 measures it"
    )


def test_an_update_starts_at_nothing_and_trains_its_coefficients_alone():
    chosen = [Spec(DCT, {"ratio": 0.5}), Spec(LoRA, {"rank": 9})]
    dense, layer, reason = contenders(chosen, (12, 8), True, ["dense"], CPU)
    assert "LoRA rank must lie in [1, 8]" in reason
    assert (dense.trainable, layer.trainable) == (108, 48)
    linear = layer.layer
    assert (
        not linear.base.requires_grad
        and not linear.bias.requires_grad
        and not linear.update().any()
    )
    (scratch,) = contenders([Spec(DCT, {"ratio": 0.5})], (12, 8), False, [], CPU)
    assert scratch.trainable == 48 + 12 and scratch.layer.base is None


@pytest.mark.slow
def test_peft_has_as_many_parameters():
    pytest.importorskip("peft")
    chosen = [Spec(LoRA, {"rank": 2}), Spec(DCT, {"coefficients": 7}), Spec(RandLoRA, {"rank": 4})]
    layers = list(contenders(chosen, (12, 8), True, ["peft"], CPU))
    assert [each.library for each in layers] == ["zoo", "peft"] * 3
    assert [each.trainable for each in layers] == [40, 40, 7, 7, 24, 24]
    assert [own.rival for own in layers[::2]] == [theirs.name for theirs in layers[1::2]]
    rows = measure(layers, Case("float32", (12, 8), 3), 1e-3, Still(), ["peft"])
    assert [list(row["ratio"]) for row in rows] == [["peft"], []] * 3


# ---- The command ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_bench_prints_writes_and_goes_on(place, still, capsys, monkeypatch):
    """Interrupted in the third of four cases: two are in the file, and the same command measures
    the others.
    """
    argv = [
        *TINY,
        "ratio=0.5",
        "--parameterization",
        "LoRA",
        "--parameterization.rank",
        "2",
        "--precision",
        "float32,bfloat16",
        "--json",
        "b.json",
        "--csv",
        "b.csv",
    ]
    measured, real = [], measure

    def interrupted(layers, case, *rest):
        if len(measured) == 6:
            raise KeyboardInterrupt
        measured.append(case)
        return real(layers, case, *rest)

    monkeypatch.setattr("zoo.studies.bench.layers.measure", interrupted)
    assert main(argv) == 130
    report = json.loads(Path("b.json").read_text())
    assert (report["finished"], len(report["rows"])) == (False, 6 * 3)
    printed = capsys.readouterr()
    assert "18 rows are in 'b.json'; the same command goes on" in printed.err
    assert "8 x 8, float32" in printed.out and "8 x 8, bfloat16" not in printed.out
    monkeypatch.setattr(
        "zoo.studies.bench.layers.measure", lambda *given: measured.append(given[1]) or real(*given)
    )
    assert main(argv) == 0
    assert len(measured) == len(set(measured)) == 8
    report = json.loads(Path("b.json").read_text())
    assert report["finished"] and len(report["rows"]) == 8 * 3
    assert {"zoo", "command", "commit", "device", "threads", "date", "torch", "settings"} <= set(
        report
    )
    assert [row["name"] for row in report["rows"][:3]] == ["dense", "DCT 0.5", "LoRA rank=2"]
    for row in report["rows"]:
        assert set(row) == {
            "name",
            "library",
            "parameterization",
            "arguments",
            "shape",
            "tokens",
            "precision",
            "trainable",
            "flops",
            "ms",
            "ratio",
            "bytes",
            "floor",
        }
        assert all(row["ms"][name]["rounds"] >= ROUNDS for name in PASSES)
        for ratios in row["ratio"].values():
            assert all(
                ratios[name]["low"] <= ratios[name]["median"] <= ratios[name]["high"]
                for name in PASSES
            )
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert (
        "12 x 8, float32" in printed
        and "8 x 8, bfloat16" in printed
        and "written to  b.json, b.csv" in printed
    )
    with Path("b.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["name"] for row in table] == [row["name"] for row in report["rows"]]
    assert {row["against"] for row in table} == {"", "dense"} and table[1]["shape"] == "12x8"
    assert float(table[1]["forward_ms"]) == pytest.approx(
        report["rows"][1]["ms"]["forward"]["median"], rel=1e-3
    )
    refused(capsys, argv, "'b.json' is there already", "--force")
    assert main([*argv, "--force"]) == 0
    with Path("b.csv").open() as file:
        assert len(list(csv.reader(file))) == 1 + 2 * 24
    assert {path.name for path in place.iterdir()} == {"b.json", "b.csv"}


def test_a_file_that_cannot_be_replaced_stays_whole(tmp_path, monkeypatch):
    path = tmp_path / "b.json"
    results = Results(path, None, CASES, {}, lambda: {"zoo": "1"})
    results.write()
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space"):
        results.write(finished=True)
    assert [file.name for file in tmp_path.iterdir()] == ["b.json"]
    assert json.loads(path.read_text()) == {
        "zoo": "1",
        "finished": False,
        "settings": {},
        "rows": [],
        "left_out": [],
    }


def test_what_cannot_be_measured_is_said(place, still, capsys):
    """A case that takes too long, and a rank that one of the shapes cannot have; defaults are left
    out of a 1 x 1.
    """
    argv = [
        "bench",
        "--shape",
        "12x8,12x9",
        "--tokens",
        "1,100000000",
        "--parameterization",
        "LoRA",
        "rank=9",
        "--parameterization",
        "LoRA",
        "--seconds",
        "0.001",
    ]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "left out  12 x 8, 100000000 tokens, float32" in printed
    assert "LoRA rank must lie in [1, 8] for shape (12, 8), got 9" in " ".join(printed.split())
    assert printed.count("LoRA rank=9") == 3  # its time, its bytes and its FLOPs, at 12 x 9
    assert main(["bench", "--shape", "1x1", "--tokens", "1", "--seconds", "0.001"]) == 0
    assert "left out  LoRA ratio 0.1 buys no rank" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv, said",
    [
        ("--shape 12", ["--shape", "768x768", "'12'"]),
        ("--shape 0x8", ["--shape", "'0x8'"]),
        ("--tokens 0", ["--tokens", "'0'"]),
        ("--parameterization DTC", ["'DTC'", "did you mean 'DCT'"]),
        ("--parameterization DCT 0.5", ["KEY=VALUE", "'0.5'"]),
        ("--parameterization.ratio 0.5", ["--parameterization NAME before it"]),
        ("--parameterization DCT --parameterization.ratio 2", ["ratio must lie in (0, 1], got 2"]),
        ("--parameterization DCT --parameterization.rato 1", ["DCT", "'rato'"]),
        ("--parameterization LoRA rank=9 --shape 8x8,6x8", ["LoRA rank must lie in [1, 6]"]),
        ("--against sparse", ["--against", "dense,peft"]),
        ("--against peft", ["--update"]),
        ("--precision float16", ["float32,bfloat16"]),
        ("--seconds 0", ["--seconds"]),
        ("--threads 0", ["--threads"]),
        ("--device cuda:7", ["--device cuda:7"]),
        ("--device meta", ["--device", "'meta'"]),
        ("--json gone/b.json", ["--json", "no folder 'gone'"]),
        ("--json .", ["--json", "folder"]),
        ("--csv other.csv", ["other columns"]),
        ("--figure fig.png", ["'fig.png' is there already"]),
        ("--json b.json", ["'b.json' is there already"]),
        ("--json half.json", ["other settings"]),
        ("--tokens 999999999 --shape 8x8 --seconds 1e-9", ["nothing was measured"]),
        ("--sope 12x8", ["did you mean '--shape'"]),
    ],
)
def test_mistakes_are_one_line_and_measure_nothing(place, still, capsys, monkeypatch, argv, said):
    for name, text in (
        ("other.csv", "a,b\n"),
        ("fig.png", ""),
        ("b.json", '{"finished": true, "rows": []}'),
        ("half.json", '{"finished": false, "rows": [], "settings": {}}'),
    ):
        Path(name).write_text(text)
    monkeypatch.setattr("zoo.studies.bench.layers.measure", lambda *_: pytest.fail("measured"))
    refused(capsys, ["bench", *argv.split()], *said)


def test_extras_are_asked_for_before_anything_is_measured(place, still, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused(capsys, ["bench", "--figure", "fig.png"], "needs scipy")
    refused(capsys, ["bench", "--against", "peft", "--update"], "--against peft needs peft")


def test_arguments_belong_to_the_parameterization_before_them():
    given = (
        "--tokens 1 --parameterization DCT --threads 2 --parameterization.ratio 0.5 "
        "--parameterization=LoRA,DCT a=1"
    )
    meant = (
        "--tokens 1 --parameterization DCT ratio=0.5 --threads 2 "
        "--parameterization LoRA,DCT a=1 b=2 c=3"
    )
    assert (
        dotted([*given.split(), "--parameterization.b=2", "--parameterization.c", "3"])
        == meant.split()
    )
    found = specs([["DCT,LoRA", "ratio=0.5"], ["DCT"], ["LoRA", "rank=2"]])
    assert [spec.label for spec in found] == ["DCT 0.5", "LoRA 0.5", "LoRA rank=2"]
    assert shapes_of("3x2, 4x5,3x2") == [(3, 2), (4, 5)]
    with pytest.raises(UserError, match="is none"):
        specs([["LoRa"]])


def test_defaults_are_parameterizations_that_can_be_built():
    for text, update in ((DEFAULT, False), (UPDATE, True)):
        found = list(contenders(specs(default(text)), (64, 64), update, [], CPU))
        assert not [each for each in found if isinstance(each, str)] and len(found) >= 4


def test_numbers_have_three_digits_and_spreads_as_many():
    assert [significant(x) for x in (0.0123, 0.123, 1.234, 12.34, 123.4)] == [
        "0.012",
        "0.12",
        "1.23",
        "12.3",
        "123",
    ]
    assert median_and_half({"median": 1.5, "low": 1.4, "high": 1.5}) == "1.50 +-0.05"
    assert median_and_half({"median": 0.0625, "low": 0.05, "high": 0.076}) == ".062 +-.013"


# ---- The figure ----------------------------------------------------------------------------------


def row(name, shape, tokens, ratio, against="dense"):
    spread = {"low": 0.9 * ratio, "median": ratio, "high": 1.2 * ratio}
    return {
        "name": name,
        "shape": list(shape),
        "tokens": tokens,
        "precision": "float32",
        "ratio": {against: {"to": against, "forward_backward": spread}} if name != "dense" else {},
    }


@pytest.mark.parametrize(
    "shapes", [[(768, 768)], [(768, 768), (3072, 768), (4096, 4096), (64, 64)]]
)
def test_figure_shows_ratios_against_tokens(shapes):
    rows = [
        row(name, shape, tokens, 1 + len(name) / tokens)
        for shape in shapes
        for tokens in (16, 1, 4096)
        for name in ("dense", "DCT 0.5", "LoRA rank=8")
    ]
    figure = bench_figure(rows)
    assert len([ax for ax in axes(figure) if ax.axison]) == len(shapes)
    (line,) = lines(axes(figure)[0], "DCT 0.5")
    assert list(line.get_xdata()) == [1, 16, 4096]
    assert list(line.get_ydata()) == pytest.approx([8, 1 + 7 / 16, 1 + 7 / 4096])
    assert axes(figure)[
        0
    ].get_xscale() == "log" and f"{shapes[0][0]} x {shapes[0][1]}, float32" in words(figure)
    assert "a dense layer" in words(figure)
    inside("bench", figure)


def test_figure_against_peft():
    figure = bench_figure([row("DCT 0.5", (8, 8), tokens, 1.5, "peft") for tokens in (1, 2)])
    assert "peft" in words(figure) and "a dense layer" not in words(figure)


def test_figure_is_written(place, still, capsys):
    assert main([*TINY, "--figure", "fig.svg"]) == 0
    assert {path.name for path in place.iterdir()} == {"fig.png", "fig.svg"}
    assert "written to  fig.png, fig.svg" in capsys.readouterr().out
