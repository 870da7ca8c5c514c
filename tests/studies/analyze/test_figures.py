"""Figures of analyses show the numbers they are given, beside their null."""

import math

import numpy as np
import pytest
from lab_data import KINDS, analysis
from lab_figures import axes, inside, lines, words

from zoo.spectrum import GAUSSIAN
from zoo.studies.analyze.figures import analysis_figures
from zoo.studies.figures import slug


@pytest.fixture(scope="module")
def data():
    return analysis(groups=2, seeds=3, blocks=3, kinds=2, transforms=("dct", "haar"))


@pytest.fixture(scope="module")
def figures(data):
    return analysis_figures(data)


def test_names(figures):
    groups = ("cola-minilm-lora", "rte-minilm-lora")
    per_group = [
        f"{name}_{g}"
        for name in ("cumulative_energy", "k90_heatmap", "singular_values")
        for g in groups
    ]
    assert list(figures) == ["k90_by_task", *per_group, "rank_against_loss"]
    assert "k90_heatmap" in analysis_figures(analysis(groups=1, seeds=1, blocks=2))


def test_groups_whose_names_differ_in_signs_alone_keep_their_figures(data):
    twins = [
        {**group, "group": name} for group, name in zip(data["groups"], ("a/b", "a b"), strict=True)
    ]
    runs = [{**run, "group": twins[run["task"] == "rte"]["group"]} for run in data["runs"]]
    found = analysis_figures({**data, "groups": twins, "runs": runs})
    assert len([name for name in found if name.startswith("k90_heatmap")]) == 2
    assert slug("RTE / minilm / LoRA r=8") == "rte-minilm-lora-r-8" and slug("//") == "group"


def test_k90_by_task(data, figures):
    (ax,) = figures["k90_by_task"].axes
    for transform, bars in zip(data["transforms"], ax.containers[1::2], strict=True):
        spectra = [group["spectra"][transform]["k90"] for group in data["groups"]]
        marker, _, (spread,) = bars
        assert marker.get_xdata().tolist() == [s["mean"] for s in spectra]
        half = [(s[1, 0] - s[0, 0]) / 2 for s in spread.get_segments()]
        assert half == pytest.approx([s["sd"] for s in spectra])
        (null,) = [found for found in ax.collections if found.get_label() == f"null {transform}"]
        assert [s[0, 0] for s in null.get_segments()] == [s["null"] for s in spectra]
    for transform, band in zip(data["transforms"], ax.containers[::2], strict=True):
        for group, patch in zip(data["groups"], band.patches, strict=True):
            k90 = group["spectra"][transform]["k90"]
            assert patch.get_x() == pytest.approx(k90["null"] - k90["null_sd"])
            assert patch.get_width() == pytest.approx(2 * k90["null_sd"])
    assert lines(ax, "gaussian")[0].get_xdata()[0] == GAUSSIAN["k90"]


def test_cumulative_energy(data, figures):
    run = data["runs"][0]
    top, bottom = (axes(figures["cumulative_energy_cola-minilm-lora"])[i : i + 2] for i in (0, 2))
    for i, kind in enumerate(KINDS[:2]):
        own = [m for m in run["matrices"] if m["kind"] == kind]
        for m in own:
            curves = {key: np.array(value) for key, value in m["curves"]["dct"].items()}
            (above,), (below,) = (lines(ax, f"block {m['block']}") for ax in (top[i], bottom[i]))
            assert np.array_equal(above.get_ydata(), curves["magnitude"])
            assert np.allclose(below.get_ydata(), curves["magnitude"] - curves["null_magnitude"])
        (null,) = lines(top[i], "null")
        assert np.allclose(
            null.get_ydata(), np.mean([m["curves"]["dct"]["null_magnitude"] for m in own], 0)
        )
        assert len({above.get_color() for above in top[i].lines}) == len(own) + 1


def test_heatmap_is_the_mean_over_runs_and_its_difference_from_the_null():
    data = analysis(groups=1, seeds=3, blocks=4, kinds=3)
    data["runs"][0]["matrices"] = [m for m in data["runs"][0]["matrices"] if m["kind"] != KINDS[2]]
    left, right = axes(analysis_figures(data)["k90_heatmap"])
    for ax, of in ((left, lambda k: k["value"]), (right, lambda k: k["value"] - k["null"])):
        shown = ax.collections[0].get_array()
        for i in range(4):
            for j, kind in enumerate(KINDS[:3]):
                ms = [
                    m
                    for r in data["runs"]
                    for m in r["matrices"]
                    if (m["block"], m["kind"]) == (i, kind)
                ]
                assert len(ms) == (2 if j == 2 else 3)
                assert shown[i, j] == pytest.approx(
                    np.mean([of(m["spectra"]["dct"]["k90"]) for m in ms])
                )
    low, high = right.collections[0].get_clim()
    assert low == -high < 0
    assert [label.get_text() for label in left.get_xticklabels()] == ["query", "value", "key"]


def test_heatmap_leaves_a_gap_where_a_block_lacks_a_kind():
    data = analysis(groups=1, seeds=1, blocks=2)
    matrices = data["runs"][0]["matrices"]
    matrices.remove(next(m for m in matrices if (m["block"], m["kind"]) == (1, KINDS[0])))
    shown = axes(analysis_figures(data)["k90_heatmap"])[0].collections[0].get_array()
    assert np.isnan(np.ma.filled(shown, np.nan)).tolist() == [[False, False], [True, False]]


def test_singular_values_over_the_norm_beside_gaussian_ones(data, figures):
    run = data["runs"][3]
    for ax, kind in zip(axes(figures["singular_values_rte-minilm-lora"]), KINDS[:2], strict=True):
        own = [m for m in run["matrices"] if m["kind"] == kind]
        for m in own:
            (line,) = lines(ax, m["layer"])
            assert np.allclose(line.get_ydata() * m["norm"], m["singular_values"])
            assert np.linalg.norm(line.get_ydata()) == pytest.approx(1)
        (null,), (band,) = lines(ax, "null"), ax.collections
        gaussian = [
            {k: np.array(v) / m["norm"] for k, v in m["gaussian_singular_values"].items()}
            for m in own
        ]
        mean, sd = (np.mean([g[key] for g in gaussian], 0) for key in ("mean", "sd"))
        assert np.allclose(null.get_ydata(), mean)
        corners = band.get_paths()[0].vertices
        for edge in np.concatenate([mean - sd, mean + sd]):
            assert np.isclose(corners[:, 1], edge).any()


def test_singular_values_of_matrices_of_other_ranks():
    data = analysis(groups=1, seeds=1, blocks=2, kinds=1)
    short, long = data["runs"][0]["matrices"]
    short["singular_values"] = short["singular_values"][:3]
    short["gaussian_singular_values"] = {
        k: v[:3] for k, v in short["gaussian_singular_values"].items()
    }
    (ax,) = axes(analysis_figures(data)["singular_values"])
    (null,) = lines(ax, "null")
    assert len(null.get_ydata()) == 8
    assert null.get_ydata()[7] == pytest.approx(
        long["gaussian_singular_values"]["mean"][7] / long["norm"]
    )


def test_rank_against_loss_has_panels_for_each_task(data, figures):
    panels = axes(figures["rank_against_loss"])
    expected = [("cola", "loss"), ("cola", "score"), ("rte", "loss"), ("rte", "score")]
    for ax, (task, field) in zip(panels, expected, strict=True):
        assert ax.get_title("left") == task
        (line,) = ax.lines
        runs = [run for run in data["runs"] if run["task"] == task]
        assert line.get_xdata().tolist() == [
            run["averages"]["run"]["all"]["stable_rank"] for run in runs
        ]
        assert line.get_ydata().tolist() == [run[field] for run in runs]
    assert panels[1].get_ylabel() == "matthews" and panels[0].get_xscale() == "linear"
    assert panels[0].lines[0].get_color() != panels[2].lines[0].get_color()


def test_ranks_that_span_a_decade_are_on_a_logarithmic_axis():
    data = analysis(groups=1, seeds=3, blocks=1)
    data["runs"][0]["averages"]["run"]["all"]["stable_rank"] *= 20
    for ax in axes(analysis_figures(data)["rank_against_loss"]):
        assert ax.get_xscale() == "log"


def test_what_has_no_data_is_left_out():
    data = analysis(groups=1, seeds=1, blocks=2)
    for run in data["runs"]:
        run |= {"loss": None, "score": None}
        for m in run["matrices"]:
            m["block"] = None
    assert list(analysis_figures(data)) == ["k90_by_task", "singular_values"]
    for m in data["runs"][0]["matrices"]:
        m["singular_values"] = []
    assert list(analysis_figures(data)) == ["k90_by_task"]


def test_a_null_is_a_gap():
    data = analysis(groups=2, seeds=1)
    data["groups"][0]["spectra"]["dct"]["k90"]["mean"] = None
    assert data["groups"][0]["spectra"]["dct"]["k90"]["sd"] is None
    (ax,) = analysis_figures(data)["k90_by_task"].axes
    marker = next(line for line in ax.lines if line.get_marker() == "o")
    assert math.isnan(marker.get_xdata()[0]) and not math.isnan(marker.get_xdata()[1])


def test_kinds_that_are_not_shown_are_named():
    found = analysis_figures(analysis(groups=1, seeds=1, blocks=2, kinds=6))
    figure = found["cumulative_energy"]
    assert [ax.get_title("left") for ax in axes(figure)[:3]] == ["query", "value", "key"]
    text = " ".join(words(figure)).replace("\n", " ")
    assert "not shown: attention.output.dense, intermediate.dense, output.dense" in text
    assert "not shown" not in " ".join(words(found["singular_values"]))


@pytest.mark.parametrize(
    "groups, seeds, blocks, kinds, transforms",
    [
        (1, 1, 1, 2, ("dct",)),
        (2, 3, 2, 2, ("dct", "haar")),
        pytest.param(5, 3, 2, 2, ("dct", "fourier", "hadamard", "haar"), marks=pytest.mark.slow),
        pytest.param(1, 1, 48, 12, ("dct",), marks=pytest.mark.slow),
    ],
)
def test_nothing_lies_outside_a_figure(groups, seeds, blocks, kinds, transforms):
    data = analysis(groups, seeds, blocks, kinds, transforms)
    for name, figure in analysis_figures(data).items():
        inside(name, figure)
