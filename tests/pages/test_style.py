"""What figures share: legends, axes, names, and files that are the same each time."""

import math
from xml.etree import ElementTree

import matplotlib
import pytest
from every import thinned
from lab_data import analysis, mask

from zoo.pages import style
from zoo.studies.analyze.figures import analysis_figures
from zoo.studies.mask.figures import mask_figures


@pytest.fixture(scope="module")
def data():
    return analysis(groups=2, seeds=3, blocks=3, kinds=2, transforms=("dct", "haar"))


@style.styled
def test_a_long_legend_takes_nothing_from_the_axes():
    heights = []
    for count in (1, 12):
        figure, (ax,) = style.panels("title", 1, 1, 2.0)
        style.legend(figure, [style.key("x" * 60, style.INK)] * count)
        style.png(figure, dpi=50)
        heights.append(ax.get_window_extent().height / figure.dpi)
    assert heights[1] == pytest.approx(heights[0], abs=0.35)


@style.styled
def test_a_legend_has_as_many_columns_as_fit():
    """Its rows are alike: six short entries stand in one row, six longer ones three by three."""
    for label, columns in (("x", 6), ("x" * 25, 3), ("x" * 60, 1)):
        figure, _ = style.panels("title", 1, 1, 2.0)
        style.legend(figure, [style.key(label, style.INK)] * 6)
        assert figure.legends[0]._ncols == columns and len(figure.legends) == 1


VALUES = [
    [0.25, 0.55],
    [1, 1],
    [0.02, 0.9],
    [6e4, 8e6],
    [1e-14, 1],
    [12.6, 14],
    [15],
    [0.3, 4],
    [110, 150],
    [1, 1000],
    [10, 10.1],
]


@pytest.mark.parametrize("values", VALUES)
def test_a_logarithmic_axis_has_a_few_round_ticks(values):
    """One to six within the axis, which has room for all that is drawn and hardly more."""
    ax = style.Figure().subplots()
    ax.plot([*values, 0, math.nan], [0] * (len(values) + 2), "o")
    style.log_axis(ax.xaxis)
    low, high = ax.get_xlim()
    assert ax.get_xscale() == "log" and not ax.get_xticks(minor=True).size
    ticks = [tick for tick in ax.get_xticks() if low <= tick <= high]
    assert 1 <= len(ticks) <= 6
    assert all(float(f"{tick:.4g}") == pytest.approx(tick) for tick in ticks)
    assert low < min(values) <= max(values) < high
    assert high / low < (
        200 if len(set(values)) == 1 else 1.25 * (max(values) / min(values)) ** 1.2
    )


@pytest.mark.parametrize("values", [[], [0, 0], [math.nan]])
def test_an_axis_without_a_value_above_0_stays_linear(values):
    """Of axes that share it, one with a value is enough."""
    top, bottom = style.Figure().subplots(2, sharey=True)
    top.plot(range(len(values)), values)
    style.log_axis(top.yaxis, decades=1)
    assert top.get_yscale() == "linear"
    bottom.plot([1, 2], [1, 2])
    style.log_axis(top.yaxis, decades=1)
    assert bottom.get_yscale() == "log" and bottom.get_ylim()[0] < 1 < 2 < bottom.get_ylim()[1]


def test_what_is_flat_looks_flat_on_an_axis_of_a_decade():
    ax = style.Figure().subplots()
    ax.plot([1, 2], [10, 10.1])
    style.log_axis(ax.yaxis, decades=1)
    low, high = ax.get_ylim()
    assert high / low == pytest.approx(10) and low * high == pytest.approx(101)


def test_ticks_of_values_are_labelled_where_there_is_room():
    ax = style.Figure().subplots()
    style.log_ticks(ax, [100, 1, 10, 98, 10])
    assert ax.get_xticks().tolist() == [1, 10, 98, 100]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "10", "", "100"]
    style.log_ticks(ax, [64])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["64"]


@pytest.mark.parametrize("count", thinned([2, 8], 2))
def test_files_are_png_and_svg_with_the_same_bytes_each_time(count, tmp_path, data):
    found = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for name, figure in list(analysis_figures(data).items())[:count]:
            drawing = style.save(figure, tmp_path / folder / f"v1.5_{name}")
            assert drawing == (tmp_path / folder / f"v1.5_{name}.svg").read_bytes()
        found.append({path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()})
    assert found[0] == found[1] and len(found[0]) == 2 * count
    for name, content in found[0].items():
        if name.endswith(".svg"):
            assert ElementTree.fromstring(content).tag == "{http://www.w3.org/2000/svg}svg"
            assert b"<dc:date>" not in content
        else:
            assert content.startswith(b"\x89PNG\r\n\x1a\n")
    # Text, not outlines.
    assert b">share of the energy<" in found[0]["v1.5_cumulative_energy_cola-minilm-lora.svg"]


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
        root = ElementTree.fromstring(style.svg(figure))
    shown = [
        text.get_text() for text in mask_figures(data)["score_by_budget_all"].legends[0].get_texts()
    ]
    assert len(shown) == 2 and "\x07" not in shown[1]
    assert any("_$\\frac{$ / $x$ <b>&" in text for text in root.itertext())  # as it is


def test_wrapped_breaks_at_blanks_first():
    assert style.wrapped("ab / cd-ef_gh ij", 9) == "ab /\ncd-ef_gh\nij"
    assert style.wrapped("ab long-name-of", 8) == "ab long-\nname-of"


@pytest.mark.parametrize(
    "text", ["CoLA / minilm / LoRA of rank 8, all of the layers", "x" * 70, "a.b-c_d" * 9, ""]
)
def test_wrapped_keeps_all_signs_in_lines_of_a_width(text):
    found = style.wrapped(text, 20)
    assert all(len(line) <= 20 for line in found.split("\n"))
    assert "".join(found.split()) == "".join(text.split())
