"""What TensorBoard gets: curves, charts, a heatmap, one row of hyperparameters."""

import math
import re

import pytest
import torch
from fits import events, fit

from tasks import CharLM
from zoo.layers.convert import zoo_layers
from zoo.spectrum import stable_rank
from zoo.training import tensorboard
from zoo.training.callbacks.spectra import over_layers

LAYERS = [
    f"blocks.{i}.{part}" for i in (0, 1) for part in ("attn.qkv", "attn.proj", "mlp.fc", "mlp.proj")
]


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


def test_charts_and_a_heatmap(place, small):
    tags = events(fit(*small)).Tags()
    assert tags["images"] == ["stable_rank/heatmap"]
    assert "custom_scalars__config__" in tags["tensors"]


def test_every_run_has_the_same_columns_and_each_metric_one_point(place, small):
    """Among the HParams: a point before the end would be a curve from a made-up value to the true
    one.
    """
    from tensorboard.plugins.hparams import plugin_data_pb2

    metrics = {"hp/loss", "hp/best", "hp/stable_rank"}  # and a score, which this task has not
    rows: list[dict[str, str]] = []
    for folder in (fit(*small), fit(*small, config="dense.yaml")):
        log = events(folder)
        start, experiment = (
            plugin_data_pb2.HParamsPluginData.FromString(
                log.summary_metadata[f"_hparams_/{tag}"].plugin_data.content
            )
            for tag in ("session_start_info", "experiment")
        )
        rows.append(
            {key: value.string_value for key, value in start.session_start_info.hparams.items()}
        )
        assert {info.name for info in experiment.experiment.hparam_infos} == set(rows[-1])
        assert {info.name.tag for info in experiment.experiment.metric_infos} == metrics | {
            "hp/score"
        }
        assert {tag for tag in log.Tags()["scalars"] if tag.startswith("hp")} == metrics
        for tag in metrics:
            assert [(e.step, math.isfinite(e.value)) for e in log.Scalars(tag)] == [(6, True)]
    assert (
        set(rows[0])
        == set(rows[1])
        >= {"parameterization", "arguments", "ratio", "trainable", "lr", "seed", "data"}
    )
    assert "ratio=0.5" in rows[0]["arguments"]


BANDS = "all layers: median, from least to largest"


def test_layout_has_a_band_for_every_measure_before_everything_else():
    charts = tensorboard.layout(LAYERS)
    assert list(charts) == [
        BANDS,
        "stable rank",
        "k90 (DCT, by magnitude)",
        "k90 (DCT, zigzag)",
        "low-frequency share",
    ]
    assert list(charts[BANDS]) == list(charts)[:0:-1]  # TensorBoard reverses them
    assert charts[BANDS]["stable rank"] == [
        "Margin",
        [f"stable_rank/all.{s}" for s in ("median", "min", "max")],
    ]
    assert not [
        chart
        for title in list(charts)[1:]
        for chart in charts[title].values()
        if chart[0] != "Multiline"
    ]


def test_layout_has_a_chart_for_every_kind():
    charts = tensorboard.layout(LAYERS)
    assert list(charts["stable rank"]) == ["attn.qkv", "attn.proj", "mlp.fc", "mlp.proj"]
    assert charts["stable rank"]["attn.qkv"] == [
        "Multiline",
        [r"^stable_rank/blocks\.\d+\.attn\.qkv$"],
    ]
    both = [r"^k90/all\.median$", r"^k90/null\.all\.median$"]
    assert charts["k90 (DCT, by magnitude)"]["all layers: median and rotation null"] == [
        "Multiline",
        both,
    ]
    layers, null = charts["k90 (DCT, by magnitude)"]["mlp.fc"][1]
    assert layers == r"^k90/blocks\.\d+\.mlp\.fc$" and null == r"^k90/null\.kind\.mlp\.fc$"
    # Equal charts of a shallower net, which TensorBoard then joins.
    assert tensorboard.layout(LAYERS[:4]) == charts


def test_every_chart_shows_something_and_every_layer_stands_in_one(place, small):
    """The layout's tags and patterns against the tags of a fit."""
    tags = events(fit(*small)).Tags()["scalars"]
    shown = set()
    for category in tensorboard.layout(LAYERS).values():
        for how, patterns in category.values():
            for pattern in patterns:
                found = {
                    tag
                    for tag in tags
                    if (tag == pattern if how == "Margin" else re.search(pattern, tag))
                }
                assert found, pattern
                shown |= found
    measures = ("stable_rank", "k90", "k90_zigzag", "low_frequency")
    assert {f"{measure}/{name}" for measure in measures for name in LAYERS} <= shown


def test_layout_of_updates_and_of_layers_outside_blocks():
    charts = tensorboard.layout(["0", "2", "head"], updates=True)
    assert charts[BANDS]["stable rank of dW"][1][0] == "stable_rank/update.all.median"
    assert charts["stable rank of dW"]["2"] == ["Multiline", [r"^stable_rank/update\.2$"]]
    assert charts["k90 (DCT, by magnitude)"]["head"][1][0] == "^k90/head$"


def test_heatmap_paints_low_and_high():
    """The lower limit is the colour map's first colour, the upper its last, their geometric mean
    the one between.
    """
    values = torch.tensor([[1.0, 100.0], [10.0, float("nan")]])
    image = tensorboard.heatmap(values, ["a", "b"], [0, 10], "t", 1, 100)
    first, middle, last = (tensorboard.VIRIDIS[i].byte() for i in (0, 4, 8))
    left, height = image.shape[2] - 84 - 400, 96
    assert torch.equal(image[:, 36 + 10, left + 100], first) and torch.equal(
        image[:, 36 + 10, left + 300], last
    )
    assert torch.equal(image[:, 36 + height + 10, left + 100], middle)
    assert torch.equal(
        image[:, 36 + height + 10, left + 300], torch.full((3,), 255, dtype=torch.uint8)
    )


@pytest.mark.parametrize("looks", [1, 5, 41, 2000])
def test_heatmap_cuts_no_label(looks):
    """Nothing is drawn at the edge, and long names make it wider rather than being cut."""
    names = [f"bert.encoder.layer.{i}.attention.self.query" for i in range(12)]
    image = tensorboard.heatmap(
        torch.rand(12, looks) * 700 + 1, names, range(0, 100 * looks, 100), "t", 1, 768
    )
    assert image.dtype == torch.uint8 and image.shape[0] == 3
    assert image.shape[1] < 500 and image.shape[2] < 1800
    for edge in (image[:, :4], image[:, -4:], image[:, :, :4], image[:, :, -4:]):
        assert (edge == 255).all()


def test_spread_is_over_layers_and_kinds():
    values = {"blocks.0.a": 1.0, "blocks.1.a": 3.0, "blocks.2.a": 2.0, "blocks.0.b": 10.0}
    assert over_layers(values) == {
        "all.median": 2.0,
        "all.min": 1.0,
        "all.max": 10.0,
        "kind.a": 2.0,
        "kind.b": 10.0,
    }


def test_the_update_is_watched_where_there_is_a_base():
    from zoo.layers.convert import convert
    from zoo.parameterizations import LoRA
    from zoo.training.callbacks import StableRank

    net = convert(
        torch.nn.Sequential(torch.nn.Linear(8, 6)),
        lambda m, n: LoRA(m, n, rank=1),
        ["*"],
        start="update",
    )
    (layer,) = zoo_layers(net).values()
    torch.nn.init.normal_(layer.parameterization.lora_B)
    values = StableRank().measure(zoo_layers(net))
    assert abs(values["stable_rank/update.0"] - 1) < 1e-3
    assert abs(values["stable_rank/0"] - stable_rank(layer.weight).item()) < 1e-3


def test_spectral_energy_is_the_updates_where_there_is_a_base():
    """A rank-1 update of constant rows and columns has all its energy in one DCT coefficient; its
    base has not.
    """
    from zoo.layers.convert import convert
    from zoo.parameterizations import Dense
    from zoo.training.callbacks import SpectralEnergy

    net = convert(torch.nn.Sequential(torch.nn.Linear(8, 6)), Dense, ["*"], start="update")
    torch.nn.init.constant_(zoo_layers(net)["0"].parameterization.coef, 0.5)
    assert abs(SpectralEnergy().measure(zoo_layers(net))["k90/0"] - 1 / 48) < 1e-9
