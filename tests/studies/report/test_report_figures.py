"""Figures of a report show the numbers they are given, of any methods that there are."""

import copy
import math

import numpy as np
import pytest
from every import thinned
from lab_figures import axes, inside, lines, words
from matplotlib.text import Text
from report_data import BUDGETS, report

from zoo.pages import style
from zoo.studies.report.costs import PANELS, frontiers
from zoo.studies.report.families import BESIDE, CURVE, families, limits, mean_curve
from zoo.studies.report.figures import figures

NAMES = [
    "loss_by_parameters",
    "loss_by_cost",
    "gaps",
    "loss_by_stable_rank",
    "rank_over_training",
    "loss_over_training",
    "rate_sensitivity",
]


@pytest.fixture(scope="module")
def data():
    return report()


@pytest.fixture(scope="module")
def comparison(data):
    return data["comparisons"][0]


@pytest.fixture(scope="module")
def drawn(data):
    return figures(data)


def method_of(comparison, name):
    return next(method for method in comparison["methods"] if method["method"] == name)


def runs_of(comparison, name):
    return [run for run in comparison["runs"] if run["method"] == name and not run["searched"]]


def test_names(drawn):
    assert list(drawn) == NAMES
    two = figures(report(kinds=1, seeds=2, comparisons=2))
    ends = ("_tinyshakespeare-charlm", "_tinyshakespeare-charlm-steps-400")
    assert list(two) == [name + end for end in ends for name in NAMES]


def test_comparisons_whose_names_differ_in_signs_alone_have_figures_of_their_own():
    data = report(kinds=1, seeds=2, comparisons=2)
    for comparison, name in zip(data["comparisons"], ("a/b", "a b"), strict=True):
        comparison["name"] = name
    assert list(figures(data))[:: len(NAMES)] == [
        "loss_by_parameters_a-b",
        "loss_by_parameters_a-b-",
    ]


def test_families_are_alike_in_all_but_their_budget(comparison):
    found = {family.name: [m["method"] for m in family.methods] for family in families(comparison)}
    assert list(found) == [
        "DCT",
        "RandomOrthonormal",
        "Zigzag",
        "Zigzag basis=random",
        "LoRA",
        "RandLoRA",
        "Dense",
    ]
    assert found["Zigzag"] == [f"Zigzag ratio={budget}" for budget in BUDGETS[::-1]]
    muon = {family.name for family in families(report(kinds=8)["comparisons"][0])}
    assert {"DCT", "DCT muon", "Dense", "Hadamard"} < muon
    looks = [
        (family.color, family.marker, family.fill)
        for family in families(report(kinds=8)["comparisons"][0])
    ]
    assert len(set(looks)) == len(looks)


def test_other_settings_are_told_by_their_last_name_where_they_are_set(comparison):
    changed = copy.deepcopy(comparison)
    for method in changed["methods"]:
        method["other"] = {"model.tuning.full": method["method"] == "Dense", "model.dropout": None}
    assert {family.name for family in families(changed)} > {"Dense full=True", "DCT", "LoRA"}


def test_two_methods_of_a_family_with_one_budget_are_told_apart(comparison):
    twins = copy.deepcopy(comparison)
    twins["methods"].append(
        copy.deepcopy(method_of(twins, "LoRA ratio=0.5")) | {"method": "LoRA rank=48"}
    )
    found = {family.name: [m["method"] for m in family.methods] for family in families(twins)}
    assert found["LoRA rank=48"] == ["LoRA rank=48"] and len(found["LoRA"]) == 3


def test_loss_by_parameters(comparison, drawn):
    (ax,) = axes(drawn["loss_by_parameters"])
    assert ax.get_xscale() == "log"
    for name in ("DCT", "LoRA"):
        own = [method_of(comparison, f"{name} ratio={budget}") for budget in BUDGETS[::-1]]
        (line,) = lines(ax, name)
        assert line.get_ydata().tolist() == [method["mean"] for method in own]
        off = line.get_xdata() / [method["coefficients"] for method in own]
        assert np.allclose(off, off[0]) and 1 / BESIDE <= off[0] <= BESIDE
        (bars,) = [
            b
            for b in ax.collections
            if np.allclose(b.get_colors()[0][:3], style.to_rgb(line.get_color()))
        ]
        ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
        assert ends == [[method["low"], method["high"]] for method in own]
    dense = method_of(comparison, "Dense")
    (line,), (band,) = lines(ax, "reference"), ax.patches
    assert line.get_ydata()[0] == dense["mean"]
    assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx(
        (dense["low"], dense["high"])
    )
    assert [label.get_text() for label in ax.get_xticklabels()] == [
        "39.3k\n5 %",
        "78.6k\n10 %",
        "393k\n50 %",
    ]
    assert ax.get_xticks().tolist() == [39322, 78643, 393216]


def test_a_family_alone_at_its_budget_stands_in_its_place():
    (ax,) = axes(figures(report(kinds=2, reference=None, search=False))["loss_by_parameters"])
    assert lines(ax, "Dense")[0].get_xdata().tolist() == [786432] and not lines(ax, "reference")


def test_families_of_one_budget_do_not_stand_on_each_other(comparison):
    changed = {"comparisons": [copy.deepcopy(comparison)], "margin": None}
    for name, off in (("LoRA", 0.957), ("DCT", 1.04)):
        method_of(changed["comparisons"][0], f"{name} ratio=0.5")["coefficients"] *= off
    (ax,) = axes(figures(changed)["loss_by_parameters"])
    x = sorted(
        lines(ax, family.name)[0].get_xdata()[-1]
        for family in families(comparison)
        if family.name != "Dense"
    )
    assert len(x) == 6 and min(np.diff(np.log(x))) > 0.03


def test_loss_by_cost(comparison, drawn):
    """A marker a method, at its cost or beside those of the same; the frontier's are named."""
    panels = axes(drawn["loss_by_cost"])
    assert [ax.get_xlabel() for ax in panels] == list(PANELS.values())
    for ax, field in zip(panels, PANELS, strict=True):
        assert ax.get_xscale() == "log"
        for method in comparison["methods"]:
            (point,) = lines(ax, method["method"])
            ((x, y),) = point.get_xydata()
            assert abs(math.log(x / method["cost"][field])) < 1.001 * math.log(BESIDE)
            assert y == method["mean"]
        (line,) = lines(ax, "frontier")
        named = [text.get_text().replace("\n", " ") for text in ax.texts]
        assert named == comparison["frontiers"][field] and len(named) > 1
        ends = [lines(ax, name)[0].get_xydata()[0].tolist() for name in named]
        assert line.get_xydata().tolist() == ends and line.get_drawstyle() == "steps-post"
    first = comparison["frontiers"]["total_training_flops"]
    assert first[:4] == [*(f"LoRA ratio={budget}" for budget in BUDGETS[::-1]), "Dense"]


@pytest.mark.parametrize("count", [3, 25])
def test_names_on_the_frontier_cover_no_other_and_no_marker(count):
    data = report(
        kinds=8 if count > 3 else 1, seeds=2, budgets=BUDGETS if count > 3 else (0.5, 0.1)
    )
    (comparison,) = data["comparisons"]
    assert len(comparison["methods"]) == count
    figure = figures(data)["loss_by_cost"]
    figure.draw_without_rendering()
    for ax in axes(figure):
        names = [Text.get_window_extent(text) for text in ax.texts]
        assert not any(a.overlaps(b) for i, a in enumerate(names) for b in names[:i])
        points = [
            ax.transData.transform(line.get_xydata()[0])
            for line in ax.lines
            if line.get_label() != "frontier"
        ]
        assert len(points) == count
        assert not any(name.contains(*point) for name in names for point in points)
    inside("loss_by_cost", figure)


def test_many_methods_of_one_cost_and_mean_share_a_name():
    """Scores of few sentences tie, and bytes to decode do."""
    data = report(kinds=8, seeds=2, budgets=BUDGETS)
    (comparison,) = data["comparisons"]
    for method in comparison["methods"]:
        method["mean"] = method["low"] = method["high"] = 2.0
        method["cost"]["decode_bytes"] = 1000
    ax = axes(figures(data)["loss_by_cost"])[list(PANELS).index("decode_bytes")]
    first = comparison["methods"][0]["method"]
    assert [text.get_text() for text in ax.texts] == [f"{first} and 24 more"]


def test_methods_of_unknown_cost_are_left_out_and_costs_that_none_has():
    data = report(kinds=1, seeds=2)
    (comparison,) = data["comparisons"]
    for method in comparison["methods"]:
        method["cost"]["decode_bytes"] = None
    comparison["methods"][0]["cost"] = None
    panels = axes(figures(data)["loss_by_cost"])
    assert len(panels) == 2 and not any(lines(ax, "Dense") for ax in panels)
    for method in comparison["methods"]:
        method["cost"] = None
    assert "loss_by_cost" not in figures(data)


def test_the_frontier_is_what_no_other_beats_in_both():
    """Of two that are alike both stand; a higher score is better where one is told so."""
    places = {"a": (1, 3.0), "b": (2, 2.0), "c": (2, 2.5), "d": (3, 2.0), "e": (4, 1.0)}
    methods = [
        {"method": name, "mean": mean, "cost": {"decode_bytes": cost}}
        for name, (cost, mean) in [*places.items(), ("f", (4, 1.0)), ("free", (0, 0.1))]
    ]
    methods += [{"method": "lost", "mean": None, "cost": {"decode_bytes": 1}}]
    found = frontiers(methods, "lower")
    assert found["decode_bytes"] == ["a", "b", "e", "f"] and found["checkpoint_bytes"] == []
    assert frontiers(methods, "higher")["decode_bytes"] == ["a"]


def test_gaps(data, comparison, drawn):
    (ax,) = axes(drawn["gaps"])
    rows = sorted((m for m in comparison["methods"] if m["gap"]), key=lambda m: m["gap"]["mean"])
    assert [text.get_text().replace("\n", " ") for text in ax.get_yticklabels()] == [
        m["method"] for m in rows
    ]
    equivalent = 0
    for row, y, bar in zip(rows, ax.get_yticks(), ax.collections, strict=True):
        (point,) = lines(ax, row["method"])
        assert (point.get_xdata()[0], point.get_ydata()[0]) == (row["gap"]["mean"], y)
        assert bar.get_segments()[0].tolist() == [[row["gap"]["low"], y], [row["gap"]["high"], y]]
        filled = point.get_markerfacecolor() == point.get_color()
        assert filled == row["tost"]["equivalent"]
        equivalent += filled
    assert 0 < equivalent < len(rows)
    (band,) = ax.patches
    assert (band.get_x(), band.get_width()) == pytest.approx((-data["margin"], 2 * data["margin"]))
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "the best is not on top"


def test_the_best_score_is_on_top():
    data = report(kinds=1, seeds=3, better="higher")
    (ax,) = axes(figures(data)["gaps"])
    assert [text.get_text() for text in ax.get_yticklabels()] == [
        f"DCT ratio={budget}" for budget in BUDGETS
    ]
    assert "accuracy minus the reference's, higher is better" in words(figures(data)["gaps"])


def test_loss_by_stable_rank_has_each_reported_run_once(comparison, drawn):
    (ax,) = axes(drawn["loss_by_stable_rank"])
    markers = set()
    for method in comparison["methods"]:
        line = lines(ax, method["method"])[-1]
        own = [(run["stable_rank"], run["value"]) for run in runs_of(comparison, method["method"])]
        assert list(map(tuple, line.get_xydata())) == own and len(own) == 5
        markers.add((method["budget"], line.get_marker()))
    assert len(markers) == len(BUDGETS) + 1
    (line,) = lines(ax, "LoRA")
    means = [
        np.mean(
            [(run["stable_rank"], run["value"]) for run in runs_of(comparison, f"LoRA ratio={b}")],
            0,
        )
        for b in BUDGETS[::-1]
    ]
    assert np.allclose(line.get_xydata(), means)


@pytest.mark.parametrize(
    "name, field", [("rank_over_training", "stable_rank"), ("loss_over_training", "value")]
)
def test_over_training(comparison, drawn, name, field):
    panels = axes(drawn[name])
    assert [ax.get_title("left") for ax in panels] == [
        f"{100 * budget:g} % of the weights" for budget in BUDGETS
    ]
    for ax, budget in zip(panels, BUDGETS, strict=True):
        for shown in (f"DCT ratio={budget}", "Dense"):
            (line,) = lines(ax, shown)
            curves = np.array([run["curves"][field] for run in runs_of(comparison, shown)])
            assert np.allclose(line.get_xydata(), curves.mean(0))
        assert len(ax.lines) == len(ax.collections) == 7
    assert panels[0].get_ylim()[0] > (1 if field == "value" else 0)


def test_mean_curve_is_over_steps_that_all_runs_have():
    runs = [
        {"curves": {"value": [[0, 4.0], [10, 2.0], [20, 1.0]]}},
        {"curves": {"value": [[10, 4.0], [20, None]]}},
        {"curves": {}},
    ]
    steps, mean, sd = mean_curve(runs, "value")
    assert (
        steps.tolist() == [10, 20]
        and mean[0] == 3
        and sd[0] == pytest.approx(math.sqrt(2))
        and math.isnan(mean[1])
    )
    steps, mean, _ = mean_curve(
        [{"curves": {"value": [[i, 1.0 * i] for i in range(5000)]}}], "value"
    )
    assert (
        len(steps) == CURVE and (steps[0], steps[-1]) == (0, 4999) and np.array_equal(steps, mean)
    )
    assert all(len(part) == 0 for part in mean_curve(runs[2:], "value"))


def test_rate_sensitivity(comparison, drawn):
    for ax, budget in zip(axes(drawn["rate_sensitivity"]), BUDGETS, strict=True):
        assert ax.get_xscale() == "log" and ax.get_xticks().tolist() == [0.005, 0.01, 0.02, 0.04]
        for name in (f"Zigzag ratio={budget}", "Dense"):
            (line,) = lines(ax, name)
            assert line.get_xydata().tolist() == [
                [s["lr"], s["value"]] for s in method_of(comparison, name)["search"]
            ]
        best = {point.get_xdata()[0] for point in lines(ax, "chosen")}
        assert best == {0.01} and len(lines(ax, "chosen")) == 7


def test_without_a_search_there_is_no_figure_of_rates():
    assert "rate_sensitivity" not in figures(report(kinds=1, seeds=2, search=False))


def test_one_run_has_a_point_and_no_bands():
    data = report(kinds=0, seeds=1, search=False, reference=None)
    data["comparisons"][0]["methods"][0] |= {"stable_rank": None, "cost": None}
    for run in data["comparisons"][0]["runs"]:
        run |= {"stable_rank": None, "curves": {}}
    (figure,) = figures(data).values()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["Dense"]
    (bars,) = axes(figure)[0].collections
    assert not any(len(segment) for segment in bars.get_segments())


def diverged():
    data = report(kinds=3, seeds=2)
    (comparison,) = data["comparisons"]
    lost, far = method_of(comparison, "Zigzag ratio=0.1"), method_of(comparison, "DCT ratio=0.05")
    lost |= dict.fromkeys(("mean", "sd", "low", "high", "gap", "tost")) | {"values": [None, None]}
    for run in runs_of(comparison, "Zigzag ratio=0.1"):
        run["value"] = None
        run["curves"]["value"] = [[100, 5.0], [200, None]]
    far |= {"mean": 6.2, "low": -5.0, "high": 17.0}
    far["gap"] |= {"mean": 4.66, "low": -6, "high": 15}
    for run in runs_of(comparison, "DCT ratio=0.05"):
        run["value"] = 6.2
    lost["search"][3]["value"], far["search"][3]["value"] = None, 9.0
    return data


def test_runs_that_diverged_are_arrows_and_squash_nothing():
    found = figures(diverged())
    assert list(found) == NAMES
    for name, count in (
        ("loss_by_parameters", 1),
        ("loss_by_cost", 3),
        ("gaps", 1),
        ("loss_by_stable_rank", 2),
        ("rate_sensitivity", 1),
    ):
        arrows = [line for ax in axes(found[name]) for line in lines(ax, "beyond")]
        assert len(arrows) == count, name
        note = found[name].legends[0].get_title().get_text()
        assert f"{count} value{'s' * (count > 1)} beyond the axis" in note
        (low, high) = (
            axes(found[name])[0].get_xlim() if name == "gaps" else axes(found[name])[0].get_ylim()
        )
        assert high - low < 1.5, name
    assert "1 of the search diverged" in found["rate_sensitivity"].legends[0].get_title().get_text()
    assert "Zigzag ratio=0.1" not in [
        t.get_text() for t in axes(found["gaps"])[0].get_yticklabels()
    ]


@pytest.mark.parametrize(
    "values, ends, better, low, high",
    [
        ([1.5, 1.6, 1.8], (), "lower", 1.5, 1.8),
        ([1.5, 1.6, 6.0], (), "lower", 1.5, 1.6),  # diverged
        ([0.1, 0.2, 0.9], (), "higher", 0.1, 0.9),  # a score
        ([0.1, 0.3, 0.8], (), "lower", 0.1, 0.8),  # losses that differ as much by nature
        ([1.5, None, 1.6], [[1.4, None, 1.5], [1.6, None, 1.7]], "lower", 1.4, 1.7),
        ([1.5, 1.6, 6.0], [[1.4, 1.5, -9], [1.6, 1.7, 20]], "lower", 1.4, 1.7),
        ([1.5, 1.6], [[1.5, -5], [1.5, 8]], "lower", 1.2, 1.9),  # two seeds
        ([1.5], [[1.0], [2.0]], "lower", 1.0, 2.0),
    ],
)
def test_limits(values, ends, better, low, high):
    found = limits(values, ends, better)
    pad = 0.06 * (high - low)
    assert found == pytest.approx((low - pad, high + pad))


def test_no_value_has_no_limits_and_equal_values_have_room():
    assert limits([None, math.nan]) is None
    low, high = limits([2.0, 2.0])
    assert low < 2 < high


def crowded():
    """17 families, most with long names."""
    data = report(kinds=1, seeds=2, budgets=(0.5,))
    (comparison,) = data["comparisons"]
    for i in range(15):
        twin = copy.deepcopy(method_of(comparison, "DCT ratio=0.5"))
        name = (
            f"{'Blockwise' * (i % 5)}Basis{i} ratio=0.5 "
            f"selection=attention.self.query,attention.self.$value$ x{i}"
        )
        twin |= {"method": name, "parameterization": f"{'LongFamily' * (i % 12)}{i}"}
        comparison["methods"].append(twin)
        comparison["runs"] += [
            run | {"method": name} for run in runs_of(comparison, "DCT ratio=0.5")
        ]
    return data


@pytest.mark.parametrize("make", thinned([diverged, crowded], lambda make: make is diverged))
def test_nothing_lies_outside_and_no_legend_covers_data(make):
    for name, figure in figures(make()).items():
        inside(name, figure)
