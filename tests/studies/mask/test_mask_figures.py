"""Figures of masks show the numbers they are given, beside the unmasked network."""

import numpy as np
import pytest
from lab_data import mask
from lab_figures import axes, inside, lines

from zoo.studies.mask.figures import mask_figures


@pytest.fixture(scope="module")
def masks():
    return mask(groups=2, transforms=("dct", "haar"))


@pytest.fixture(scope="module")
def masked(masks):
    return mask_figures(masks)


def test_mask_names(masked):
    names = [
        "score_by_budget_cola-minilm-lora",
        "score_by_budget_rte-minilm-lora",
        "score_by_budget_all",
    ]
    assert list(masked) == [*names, "energy_by_budget", "bytes_by_score"]
    assert list(mask_figures(mask(groups=1))) == [
        "score_by_budget",
        "energy_by_budget",
        "bytes_by_score",
    ]


def test_score_by_budget(masks, masked):
    group = masks["groups"][1]
    for ax, transform in zip(
        axes(masked["score_by_budget_rte-minilm-lora"]), masks["transforms"], strict=True
    ):
        assert ax.get_title("left") == transform and ax.get_xscale() == "log"
        assert ax.get_xticks().tolist() == masks["budgets"]
        (unmasked,) = lines(ax, "unmasked")
        assert unmasked.get_ydata()[0] == group["unmasked"]["mean"]
        for order in masks["orders"]:
            points = [
                p for p in group["points"] if (p["transform"], p["order"]) == (transform, order)
            ]
            (line,) = lines(ax, order)
            assert line.get_xdata().tolist() == [p["budget"] for p in points]
            assert line.get_ydata().tolist() == [p["mean"] for p in points]
            (filled,), (open_,) = lines(ax, f"{order}, filled"), lines(ax, f"{order}, open")
            significant = [
                p["budget"] for p in points if p["p_holm"] is not None and p["p_holm"] < 0.05
            ]
            assert filled.get_xdata().tolist() == significant
            assert sorted([*open_.get_xdata(), *significant]) == masks["budgets"]
            assert 0 < len(significant) < len(points)
            assert filled.get_markerfacecolor() == line.get_color() != open_.get_markerfacecolor()
        bands = [band.get_paths()[0].vertices[:, 1] for band in ax.collections]
        for order, band in zip(masks["orders"], bands, strict=True):
            points = [
                p for p in group["points"] if (p["transform"], p["order"]) == (transform, order)
            ]
            assert band.min() == pytest.approx(min(p["mean"] - p["sd"] for p in points))
            assert band.max() == pytest.approx(max(p["mean"] + p["sd"] for p in points))
        (span,) = ax.patches
        assert span.get_height() == pytest.approx(2 * group["unmasked"]["sd"])


def test_one_run_has_no_band_and_no_test():
    figure = mask_figures(mask(groups=1, seeds=1))["score_by_budget"]
    (ax,) = axes(figure)
    assert not lines(ax, "magnitude, filled")[0].get_xdata().size
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        *mask()["orders"],
        "unmasked",
    ]


def test_score_by_budget_all_is_relative_to_unmasked(masks, masked):
    (ax,) = axes(masked["score_by_budget_all"])
    for group in masks["groups"]:
        points = [
            p for p in group["points"] if (p["transform"], p["order"]) == ("dct", "magnitude")
        ]
        (line,) = lines(ax, group["group"])
        assert np.allclose(
            line.get_ydata(), [p["mean"] / group["unmasked"]["mean"] for p in points]
        )
        assert line.get_ydata()[-1] == pytest.approx(1)


def test_a_group_whose_unmasked_score_is_not_positive_has_no_share_of_it():
    data = mask(groups=3)
    data["groups"][1]["unmasked"]["mean"] = 0.0
    (ax,) = axes(mask_figures(data)["score_by_budget_all"])
    names = [group["group"] for group in data["groups"]]
    assert [line.get_label() for line in ax.lines] == ["unmasked", names[0], names[2]]
    data["groups"][0]["unmasked"]["mean"] = -0.1
    assert "score_by_budget_all" not in mask_figures(data)


def test_energy_by_budget_is_the_mean_over_runs(masks, masked):
    for ax, group in zip(axes(masked["energy_by_budget"]), masks["groups"], strict=True):
        runs = [run for run in masks["runs"] if run["group"] == group["group"]]
        for transform in masks["transforms"]:
            for order in masks["orders"]:
                (line,) = lines(ax, f"{order}, {transform}")
                own = [
                    [
                        p["energy"]
                        for p in run["points"]
                        if (p["transform"], p["order"]) == (transform, order)
                    ]
                    for run in runs
                ]
                assert np.allclose(line.get_ydata(), np.mean(own, 0))


def test_bytes_by_score(masks, masked):
    for ax, group in zip(axes(masked["bytes_by_score"]), masks["groups"], strict=True):
        runs = [run for run in masks["runs"] if run["group"] == group["group"]]
        (dense,), (trained,) = lines(ax, "dense"), lines(ax, "trained")
        assert (dense.get_xdata()[0], trained.get_xdata()[0]) == (7077888, 294912)
        points = [
            p for p in runs[0]["points"] if (p["transform"], p["order"]) == ("dct", "magnitude")
        ]
        (line,) = lines(ax, "magnitude")
        assert line.get_xdata().tolist() == [
            p["bytes"]["values"] + p["bytes"]["places"] for p in points
        ]
        means = [np.mean([run["points"][i]["value"] for run in runs]) for i in range(len(points))]
        assert np.allclose(line.get_ydata(), means)


@pytest.mark.parametrize(
    "groups, transforms",
    [
        (1, ("dct",)),
        pytest.param(5, ("dct", "fourier", "hadamard", "haar"), marks=pytest.mark.slow),
    ],
)
def test_nothing_of_a_mask_lies_outside(groups, transforms):
    for name, figure in mask_figures(mask(groups, 2, transforms)).items():
        inside(name, figure)


def test_budget_labels_do_not_crowd():
    budgets = tuple(range(1, 101, 3))
    (ax,) = axes(mask_figures(mask(groups=1, seeds=1, budgets=budgets))["score_by_budget"])
    labels = [float(text.get_text()) for text in ax.get_xticklabels() if text.get_text()]
    assert len(ax.get_xticks()) == len(budgets) and 5 < len(labels) < 20
    assert min(np.diff(np.log(labels))) > 0.04 * np.log(100)
