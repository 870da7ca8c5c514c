"""The coordinate check: means and exponents are those that are known; and the command."""

import csv
import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import refused

from zoo.__main__ import main
from zoo.errors import UserError
from zoo.studies.coordinates.command import GROUPS, numbers
from zoo.studies.coordinates.recording import OUTPUTS, WEIGHTS
from zoo.studies.coordinates.sizes import FLAT, exponent, reading, summarize
from zoo.studies.coordinates.tables import parts
from zoo.studies.options import split


def test_exponents():
    sizes = [64, 128, 256, 512]
    fit = exponent(sizes, [3 * size**-0.5 for size in sizes])
    assert fit["slope"] == pytest.approx(-0.5) and fit["error"] == pytest.approx(0, abs=1e-6)
    noisy = [1.0, 2.2, 3.7, 9.0]
    (slope, _), covariance = np.polyfit(np.log(sizes), np.log(noisy), 1, cov=True)
    assert exponent(sizes, noisy) == pytest.approx(
        {
            "slope": slope,
            "error": covariance[0, 0] ** 0.5,
            "interval": 4.302653 * covariance[0, 0] ** 0.5,  # Student's of two degrees
        }
    )
    assert exponent(sizes, [None, 1, 0, 4])["slope"] == pytest.approx(math.log(4) / math.log(4))
    assert exponent([64, 128], [1, 2]) == {
        "slope": pytest.approx(1),
        "error": None,
        "interval": None,
    }
    nothing = dict.fromkeys(("slope", "error", "interval"))
    assert exponent([64], [1]) == nothing == exponent([64, 64], [1, 2])
    words = [reading(slope) for slope in (-1, -FLAT, -0.24, 0.0, 0.24, FLAT, None)]
    assert words == ["shrinks", "shrinks", "flat", "flat", "flat", "grows", "unknown"]


def test_means_are_geometric_over_layers_and_seeds():
    blank = dict.fromkeys((*WEIGHTS, *OUTPUTS))
    at = {"parameterization": "Dense", "width": 16, "depth": 2, "step": 1, "group": "layers"}
    rows = [
        at | blank | {"seed": seed, "layer": layer, "update": value}
        for seed, layer, value in (
            (0, "blocks.0.attn.qkv", 1.0),
            (0, "blocks.1.attn.qkv", 2.0),
            (0, "blocks.0.mlp.fc", 4.0),
            (1, "blocks.0.attn.qkv", 8.0),
            (1, "blocks.1.attn.qkv", 16.0),
            (1, "blocks.0.mlp.fc", 32.0),
        )
    ]
    cells = {cell["group"]: cell for cell in summarize(rows)}
    assert list(cells) == ["layers", "attn.qkv", "mlp.fc"]
    assert cells["attn.qkv"]["update"] == pytest.approx(4)
    assert cells["layers"]["update"] == pytest.approx(np.exp(np.mean(np.log([1, 2, 4, 8, 16, 32]))))
    assert cells["layers"]["weight"] is None
    assert summarize([rows[0] | {"update": 0.0}, rows[1]])[0]["update"] == 0.0


def test_the_last_block_stands_alone():
    """Of blocks 0 and 1 of a network of two the mean is over both, and the last one is 1."""
    blank = dict.fromkeys((*WEIGHTS, *OUTPUTS))
    at = {"parameterization": "Dense", "width": 16, "depth": 2, "step": 1, "seed": 0}
    rows = [
        at | blank | {"layer": layer, "group": group, "moved": value}
        for layer, group, value in (
            ("blocks.0", "blocks", 1.0),
            ("blocks.1", "blocks", 4.0),
            ("blocks.1.mlp.fc", "layers", 9.0),
        )
    ]
    cells = {cell["group"]: cell["moved"] for cell in summarize(rows)}
    assert cells == {
        "blocks": pytest.approx(2),
        "last block": 4,
        "layers": pytest.approx(9),
        "mlp.fc": pytest.approx(9),
    }


# ---- The command ---------------------------------------------------------------------------------


@pytest.fixture
def options(small):
    """Of a command that takes two seconds."""
    kept = [option for option in small if "max_steps" not in option]
    return [*kept, "--widths", "16,32", "--depths", "1,2", "--steps", "2", "--sizes", "16,32"]


@pytest.mark.slow
def test_the_command_prints_and_writes_what_it_found(place, options, capsys):
    argv = [
        "coordinates",
        "--parameterization",
        "Dense,DCT",
        "--ratio",
        "0.5",
        *options,
        "--out",
        "out",
    ]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    report = json.loads(Path("out/coordinates.json").read_text())
    assert report["lr"] == pytest.approx(0.1 * report["optimizer"]["lr"])
    networks = {
        (cell["parameterization"], cell["width"], cell["depth"]) for cell in report["cells"]
    }
    assert networks == {
        (name, *shape) for name in ("Dense", "DCT") for shape in ((16, 2), (32, 2), (16, 1))
    }
    with Path("out/coordinates.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    layers = {depth: 4 * depth + depth + 1 for depth in (1, 2)}
    assert len(rows) == 2 * 3 * (2 * layers[2] + layers[1])
    (first,) = [
        r
        for r in rows
        if [r[k] for k in ("parameterization", "width", "depth", "step", "layer")]
        == ["Dense", "32", "2", "1", "blocks.0.attn.qkv"]
    ]
    # one step of AdamW, with decay: w -> w - lr (sign + decay w)
    decay = 1 + (report["optimizer"]["weight_decay"] * float(first["weight"])) ** 2
    assert float(first["update"]) == pytest.approx(report["lr"] * math.sqrt(decay), rel=0.01)
    with Path("out/rebuild.csv").open(newline="") as file:
        assert [(r["parameterization"], r["size"]) for r in csv.DictReader(file)] == [
            ("DCT", "16"),
            ("DCT", "32"),
        ]
    for found in report["slopes"]:
        if (found["along"], found["group"], found["measure"]) == ("width", "layers", "update"):
            assert f"{found['slope']:+.2f} {found['reading']:>7}" in printed
    page = Path("out/coordinates.html").read_text()
    assert page.count("<figure") == 4 and "arXiv 2203.03466" in page
    assert {path.stem for path in Path("out/figures").iterdir()} == {
        "by_width",
        "by_depth",
        "coordinate_check",
        "rebuild_error",
    }
    refused(capsys, argv, "'out' holds an earlier report", "--force")
    assert (
        main([*argv, "--widths", "16", "--depths", "1", "--sizes", "16", "--steps", "1", "--force"])
        == 0
    )
    assert {path.stem for path in Path("out/figures").iterdir()} == {"rebuild_error"}
    Path("out/notes.txt").write_text("mine")
    refused(capsys, [*argv, "--force"], "notes.txt")


@pytest.mark.slow
def test_with_a_base_each_stands_beside_itself(place, options, capsys):
    """Networks whose rates follow from a base stand beside those whose rates do not."""
    argv = ["coordinates", "--parameterization", "Dense,LoRA", *options, "--sizes", "4"]
    assert main([*argv, "--ratio", "0.5", "--base", "16x1", "--out", "out"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
    report = json.loads(Path("out/coordinates.json").read_text())
    names = ["Dense", "Dense, 16x1", "LoRA", "LoRA, 16x1"]
    assert report["parameterizations"] == names and report["base"] == "16x1"
    found = {
        (each["parameterization"], each["along"]): each["slope"]
        for each in report["slopes"]
        if (each["measure"], each["group"]) == ("update, spectral", "layers")
    }
    for name in ("Dense", "LoRA"):
        assert abs(found[f"{name}, 16x1", "width"]) < 0.35 < 0.6 < found[name, "width"]


@pytest.mark.parametrize(
    "line, words",
    [
        ("--base 64", ["--base takes a width and a depth, as 64x2, got '64'"]),
        ("--base 0x2", ["--base", "'0x2'"]),
        ("--base 32x1", ["--widths 16 is less than the 32 of --base"]),
        ("--base 16x2", ["--depths 1 is less than the 2 of --base"]),
        ("--model.base_sizes.width 16", ["--base"]),
        ("--parameterization DTC", ["'DTC'", "did you mean 'DCT'?"]),
        ("--parameterization Dense,xyzzy", ["'xyzzy'", "Zigzag"]),
        ("--parameterization my_file.Mine", ["my_file.Mine"]),
        ("--widths 16,20", ["--widths", "multiples of 8", "20"]),
        ("--widths wide", ["--widths", "'wide'"]),
        ("--depths 0", ["--depths", "'0'"]),
        ("--sizes 1", ["--sizes", "from 2 on", "'1'"]),
        ("--steps 0", ["--steps must be at least 1, got 0"]),
        ("--seeds 0", ["--seeds must be at least 1, got 0"]),
        ("--ratio 1.5", ["--ratio must lie in (0, 1], got 1.5"]),
        ("--lr 0", ["--lr must be above 0"]),
        ("--force", ["--force", "--out"]),
        ("--trainer.max_steps 7", ["--steps"]),
        ("--model.optimizer.lr 7", ["--lr"]),
        ("--config nothing.yaml", ["nothing.yaml"]),
        ("--width 16", ["no option '--width'", "--widths"]),
        ("--data.corpus gone.txt", ["gone.txt"]),
        ("--parameterization LoRA --ratio 0.01", ["LoRA", "buys no rank"]),
    ],
)
def test_mistakes(place, options, capsys, line, words):
    refused(capsys, ["coordinates", *options, *line.split()], *words)


def test_a_folder_of_something_else_is_left_alone(place, options, capsys):
    Path("out").mkdir()
    Path("out/notes.txt").write_text("mine")
    refused(capsys, ["coordinates", *options, "--out", "out"], "'out' is there already")


def test_options():
    own, passed = split(
        ["coordinates", "--model.optimizer.name", "muon", "--steps", "3", "--data.seed=4"], GROUPS
    )
    assert (own, passed) == (
        ["coordinates", "--steps", "3"],
        ["--model.optimizer.name=muon", "--data.seed=4"],
    )
    assert numbers("--widths", "64, 32,64") == [32, 64]
    with pytest.raises(UserError, match="--sizes takes whole numbers from 2 on"):
        numbers("--sizes", "4,1.5", 2)
    names = [
        "Dense",
        "DCT",
        "RandomOrthonormal",
        "LoRA",
        "Zigzag",
        "my_file.ABasisWithALongNameIndeed",
    ]
    split_up = list(parts(names))
    assert [name for part in split_up for name in part] == names
    assert all(19 + sum(max(13, len(name)) + 2 for name in part) <= 80 for part in split_up)
    assert all(
        19 + sum(max(13, len(name)) + 2 for name in [*a, b[0]]) > 80 for a, b in pairwise(split_up)
    )
