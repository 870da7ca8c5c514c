"""Figures show the numbers they are given, beside their null; files are the same each time."""

import math
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from lab_data import KINDS, analysis, mask

from zoo.lab import style
from zoo.lab.figures import analysis_figures, mask_figures, slug
from zoo.spectrum import GAUSSIAN


@pytest.fixture(scope="module")
def data():
    return analysis(groups=2, seeds=3, blocks=3, kinds=2, transforms=("dct", "haar"))


@pytest.fixture(scope="module")
def figures(data):
    return analysis_figures(data)


@pytest.fixture(scope="module")
def masks():
    return mask(groups=2, transforms=("dct", "haar"))


@pytest.fixture(scope="module")
def masked(masks):
    return mask_figures(masks)


def lines(ax, label):
    return [line for line in ax.lines if line.get_label() == label]


def axes(figure):
    """Those with data, not colour bars."""
    return [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]


def words(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


# ---- zoo analyze -----------------------------------------------------------------------------------------------------


def test_names(figures):
    groups = ("cola-minilm-lora", "rte-minilm-lora")
    per_group = [f"{name}_{g}" for name in ("cumulative_energy", "k90_heatmap", "singular_values") for g in groups]
    assert list(figures) == ["k90_by_task", *per_group, "rank_against_loss"]
    assert "k90_heatmap" in analysis_figures(analysis(groups=1, seeds=1, blocks=2))


def test_groups_whose_names_differ_in_signs_alone_keep_their_figures(data):
    twins = [{**group, "group": name} for group, name in zip(data["groups"], ("a/b", "a b"), strict=True)]
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
        assert np.allclose(null.get_ydata(), np.mean([m["curves"]["dct"]["null_magnitude"] for m in own], 0))
        assert len({above.get_color() for above in top[i].lines}) == len(own) + 1


def test_heatmap_is_the_mean_over_runs_and_its_difference_from_the_null():
    data = analysis(groups=1, seeds=3, blocks=4, kinds=3)
    data["runs"][0]["matrices"] = [m for m in data["runs"][0]["matrices"] if m["kind"] != KINDS[2]]
    left, right = axes(analysis_figures(data)["k90_heatmap"])
    for ax, of in ((left, lambda k: k["value"]), (right, lambda k: k["value"] - k["null"])):
        shown = ax.collections[0].get_array()
        for i in range(4):
            for j, kind in enumerate(KINDS[:3]):
                ms = [m for r in data["runs"] for m in r["matrices"] if (m["block"], m["kind"]) == (i, kind)]
                assert len(ms) == (2 if j == 2 else 3)
                assert shown[i, j] == pytest.approx(np.mean([of(m["spectra"]["dct"]["k90"]) for m in ms]))
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
        gaussian = [{k: np.array(v) / m["norm"] for k, v in m["gaussian_singular_values"].items()} for m in own]
        mean, sd = (np.mean([g[key] for g in gaussian], 0) for key in ("mean", "sd"))
        assert np.allclose(null.get_ydata(), mean)
        corners = band.get_paths()[0].vertices
        for edge in np.concatenate([mean - sd, mean + sd]):
            assert np.isclose(corners[:, 1], edge).any()


def test_singular_values_of_matrices_of_other_ranks():
    data = analysis(groups=1, seeds=1, blocks=2, kinds=1)
    short, long = data["runs"][0]["matrices"]
    short["singular_values"] = short["singular_values"][:3]
    short["gaussian_singular_values"] = {k: v[:3] for k, v in short["gaussian_singular_values"].items()}
    (ax,) = axes(analysis_figures(data)["singular_values"])
    (null,) = lines(ax, "null")
    assert len(null.get_ydata()) == 8
    assert null.get_ydata()[7] == pytest.approx(long["gaussian_singular_values"]["mean"][7] / long["norm"])


def test_rank_against_loss_has_panels_for_each_task(data, figures):
    panels = axes(figures["rank_against_loss"])
    expected = [("cola", "loss"), ("cola", "score"), ("rte", "loss"), ("rte", "score")]
    for ax, (task, field) in zip(panels, expected, strict=True):
        assert ax.get_title("left") == task
        (line,) = ax.lines
        runs = [run for run in data["runs"] if run["task"] == task]
        assert line.get_xdata().tolist() == [run["averages"]["run"]["all"]["stable_rank"] for run in runs]
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


@pytest.mark.parametrize("groups, seeds, blocks, kinds, transforms", [
    (1, 1, 1, 2, ("dct",)), (5, 3, 2, 2, ("dct", "fourier", "hadamard", "haar")), (1, 1, 48, 12, ("dct",)),
])  # fmt: skip
def test_nothing_lies_outside_a_figure(groups, seeds, blocks, kinds, transforms):
    data = analysis(groups, seeds, blocks, kinds, transforms)
    for name, figure in analysis_figures(data).items():
        inside(name, figure)


def inside(name, figure):
    style.png(figure, dpi=50)
    box = figure.bbox
    for ax in figure.axes:
        tight = ax.get_tightbbox()
        if tight is not None:
            assert tight.x0 >= -1 and tight.y0 >= -1 and tight.x1 <= box.x1 + 1 and tight.y1 <= box.y1 + 1, name
    (legend,) = figure.legends or [None]
    if legend is not None:
        bottom = min(tight.y0 for ax in figure.axes if (tight := ax.get_tightbbox()) is not None)
        assert legend.get_window_extent().y1 <= bottom + 1, f"{name}: the legend covers axes"
        assert legend.get_window_extent().y0 >= -1


# ---- zoo mask --------------------------------------------------------------------------------------------------------


def test_mask_names(masked):
    names = ["score_by_budget_cola-minilm-lora", "score_by_budget_rte-minilm-lora", "score_by_budget_all"]
    assert list(masked) == [*names, "energy_by_budget", "bytes_by_score"]
    assert list(mask_figures(mask(groups=1))) == ["score_by_budget", "energy_by_budget", "bytes_by_score"]


def test_score_by_budget(masks, masked):
    group = masks["groups"][1]
    for ax, transform in zip(axes(masked["score_by_budget_rte-minilm-lora"]), masks["transforms"], strict=True):
        assert ax.get_title("left") == transform and ax.get_xscale() == "log"
        assert ax.get_xticks().tolist() == masks["budgets"]
        (unmasked,) = lines(ax, "unmasked")
        assert unmasked.get_ydata()[0] == group["unmasked"]["mean"]
        for order in masks["orders"]:
            points = [p for p in group["points"] if (p["transform"], p["order"]) == (transform, order)]
            (line,) = lines(ax, order)
            assert line.get_xdata().tolist() == [p["budget"] for p in points]
            assert line.get_ydata().tolist() == [p["mean"] for p in points]
            (filled,), (open_,) = lines(ax, f"{order}, filled"), lines(ax, f"{order}, open")
            significant = [p["budget"] for p in points if p["p_holm"] is not None and p["p_holm"] < 0.05]
            assert filled.get_xdata().tolist() == significant
            assert sorted([*open_.get_xdata(), *significant]) == masks["budgets"]
            assert 0 < len(significant) < len(points)
            assert filled.get_markerfacecolor() == line.get_color() != open_.get_markerfacecolor()
        bands = [band.get_paths()[0].vertices[:, 1] for band in ax.collections]
        for order, band in zip(masks["orders"], bands, strict=True):
            points = [p for p in group["points"] if (p["transform"], p["order"]) == (transform, order)]
            assert band.min() == pytest.approx(min(p["mean"] - p["sd"] for p in points))
            assert band.max() == pytest.approx(max(p["mean"] + p["sd"] for p in points))
        (span,) = ax.patches
        assert span.get_height() == pytest.approx(2 * group["unmasked"]["sd"])


def test_one_run_has_no_band_and_no_test():
    figure = mask_figures(mask(groups=1, seeds=1))["score_by_budget"]
    (ax,) = axes(figure)
    assert not lines(ax, "magnitude, filled")[0].get_xdata().size
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [*mask()["orders"], "unmasked"]


def test_score_by_budget_all_is_relative_to_unmasked(masks, masked):
    (ax,) = axes(masked["score_by_budget_all"])
    for group in masks["groups"]:
        points = [p for p in group["points"] if (p["transform"], p["order"]) == ("dct", "magnitude")]
        (line,) = lines(ax, group["group"])
        assert np.allclose(line.get_ydata(), [p["mean"] / group["unmasked"]["mean"] for p in points])
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
                own = [[p["energy"] for p in run["points"] if (p["transform"], p["order"]) == (transform, order)]
                       for run in runs]  # fmt: skip
                assert np.allclose(line.get_ydata(), np.mean(own, 0))


def test_bytes_by_score(masks, masked):
    for ax, group in zip(axes(masked["bytes_by_score"]), masks["groups"], strict=True):
        runs = [run for run in masks["runs"] if run["group"] == group["group"]]
        (dense,), (trained,) = lines(ax, "dense"), lines(ax, "trained")
        assert (dense.get_xdata()[0], trained.get_xdata()[0]) == (7077888, 294912)
        points = [p for p in runs[0]["points"] if (p["transform"], p["order"]) == ("dct", "magnitude")]
        (line,) = lines(ax, "magnitude")
        assert line.get_xdata().tolist() == [p["bytes"]["values"] + p["bytes"]["places"] for p in points]
        means = [np.mean([run["points"][i]["value"] for run in runs]) for i in range(len(points))]
        assert np.allclose(line.get_ydata(), means)


@pytest.mark.parametrize("groups, transforms", [(1, ("dct",)), (5, ("dct", "fourier", "hadamard", "haar"))])
def test_nothing_of_a_mask_lies_outside(groups, transforms):
    for name, figure in mask_figures(mask(groups, 2, transforms)).items():
        inside(name, figure)


def test_budget_labels_do_not_crowd():
    budgets = tuple(range(1, 101, 3))
    (ax,) = axes(mask_figures(mask(groups=1, seeds=1, budgets=budgets))["score_by_budget"])
    labels = [float(text.get_text()) for text in ax.get_xticklabels() if text.get_text()]
    assert len(ax.get_xticks()) == len(budgets) and 5 < len(labels) < 20
    assert min(np.diff(np.log(labels))) > 0.04 * np.log(100)


def test_a_long_legend_takes_nothing_from_the_axes():
    heights = []
    for count in (1, 12):
        figure, (ax,) = style.panels("title", 1, 1, 2.0)
        style.legend(figure, [style.key("x" * 60, style.INK)] * count)
        style.png(figure, dpi=50)
        heights.append(ax.get_window_extent().height / figure.dpi)
    assert heights[1] == pytest.approx(heights[0], abs=0.35)


@pytest.mark.parametrize("values, ticks", [
    ([0.25, 0.55], [0.3, 0.4, 0.5, 0.6]), ([1, 1], [0.9, 1]), ([0.02, 0.9], [0.03, 0.1, 0.3, 1]),
    ([6e4, 8e6], [1e5, 3e5, 1e6, 3e6]), ([1e-14, 1], [1e-14, 1e-11, 1e-8, 1e-5, 1e-2]), ([0, math.nan, 2], [2]),
])  # fmt: skip
def test_log_ticks_are_few_and_round(values, ticks):
    ax = style.Figure().subplots()
    style.log_ticks(ax, values)
    assert ax.get_xticks() == pytest.approx(ticks)
    low, high = ax.get_xlim()
    assert all(low < value < high for value in values if value > 0)


# ---- Files -----------------------------------------------------------------------------------------------------------


def test_files_are_png_and_svg_with_the_same_bytes_each_time(tmp_path, data):
    found = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for name, figure in analysis_figures(data).items():
            drawing = style.save(figure, tmp_path / folder / f"v1.5_{name}")
            assert drawing == (tmp_path / folder / f"v1.5_{name}.svg").read_bytes()
        found.append({path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()})
    assert found[0] == found[1] and len(found[0]) == 16
    for name, content in found[0].items():
        if name.endswith(".svg"):
            assert ElementTree.fromstring(content).tag == "{http://www.w3.org/2000/svg}svg"
            assert b"<dc:date>" not in content
        else:
            assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert b">share of the energy<" in found[0]["v1.5_cumulative_energy_cola-minilm-lora.svg"]  # text, not outlines


def test_drawing_changes_no_setting_of_matplotlib(data):
    before = dict(matplotlib.rcParams)
    style.svg(analysis_figures(data)["k90_by_task"])
    assert dict(matplotlib.rcParams) == before


def test_names_are_no_formulas_and_no_markup():
    data = mask(groups=2, seeds=1)
    for group, name in zip(data["groups"], ("_$\\frac{$ / $x$ <b>&", "\x07plain"), strict=True):
        for run in data["runs"]:
            run["group"] = name if run["group"] == group["group"] else run["group"]
        group["group"] = name
    for figure in mask_figures(data).values():
        ElementTree.fromstring(style.svg(figure))
    shown = [text.get_text() for text in mask_figures(data)["score_by_budget_all"].legends[0].get_texts()]
    assert len(shown) == 2 and "_\\$\\frac{\\$" in shown[0] and "\x07" not in shown[1]


# ---- Words -----------------------------------------------------------------------------------------------------------


def test_short_names():
    names = ["a.self.query", "a.self.key", "a.output.dense", "output.dense", "mlp.dense"]
    assert list(style.short_names(names).values()) == ["query", "key", "a.output.dense", "output.dense", "mlp.dense"]
    assert style.short_names(["x.dense", "y.dense"]) == {"x.dense": "x.dense", "y.dense": "y.dense"}


def test_wrapped_breaks_at_blanks_first():
    assert style.wrapped("ab / cd-ef_gh ij", 9) == "ab /\ncd-ef_gh\nij"
    assert style.wrapped("ab long-name-of", 8) == "ab long-\nname-of"


@pytest.mark.parametrize("text", ["CoLA / minilm / LoRA of rank 8, all of the layers", "x" * 70, "a.b-c_d" * 9, ""])
def test_wrapped_keeps_all_signs_in_lines_of_a_width(text):
    found = style.wrapped(text, 20)
    assert all(len(line) <= 20 for line in found.split("\n"))
    assert "".join(found.split()) == "".join(text.split())


@pytest.mark.parametrize("count, words", [
    (0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1500, "1.5 kB"), (294912, "294.9 kB"), (10**6, "1 MB"),
    (7077888, "7.1 MB"), (5 * 10**12, "5000 GB"),
])  # fmt: skip
def test_human_bytes(count, words):
    assert style.human_bytes(count) == words
