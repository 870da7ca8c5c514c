"""What the coordinate check records of a network is what numpy and autograd find."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback

from zoo.layers.batched import Together
from zoo.layers.convert import merge, zoo_layers
from zoo.studies.coordinates.networks import Cell, built, train
from zoo.studies.coordinates.recording import Coordinates
from zoo.studies.coordinates.sizes import slopes, summarize

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


@pytest.mark.parametrize("name", ["Dense", "DCT", "RandomOrthonormal", "LoRA"])
def test_the_second_moment_is_adams(watched, name):
    """v = sum of (1 - b) b^(t - s) g_s^2 over steps s, without the bias of its start."""
    rows, watch, model = watched[name]
    beta, layer = model.optimizer_config.beta2, "blocks.0.mlp.fc"
    moments, clip = 0.0, model.optimizer_config.clip
    for step in range(3):
        net = copy.deepcopy(model.net).train()
        own = [*zoo_layers(net)[layer].parameterization.parameters()]
        for key, each in zoo_layers(net).items():
            for p, value in zip(
                each.parameterization.parameters(), watch.coefs[step][key], strict=True
            ):
                p.data.copy_(value)
        plain = watch.nets[step]
        for key, p in net.named_parameters():
            if ".parameterization." not in key:
                p.data.copy_(plain.get_parameter(key))
        inputs, targets = watch.batches[step]
        F.cross_entropy(net(inputs).flatten(0, 1), targets.flatten()).backward()
        norm = torch.cat([p.grad.flatten() for p in net.parameters()]).norm()
        grads = torch.cat([p.grad.flatten() for p in own]) * min(1, clip / (norm + 1e-6))
        moments = beta * moments + (1 - beta) * grads.square().mean().item()
    wanted = math.sqrt(moments / (1 - beta**3))
    assert row(rows, layer, 3)["second_moment"] == pytest.approx(wanted, rel=1e-3)
    assert row(rows, layer, 2)["second_moment"] is None


@pytest.mark.parametrize("name", ["Dense", "DCT", "RandomOrthonormal", "LoRA"])
def test_the_rounding_is_that_of_w_in_bfloat16(watched, name):
    rows, _, model = watched[name]
    for layer, zoo in zoo_layers(model.net).items():
        exact = copy.deepcopy(zoo.parameterization).double().weight().detach()
        rounded = copy.deepcopy(zoo.parameterization).bfloat16().weight().detach().double()
        wanted = float((rounded - exact).norm() / exact.norm())
        assert row(rows, layer, 3)["rounding"] == pytest.approx(wanted, rel=1e-5)
        assert 1e-3 < wanted < 4e-3


def test_muon_has_no_second_moment(corpus):
    rows = train(tiny(corpus, "Dense", "--model.optimizer.name=muon"), Cell("Dense", 16, 2, 0))
    assert row(rows, "blocks.0.mlp.fc", 3)["second_moment"] is None
    assert row(rows, "blocks.0.mlp.fc", 3)["rounding"] > 0


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
