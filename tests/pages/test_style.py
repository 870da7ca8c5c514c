"""What figures share: legends, axes, names, and files that are the same each time."""

import math
from xml.etree import ElementTree

import matplotlib
import pytest
from lab_data import analysis, mask

from zoo.pages import style
from zoo.studies.analyze.figures import analysis_figures
from zoo.studies.mask.figures import mask_figures


@pytest.fixture(scope="module")
def data():
    return analysis(groups=2, seeds=3, blocks=3, kinds=2, transforms=("dct", "haar"))


def test_a_long_legend_takes_nothing_from_the_axes():
    heights = []
    for count in (1, 12):
        figure, (ax,) = style.panels("title", 1, 1, 2.0)
        style.legend(figure, [style.key("x" * 60, style.INK)] * count)
        style.png(figure, dpi=50)
        heights.append(ax.get_window_extent().height / figure.dpi)
    assert heights[1] == pytest.approx(heights[0], abs=0.35)


@pytest.mark.parametrize(
    "values, ticks",
    [
        ([0.25, 0.55], [0.3, 0.4, 0.5, 0.6]),
        ([1, 1], [0.9, 1]),
        ([0.02, 0.9], [0.03, 0.1, 0.3, 1]),
        ([6e4, 8e6], [1e5, 3e5, 1e6, 3e6]),
        ([1e-14, 1], [1e-14, 1e-11, 1e-8, 1e-5, 1e-2]),
        ([0, math.nan, 2], [2]),
    ],
)
def test_log_ticks_are_few_and_round(values, ticks):
    ax = style.Figure().subplots()
    style.log_ticks(ax, values)
    assert ax.get_xticks() == pytest.approx(ticks)
    low, high = ax.get_xlim()
    assert all(low < value < high for value in values if value > 0)


@pytest.mark.parametrize("values", [[12.6, 14], [15], [0.3, 4], [110, 150], [1, 1000], [10, 10.1]])
def test_a_logarithmic_axis_has_a_tick(values):
    ax = style.Figure().subplots()
    style.log_ticks(ax, [*values, 0, math.nan])
    low, high = ax.get_xlim()
    assert (
        any(low <= tick <= high for tick in ax.get_xticks())
        and low < min(values) <= max(values) < high
    )
    assert high / low < max(2.1, 1.5 * max(values) / min(values))


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
    assert (
        b">share of the energy<" in found[0]["v1.5_cumulative_energy_cola-minilm-lora.svg"]
    )  # text, not outlines


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
    shown = [
        text.get_text() for text in mask_figures(data)["score_by_budget_all"].legends[0].get_texts()
    ]
    assert len(shown) == 2 and "_\\$\\frac{\\$" in shown[0] and "\x07" not in shown[1]


def test_short_names():
    names = ["a.self.query", "a.self.key", "a.output.dense", "output.dense", "mlp.dense"]
    assert list(style.short_names(names).values()) == [
        "query",
        "key",
        "a.output.dense",
        "output.dense",
        "mlp.dense",
    ]
    assert style.short_names(["x.dense", "y.dense"]) == {"x.dense": "x.dense", "y.dense": "y.dense"}


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


@pytest.mark.parametrize(
    "count, words",
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1500, "1.5 kB"),
        (294912, "294.9 kB"),
        (10**6, "1 MB"),
        (7077888, "7.1 MB"),
        (5 * 10**12, "5000 GB"),
    ],
)
def test_human_bytes(count, words):
    assert style.human_bytes(count) == words
