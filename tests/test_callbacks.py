"""What TensorBoard gets: curves, charts, a heatmap, one row of hyperparameters."""

import torch
from test_run import events, fit

from tasks import CharLM
from zoo import tensorboard
from zoo.callbacks.spectra import spread
from zoo.convert import zoo_layers
from zoo.spectrum import stable_rank

LAYERS = [f"blocks.{i}.{part}" for i in (0, 1) for part in ("attn.qkv", "attn.proj", "mlp.fc", "mlp.proj")]


def test_curves_per_layer_per_kind_and_over_all(place, small):
    folder = fit(*small, "--stable_rank.every_n_steps=2", "--spectral_energy.every_n_steps=3")
    scalars = events(folder).Tags()["scalars"]
    for measure in ("stable_rank", "k90", "k90_zigzag", "low_frequency"):
        for name in (*LAYERS, "kind.attn.qkv", "all.median", "all.min", "all.max"):
            assert f"{measure}/{name}" in scalars
    assert {f"k90/null.{name}" for name in LAYERS} <= set(scalars)
    assert [e.step for e in events(folder).Scalars("stable_rank/all.median")] == [0, 2, 4, 6]
    assert [e.step for e in events(folder).Scalars("k90/all.median")] == [0, 3, 6]


def test_the_last_rank_is_that_of_the_saved_weights(place, small):
    folder = fit(*small)
    model = CharLM.load_from_checkpoint(folder / "checkpoints" / "last.ckpt", weights_only=True)
    for name, layer in zoo_layers(model.net).items():
        s = torch.linalg.svdvals(layer.effective_weight().double())
        expected = (s.square().sum() / s[0] ** 2).item()
        assert abs(events(folder).Scalars(f"stable_rank/{name}")[-1].value / expected - 1) < 0.01


def test_zero_turns_a_callback_off(place, small):
    folder = fit(*small, "--stable_rank.every_n_steps=0", "--spectral_energy.every_n_steps=0")
    assert not [t for t in events(folder).Tags()["scalars"] if t.startswith(("stable_rank", "k90"))]


def test_charts_heatmap_and_hyperparameters(place, small):
    first, second = fit(*small), fit(*small, config="dense.yaml")
    tags = events(first).Tags()
    assert tags["images"] == ["stable_rank/heatmap"]
    assert "custom_scalars__config__" in tags["tensors"]
    keys = []
    for folder in (first, second):
        summary = events(folder).summary_metadata["_hparams_/session_start_info"]
        from tensorboard.plugins.hparams import plugin_data_pb2

        data = plugin_data_pb2.HParamsPluginData.FromString(summary.plugin_data.content)
        keys.append(set(data.session_start_info.hparams))
    assert keys[0] == keys[1] >= {"parameterization", "ratio", "trainable", "lr", "seed", "data"}
    assert {"hp/loss", "hp/best_loss", "hp/stable_rank"} <= set(tags["scalars"])


def test_layout_has_a_chart_for_every_kind():
    charts = tensorboard.layout(LAYERS)["stable rank"]
    assert list(charts) == ["all layers: median, min, max", "attn.qkv", "attn.proj", "mlp.fc", "mlp.proj"]
    assert charts["attn.qkv"] == ["Multiline", ["^stable_rank/blocks\\.0\\.attn\\.qkv$", "^stable_rank/blocks\\.1\\.attn\\.qkv$"]]


def test_heatmap_paints_low_and_high():
    """The least value is the colour map's first colour, the largest its last; cells stand where they belong."""
    image = tensorboard.heatmap(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), ["a", "b"], [0, 10], "t")
    first, last = tensorboard.VIRIDIS[0].byte(), tensorboard.VIRIDIS[-1].byte()
    left = 8 + 12
    assert torch.equal(image[:, 26 + 9, left + 100], first) and torch.equal(image[:, 26 + 9, left + 400], last)
    assert torch.equal(image[:, 26 + 27, left + 100], last)


def test_spread_is_over_layers_and_kinds():
    values = {"blocks.0.a": 1.0, "blocks.1.a": 3.0, "blocks.2.a": 2.0, "blocks.0.b": 10.0}
    assert spread(values) == {"all.median": 2.0, "all.min": 1.0, "all.max": 10.0, "kind.a": 2.0, "kind.b": 10.0}


def test_the_update_is_watched_where_there_is_a_base():
    from zoo.callbacks import StableRank
    from zoo.convert import convert
    from zoo.parameterizations import LoRA

    net = convert(torch.nn.Sequential(torch.nn.Linear(8, 6)), lambda m, n: LoRA(m, n, rank=1), ["*"], update=True)
    (layer,) = zoo_layers(net).values()
    torch.nn.init.normal_(layer.parameterization.lora_B)
    values = StableRank().measure(zoo_layers(net))
    assert abs(values["stable_rank/update.0"] - 1) < 1e-3
    assert abs(values["stable_rank/0"] - stable_rank(layer.weight + layer.update()).item()) < 1e-3
