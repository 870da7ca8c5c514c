"""Figures of a coordinate check show the numbers they are given."""

import numpy as np
import pytest
from lab_figures import axes, inside, lines

from zoo.pages.page import finite
from zoo.pages.style import svg
from zoo.studies.coordinates.figures import SHOWN, STEPS, coordinates_figures
from zoo.studies.coordinates.page import coordinates_page
from zoo.studies.coordinates.rebuild import PATHS
from zoo.studies.coordinates.sizes import (
    BLOCKS,
    LAST,
    LAYERS,
    LOGITS,
    OUTPUTS,
    SIZE_MEASURES,
    WEIGHTS,
    slopes,
)

NAMES = ["Dense", "DCT", "my_file.MyBasis"]


def report(names=NAMES, widths=(64, 128, 256, 512, 1024), depths=(2, 4, 8, 12), steps=4):
    """A coordinates.json of sizes that follow power laws."""
    draw = np.random.default_rng(0)
    grid = dict.fromkeys([*((w, 4) for w in widths), *((128, d) for d in depths)])
    cells = []
    for name in names:
        for width, depth in grid:
            for step in range(steps + 1):
                for group in (LAYERS, BLOCKS, LAST, LOGITS, "mlp.fc"):
                    sizes = {
                        q: float(draw.uniform(1, 2) * 1e-3 * width * depth**0.5)
                        for q in (*WEIGHTS, *OUTPUTS)
                    }
                    cells.append(
                        {
                            "parameterization": name,
                            "width": width,
                            "depth": depth,
                            "step": step,
                            "group": group,
                            **sizes,
                        }
                    )
    rebuilt = [
        {
            "parameterization": name,
            "size": n,
            **dict.fromkeys(PATHS, 1e-3),
            "float32": 1e-7 * n**0.1,
            "bases": None if name == "my_file.MyBasis" else 4e-3,
        }
        for name in names
        if name != "Dense"
        for n in (64, 512, 4096)
    ]
    return {
        "parameterizations": list(names),
        "widths": list(widths),
        "depths": list(depths),
        "steps": steps,
        "at": {"width": 128, "depth": 4, "head": 32},
        "cells": cells,
        "rebuild": rebuilt,
        "seeds": 1,
        "slopes": slopes(cells, 128, 4, steps),
        "ratio": 0.1,
        "lr": 1e-3,
        "optimizer": {"name": "adamw"},
        "task": "CharLM",
        "data": "<text>",
        "precision": "32-true",
        "zoo": "0",
        "date": "today",
        "command": "zoo coordinates",
        "device": "CPU",
        "threads": 1,
        "seconds": 1.0,
    }


@pytest.fixture(scope="module")
def data():
    return report()


@pytest.fixture(scope="module")
def figures(data):
    return coordinates_figures(data)


def test_which_there_are(figures):
    assert list(figures) == ["by_width", "coordinate_check", "by_depth", "rebuild_error"]
    assert list(coordinates_figures(report(["Dense"], depths=(4,)))) == [
        "by_width",
        "coordinate_check",
    ]
    assert not {*SHOWN, *STEPS} - {measure.label for measure in SIZE_MEASURES}


@pytest.mark.parametrize("along, other, at", [("width", "depth", 4), ("depth", "width", 128)])
def test_sizes_against_width_and_depth(data, figures, along, other, at):
    measures = {measure.label: measure for measure in SIZE_MEASURES}
    for ax in axes(figures[f"by_{along}"]):
        measure = measures[ax.get_title("left")]
        assert (
            ax.get_xscale() == ax.get_yscale() == "log"
            and ax.get_xticks().tolist() == data[f"{along}s"]
        )
        for name in NAMES:
            step = 4 if measure.step is None else measure.step
            own = {
                c[along]: c[measure.quantity]
                for c in data["cells"]
                if c[other] == at
                and c["step"] == step
                and (c["parameterization"], c["group"]) == (name, measure.group)
            }
            (line,) = lines(ax, name)
            assert dict(zip(line.get_xdata(), line.get_ydata(), strict=True)) == own
            assert list(line.get_xdata()) == data[f"{along}s"]
    ax.figure.draw_without_rendering()
    low, high = ax.get_ylim()
    assert high / low > 10


def test_what_nothing_has_is_not_shown(data):
    """Muon has no second moment."""
    cells = [cell | {"second_moment": None} for cell in data["cells"]]
    figure = coordinates_figures(data | {"cells": cells})["by_width"]
    shown = {ax.get_title("left") for ax in axes(figure)}
    assert shown == {*SHOWN} - {"second moment"}


def test_the_check_has_a_line_for_each_step(data, figures):
    panels = axes(figures["coordinate_check"])
    assert len(panels) == 3 * len(NAMES)
    for i, name in enumerate(NAMES):
        for step in range(1, 5):
            (line,) = lines(panels[3 * i + 2], str(step))
            assert list(line.get_ydata()) == [
                c["moved"]
                for c in data["cells"]
                if c["depth"] == 4
                and c["step"] == step
                and (c["parameterization"], c["group"]) == (name, LOGITS)
            ]


def test_errors_of_rebuilt_matrices(data, figures):
    panels = {ax.get_title("left"): ax for ax in axes(figures["rebuild_error"])}
    for name in NAMES[1:]:
        for path in PATHS:
            (line,) = lines(panels[name], path)
            own = [row[path] for row in data["rebuild"] if row["parameterization"] == name]
            assert [None if np.isnan(y) else y for y in line.get_ydata()] == own


@pytest.mark.slow
def test_nothing_lies_outside(figures):
    for name, figure in figures.items():
        inside(name, figure)


def test_the_page_says_what_grows(data, figures):
    page = coordinates_page(finite(data), {name: svg(figure) for name, figure in figures.items()})
    assert "&lt;text&gt;" in page and page.count("<figure") == 4
    (row,) = [
        s
        for s in data["slopes"]
        if (s["along"], s["parameterization"], s["measure"], s["group"])
        == ("width", "DCT", "update", LAYERS)
    ]
    assert row["reading"] == "grows"
    assert f'{row["slope"]:.2f} ± {row["error"]:.2f} <span class="word some">grows</span>' in page
    # Of all layers and of a kind; width and depth.
    assert page.count('<td class="left">update</td>') == 2 * 2
