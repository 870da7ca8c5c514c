"""`results.gpu.thresholds`: a known crossing is found, none is not invented, and constants are
printed as source.
"""

import math
import random
from itertools import product

import pytest
import torch

from results.gpu import PARTS, thresholds
from results.gpu.cases.pairs import Case, Pair, with_constant
from results.gpu.cases.thresholds import cases
from results.gpu.fitting.constants import THRESHOLDS, constants
from results.gpu.fitting.crossings import Layer, Point, costs, crossing, faster
from results.gpu.frame.rows import SOURCE, Table
from results.gpu.frame.setting import Setting
from zoo.bases import block_products, cosine
from zoo.bases.blocks import block_layout
from zoo.testing import agree

SIZES = [2.0**i for i in range(16, 25)]


def points(at: float, slope: float, spread: float = 1.1) -> list[Point]:
    """A ratio (size / at)^slope, with quartiles a factor beside it."""
    return [Point(size, r := (size / at) ** slope, r / spread, r * spread) for size in SIZES]


@pytest.mark.parametrize("at", [1.5e5, 3e5, 5e6])
@pytest.mark.parametrize("slope", [-0.5, 0.3])
def test_a_known_crossing_is_found(at, slope):
    """Of a power of the size exactly; its ends are where a factor of the spread moves it."""
    found = crossing(points(at, slope), falls=slope < 0)
    assert found is not None and (found.right, found.points) == (9, 9)
    assert found.at == pytest.approx(at)
    assert found.low == pytest.approx(at / 1.1 ** (1 / abs(slope)))
    assert found.high == pytest.approx(at * 1.1 ** (1 / abs(slope)))


@pytest.mark.parametrize(
    ("at", "slope", "first"), [(1e3, -0.5, True), (1e9, -0.5, False), (1e3, 0.5, False)]
)
def test_no_crossing_is_invented(at, slope, first):
    some = points(at, slope)
    assert crossing(some, falls=slope < 0) is None
    assert faster(some) == first


def test_a_crossing_the_other_way_is_none():
    """The first way gets slower with size where it should get faster: a threshold within would cost
    more than none.
    """
    assert crossing(points(1e6, 0.5), falls=True) is None


def test_noise_moves_a_crossing_little_and_is_told():
    """Every second of points near 1 is off by 5 %: what is decided against them costs least."""
    noisy = [
        point._replace(ratio=point.ratio * (1.05 if i % 2 else 1 / 1.05))
        for i, point in enumerate(points(1e6, -0.1))
    ]
    found = crossing(noisy, falls=True)
    assert found is not None and 5e5 < found.at < 2e6 and found.right >= 7


def test_quartiles_that_do_not_cross_leave_the_ends_open():
    found = crossing([Point(1, 1.1, 0.8, 1.5), Point(4, 1 / 1.1, 0.7, 1.4)], falls=True)
    assert found is not None and (found.at, found.low, found.high) == (
        pytest.approx(2),
        0,
        math.inf,
    )


def layers(values: tuple[float, ...], noise: float = 0.0) -> list[Layer]:
    """Times of layers of 768 to 4096 that follow from a to e."""
    a, b, c, d, e = values
    draw, found = random.Random(0), []
    for n, share, block, tokens in product(
        (768, 2048, 4096), (0.5, 0.1), (16, 32), (16, 256, 4096)
    ):
        s, ends = 2 * block / n, 2 / n
        times = ((1 + a * s) * share + b * s + c * ends, d + e / tokens)
        found.append(
            Layer(
                share,
                s,
                ends,
                tokens,
                *(time * (1 + draw.uniform(-noise, noise)) for time in times),
            )
        )
    return found


def test_costs_are_fitted():
    values = (20.0, 2.5, 60.0, 1.1, 200.0)
    found = costs(layers(values))
    assert (
        found is not None
        and found.values == pytest.approx(values)
        and found.right == found.layers == 36
    )
    assert found.lost == pytest.approx(1)
    rough = costs(layers(values, noise=0.1))
    assert (
        rough is not None
        and rough.lost < 1.02
        and rough.values[3:] == pytest.approx(values[3:], rel=0.1)
    )


def test_costs_are_not_negative():
    found = costs(
        [
            each._replace(product=each.share * 0.9 + 3 * each.small)
            for each in layers((0, 0, 0, 1, 0))
        ]
    )
    assert found is not None and min(found.values) == 0


def test_costs_of_too_little_are_none():
    assert costs(layers((1, 1, 1, 1, 1))[:4]) is None
    assert costs([each for each in layers((1, 1, 1, 1, 1)) if each.tokens == 16]) is None


@pytest.mark.parametrize("tokens", [None, 16])
def test_product_pays_by_the_costs_of_its_device(tokens, monkeypatch):
    """As the docstring has it, and of a GPU by a GPU's."""
    layout = block_layout(768, 768, 16, 768 * 768 // 10, torch.Generator().manual_seed(0))
    pays = [
        block_products.product_pays(layout, torch.bfloat16, device, tokens)
        for device in ("cpu", "cuda")
    ]
    assert pays == [True, True]
    monkeypatch.setitem(block_products.COSTS, "cuda", {2: block_products.Costs(0, 0, 0, 0.09, 0)})
    pays = [
        block_products.product_pays(layout, torch.bfloat16, device, tokens)
        for device in ("cpu", "cuda")
    ]
    assert pays == [True, False]


# ---- Constants -----------------------------------------------------------------------------------


def row(
    threshold: str, first: str, second: str, size: float, ratio: float, **other: str
) -> dict[str, str]:
    usual = {
        "shape": "8x8",
        "tokens": "",
        "share": "",
        "block": "",
        "dtype": "float32",
        "launch": "called",
        "on": "cuda",
        "note": "",
        "command": "bash results/gpu.sh",
    }
    numbers = {"size": size, "ratio": ratio, "low": ratio / 1.01, "high": ratio * 1.01}
    return {
        **usual,
        "threshold": threshold,
        "first": first,
        "second": second,
        **{name: str(value) for name, value in numbers.items()},
        **other,
    }


def test_constants_are_lines_of_source():
    """That take the place of those in the code: the CPU's entries stay; other precisions and
    launches are comments.
    """
    rows = [row("fft", "fft", "products", size, (size / 1e6) ** -0.5) for size in SIZES]
    rows += [
        row("fft", "fft", "products", size, (size / 4e6) ** -0.5, dtype="tf32") for size in SIZES
    ]
    rows += [
        row("kernel", "kernel", "product", size, (size / 32) ** 0.5, launch="graph")
        for size in (1, 4, 16, 64)
    ]
    rows += [row("kernel", "kernel", "kept", size, 0.5, launch="graph") for size in (1, 4, 16, 64)]
    rows += [
        row("row kernel", "kernel", "kept", size, (1.5 / size), launch="graph")
        for size in (1, 2, 3)
    ]
    rows += [row("together, DCT", "batch", "alone", size, 0.8) for size in (64, 256)]
    rows += [
        row("pieces", "1 << 18", "1 << 40", 1e6, 1.5),
        row("pieces", "1 << 22", "1 << 40", 1e6, 0.99),
    ]
    for layer in layers((20, 2.5, 60, 1.1, 200)):
        n, block = round(2 / layer.ends), round(layer.small / layer.ends)
        each = {
            "shape": f"{n}x{n}",
            "tokens": str(layer.tokens),
            "share": str(layer.share),
            "block": str(block),
            "dtype": "bfloat16",
        }
        exact = int(layer.share * block * block) / block**2
        product_time = layer.product + (1 + 20 * layer.small) * (exact - layer.share)
        rows += [
            row("product_pays", "product", "dense", 1, product_time, **each),
            row("product_pays", "built", "dense", 1, layer.built, **each),
        ]
    said = constants(rows)
    source = {
        name.strip(): value
        for name, value in (line.split("=", 1) for line in said if not line.startswith("#"))
    }
    values = {
        name: eval(value, {"Costs": block_products.Costs, "math": math})
        for name, value in source.items()
    }
    assert values.keys() == {"FFT_FROM", "TOKENS", "ROWS_PAY_FROM", "COSTS", "BLOCK"}
    assert values["FFT_FROM"] == {
        "cpu": cosine.FFT_FROM["cpu"],
        "cuda": pytest.approx(1e6, rel=1e-3),
    }
    assert values["TOKENS"] == {"cpu": 64, "cuda": 32} and values["ROWS_PAY_FROM"] == 1.5
    assert values["BLOCK"] == cosine.BLOCK
    assert values["COSTS"]["cpu"] == block_products.COSTS["cpu"]
    agree(torch.tensor(values["COSTS"]["cuda"][2]), torch.tensor([20, 2.5, 60, 1.1, 200]), 0.01)
    comments = "\n".join(line for line in said if line.startswith("#"))
    assert "# LARGEST: no crossing, 'batch' is faster at all of 64 to 256" in comments
    assert "tf32, called: crosses at 4e+06" in comments
    assert "kernel against kept, float32, graph: no crossing, 'kernel' is faster" in comments
    assert "# FACTORS_UP_TO: not measured" in comments


def test_the_summary_has_what_was_fitted_for_the_device():
    rows = [row("fft", "fft", "products", size, (size / 1e6) ** -0.5) for size in SIZES]
    rows += [
        row("row kernel", "kernel", "kept", size, (1.5 / size), launch="graph")
        for size in (1, 2, 3)
    ]
    assert thresholds.lines(rows) == [
        "FFT_FROM 1000000, ROWS_PAY_FROM 1.5",
        "2 fitted; python -m results.gpu.thresholds prints the source",
    ]


@pytest.mark.parametrize("rows", [[], [{"threshold": "fft", "note": "OutOfMemoryError: 1"}]])
def test_rows_may_be_few(rows):
    assert constants(rows) == ["# no rows"]
    assert len(thresholds.lines(rows)) <= 4


def test_every_case_has_columns_and_a_floor():
    """On a GPU, without one: cases are counted, none is made; no two have the same row."""
    from results.gpu.frame.clock import Ceilings

    setting = Setting("cuda", False, 0.0, "", None, {})
    found = list(cases("cuda", small=False))
    keys = [
        tuple(thresholds._columns(case, pair, setting).items())
        for case in found
        for pair in case.pairs
    ]
    assert len(keys) == len(set(keys))
    assert tuple(name for name, _ in keys[0]) == PARTS["thresholds"].case
    rates = Ceilings(4.3e12, 7.2e14)
    assert all(0 < case.floor(pair, rates) < 0.1 for case in found for pair in case.pairs)
    fitted = {case.threshold.split(",")[0] for case in found}
    assert {threshold.rows for threshold in THRESHOLDS} | {
        "pieces",
        "chunks",
        "product_pays",
    } <= fitted


def test_a_case_that_fails_is_a_row_and_the_next_is_measured(tmp_path, monkeypatch, capsys):
    def make() -> dict:
        raise RuntimeError("out of memory\nat length")

    def case(name, make):
        return Case(
            name,
            (8, 8),
            "",
            "float32",
            "called",
            [Pair("a", "b", 64)],
            make,
            lambda pair, rates: 1.0,
        )

    works = {"a": lambda: None, "b": lambda: None}
    monkeypatch.setattr(
        "results.gpu.cases.thresholds.cases", lambda *_: [case("x", make), case("y", lambda: works)]
    )
    part = PARTS["thresholds"]
    table = Table(tmp_path / "thresholds.csv", part.case, part.measured, {})
    threads = torch.get_num_threads()
    setting = Setting("cpu", True, math.inf, "", None, {})
    for _ in range(2):  # a second run has nothing left to measure
        thresholds.measure(setting, table)
    torch.set_num_threads(threads)
    assert [(each["threshold"], each.get("note", "")) for each in table.rows] == [
        ("x", "RuntimeError: out of memory"),
        ("y", ""),
    ]
    assert "out of memory" in capsys.readouterr().err
    assert float(table.rows[1]["ratio"]) > 0


def test_a_part_ends_by_itself(tmp_path):
    part = PARTS["thresholds"]
    table = Table(tmp_path / "thresholds.csv", part.case, part.measured, {})
    thresholds.measure(Setting("cuda", False, 0.0, "", None, {}), table)
    assert not table.rows


def test_a_constant_is_put_back_after_a_call():
    constants = {"cpu": 1.0}
    seen = []
    with_constant(constants, "cpu", 2.0, lambda: seen.append(constants["cpu"]))()
    with pytest.raises(ZeroDivisionError):
        with_constant(constants, "cpu", 2.0, lambda: 1 / 0)()
    assert (seen, constants) == ([2.0], {"cpu": 1.0})


def test_the_command_prints_a_table_or_names_the_mistake(tmp_path, capsys):
    assert thresholds.main([]) == 2 and thresholds.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 2
    rows = [row("fft", "fft", "products", size, (size / 1e6) ** -0.5) for size in SIZES]
    part = PARTS["thresholds"]
    table = Table(tmp_path / "thresholds.csv", part.case, part.measured, dict.fromkeys(SOURCE, "x"))
    for each in rows:
        table.write(**{key: value for key, value in each.items() if key in table.columns})
    assert thresholds.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith('FFT_FROM = {"cpu": 25600, "cuda": 10000')
