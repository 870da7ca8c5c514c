"""The coordinate check: what is recorded is what numpy and autograd find, and exponents are those
that are known.
"""

import csv
import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import refused
from lightning.pytorch import Callback

from zoo.__main__ import main
from zoo.errors import UserError
from zoo.layers.batched import Together
from zoo.layers.convert import merge, zoo_layers
from zoo.studies.coordinates.command import GROUPS, numbers
from zoo.studies.coordinates.networks import Cell, built, train
from zoo.studies.coordinates.sizes import (
    FLAT,
    OUTPUTS,
    WEIGHTS,
    Coordinates,
    exponent,
    reading,
    slopes,
    summarize,
)
from zoo.studies.coordinates.tables import parts
from zoo.studies.options import split

LR = 1e-3


class Watch(Callback):
    """The network and its coefficients at every step, as plain copies."""

    def __init__(self):
        self.nets, self.coefs, self.batches = [], [], []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if not self.nets:
            self._look(module)
        self.batches.append(batch)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self._look(module)

    def _look(self, module):
        self.nets.append(merge(module.net))
        layers = zoo_layers(module.net).items()
        self.coefs.append(
            {
                name: [p.detach().clone() for p in layer.parameterization.parameters()]
                for name, layer in layers
            }
        )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog, and runs away.\n" * 67)
    return path


def tiny(corpus, name, *options, width=16):
    """A network of two blocks that is trained for three steps, without decay."""
    return built(
        [
            "--config",
            "char_lm.yaml",
            f"--model.parameterization={name}",
            f"--model.width={width}",
            "--model.layers=2",
            "--model.heads=2",
            f"--data.corpus={corpus}",
            "--data.batch_size=4",
            "--data.block_size=16",
            "--model.optimizer.warmup=0",
            "--model.optimizer.final_lr=1",
            "--model.optimizer.weight_decay=0",
            f"--model.optimizer.lr={LR}",
            "--trainer.max_steps=3",
            *options,
        ]
    )


@pytest.fixture(scope="module")
def watched(corpus):
    """By parameterization: rows, what was seen beside them, and the module."""
    found = {}
    for name, ratio in (("Dense", None), ("DCT", 1.0), ("RandomOrthonormal", 0.3), ("LoRA", 0.3)):
        cli = tiny(corpus, name, *([f"--model.parameterization.ratio={ratio}"] if ratio else []))
        record, watch = Coordinates(), Watch()
        cli.trainer.callbacks = [record, watch]
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
        found[name] = record.rows, watch, cli.model
    return found


def row(rows, layer, step):
    (one,) = [each for each in rows if (each["layer"], each["step"]) == (layer, step)]
    return one


def size(x):
    return float(np.sqrt(np.mean(np.square(x.detach().double().numpy()))))


@pytest.mark.parametrize("name", ["Dense", "DCT", "RandomOrthonormal", "LoRA"])
def test_weights_and_updates_are_those_of_the_merged_network(watched, name):
    rows, watch, model = watched[name]
    for layer in zoo_layers(model.net):
        w = [net.get_submodule(layer).weight for net in watch.nets]
        for step in range(4):
            own = row(rows, layer, step)
            assert own["weight"] == pytest.approx(size(w[step]), rel=1e-5)
            if step:
                assert own["update"] == pytest.approx(size(w[step] - w[0]), rel=1e-3)
                assert own["step_update"] == pytest.approx(size(w[step] - w[step - 1]), rel=1e-3)
        m, n = w[0].shape
        largest = np.linalg.norm((w[3] - w[0]).detach().numpy(), 2) * math.sqrt(n / m)
        assert row(rows, layer, 3)["spectral"] == pytest.approx(largest, rel=0.02)
    assert row(rows, layer, 0)["update"] is None and row(rows, layer, 2)["spectral"] is None


@pytest.mark.parametrize("name", ["Dense", "DCT", "RandomOrthonormal", "LoRA"])
def test_gradients_are_those_of_the_weights_whatever_the_coefficients(watched, name):
    """Autograd's of a network of plain layers with the same weights, on the same batch."""
    rows, watch, model = watched[name]
    for step in (1, 3):
        plain = watch.nets[step - 1].requires_grad_().train()
        plain.zero_grad()
        inputs, targets = watch.batches[step - 1]
        F.cross_entropy(plain(inputs).flatten(0, 1), targets.flatten()).backward()
        for layer, zoo in zoo_layers(model.net).items():
            own, gradient = row(rows, layer, step), plain.get_submodule(layer).weight.grad
            assert own["gradient"] == pytest.approx(size(gradient), rel=1e-4)
            if name in ("Dense", "DCT"):  # all of an orthonormal basis: |dL/dc| = |dL/dW|
                assert own["coefficient_gradient"] == pytest.approx(own["gradient"], rel=1e-4)
            if name == "RandomOrthonormal":
                expected = zoo.parameterization.gather(gradient)
                assert own["coefficient_gradient"] == pytest.approx(size(expected), rel=1e-4)


def test_a_full_orthonormal_basis_moves_as_far_as_its_coefficients(watched):
    rows, watch, model = watched["DCT"]
    for layer in zoo_layers(model.net):
        (start,), (end,) = watch.coefs[0][layer], watch.coefs[3][layer]
        assert row(rows, layer, 3)["update"] == pytest.approx(size(end - start), rel=1e-3)


def test_the_first_step_of_a_dense_weight_is_the_learning_rate(watched):
    """AdamW's first step is lr g / (|g| + eps) for every entry; queries and keys have small g at
    the start.
    """
    rows, _, model = watched["Dense"]
    for layer in zoo_layers(model.net):
        assert row(rows, layer, 1)["update"] == pytest.approx(
            LR, rel=1e-3 if "mlp" in layer else 0.02
        )


def test_outputs_are_those_on_the_first_batch(watched):
    rows, watch, model = watched["RandomOrthonormal"]
    inputs, seen = watch.batches[0][0], []
    for net in watch.nets:
        outputs = {}
        handles = [
            net.get_submodule(name).register_forward_hook(
                lambda _, __, y, k=name, o=outputs: o.update({k: y})
            )
            for name in ("blocks.1.mlp.fc", "blocks.0")
        ]
        outputs["logits"] = net.eval()(inputs)
        seen.append(outputs)
        for handle in handles:
            handle.remove()
    for name, group in (
        ("blocks.1.mlp.fc", "layers"),
        ("blocks.0", "blocks"),
        ("logits", "logits"),
    ):
        for step in range(4):
            own = row(rows, name, step)
            assert own["group"] == group
            assert own["activation"] == pytest.approx(size(seen[step][name]), rel=1e-4)
            if step:
                assert own["moved"] == pytest.approx(
                    size(seen[step][name] - seen[0][name]), rel=1e-3
                )
    left = [hook for module in model.modules() for hook in module._forward_hooks.values()]
    assert all(isinstance(getattr(hook, "__self__", None), Together) for hook in left)


def test_looking_changes_nothing(corpus, watched):
    cli = tiny(corpus, "LoRA", "--model.parameterization.ratio=0.3")
    cli.trainer.callbacks = []
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    other = watched["LoRA"][2].state_dict()
    assert all(torch.equal(value, other[name]) for name, value in cli.model.state_dict().items())


def test_outputs_at_the_start_grow_as_they_must(corpus):
    """GPT-2's weights have std 0.02 and a normed input rms 1: an output has 0.02 sqrt(width),
    exponent 1/2.
    """
    widths, rows = (16, 64, 256), []
    for width in widths:
        rows += train(
            tiny(corpus, "Dense", "--trainer.max_steps=1", width=width), Cell("Dense", width, 2, 0)
        )
    cells = summarize(rows)
    for width in widths:
        (cell,) = [c for c in cells if (c["width"], c["step"], c["group"]) == (width, 0, "mlp.fc")]
        assert cell["activation"] == pytest.approx(0.02 * math.sqrt(width), rel=0.05)
    found = {
        (s["measure"], s["group"]): s for s in slopes(cells, 16, 2, 1) if s["along"] == "width"
    }
    assert found["outputs at start", "mlp.fc"]["slope"] == pytest.approx(0.5, abs=0.03)
    assert found["outputs at start", "mlp.fc"]["reading"] == "grows"
    assert found["weight", "layers"]["slope"] == pytest.approx(0, abs=0.02)
    assert found["update of a step", "layers"]["slope"] == pytest.approx(0, abs=0.01)
    # Of a normed input an entry of +-lr everywhere, all along one direction, makes lr width:
    # exponent 1.
    assert 0.7 < found["update, spectral", "layers"]["slope"] < 1.2
    assert {s["slope"] for s in slopes(cells, 16, 2, 1) if s["along"] == "depth"} == {None}


def test_exponents():
    sizes = [64, 128, 256, 512]
    fit = exponent(sizes, [3 * size**-0.5 for size in sizes])
    assert fit["slope"] == pytest.approx(-0.5) and fit["error"] == pytest.approx(0, abs=1e-6)
    noisy = [1.0, 2.2, 3.7, 9.0]
    (slope, _), covariance = np.polyfit(np.log(sizes), np.log(noisy), 1, cov=True)
    assert exponent(sizes, noisy) == pytest.approx(
        {"slope": slope, "error": covariance[0, 0] ** 0.5}
    )
    assert exponent(sizes, [None, 1, 0, 4])["slope"] == pytest.approx(math.log(4) / math.log(4))
    assert exponent([64, 128], [1, 2]) == {"slope": pytest.approx(1), "error": None}
    assert exponent([64], [1]) == {"slope": None, "error": None} == exponent([64, 64], [1, 2])
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


@pytest.mark.parametrize(
    "line, words",
    [
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
    assert all(16 + sum(max(13, len(name)) + 2 for name in part) <= 80 for part in split_up)
    assert all(
        16 + sum(max(13, len(name)) + 2 for name in [*a, b[0]]) > 80 for a, b in pairwise(split_up)
    )
