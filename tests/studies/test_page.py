"""Pages are well-formed, hold every number and verdict, load nothing, and run nothing that a file
says.
"""

import json
import math
import re

import pandas as pd
import pytest
from html_reader import read
from jinja2 import UndefinedError
from lab_data import analysis, mask
from markupsafe import Markup

from zoo.pages import numbers, style
from zoo.pages.html import ENVIRONMENT, drawing
from zoo.pages.numbers import interval, typeset
from zoo.pages.page import finite, write_report
from zoo.pages.table import Cell, Column, Table
from zoo.studies.analyze.figures import analysis_figures
from zoo.studies.analyze.page import analysis_page
from zoo.studies.mask.figures import mask_figures
from zoo.studies.mask.page import mask_page


def decimals(*given):
    """A number as a page shows it."""
    return typeset(numbers.decimals(*given))


def plus_minus(*given):
    return typeset(numbers.plus_minus(*given))


def p_value(p):
    return typeset(numbers.p_value(p))


def report(data, figures, page):
    return page(data, {name: style.svg(figure) for name, figure in figures(data).items()})


@pytest.fixture(scope="module")
def data():
    return analysis(groups=2, seeds=2, blocks=2)


@pytest.fixture(scope="module")
def page(data):
    return report(data, analysis_figures, analysis_page)


@pytest.fixture(scope="module")
def masks():
    return mask(groups=2, transforms=("dct", "haar"))


@pytest.fixture(scope="module")
def masks_page(masks):
    return report(masks, mask_figures, mask_page)


def test_pages_are_well_formed_and_need_nothing_else(page, masks_page):
    for content in (page, masks_page):
        reader = read(content)
        assert len(reader.ids) == len(set(reader.ids)) > 50  # of what a drawing refers to
        outside = {
            reference
            for reference in reader.references
            if not reference.startswith("data:image/png;base64,")
        }
        assert {reference.removeprefix("#") for reference in outside} <= set(reader.ids)
        assert not {"script", "link", "iframe", "object", "img", "base"} & set(reader.tags)
        assert "http:" not in content and "https:" not in content and "@import" not in content
        assert content.count("prefers-color-scheme: dark") == 1


def test_figures_take_the_colours_of_the_page(page, masks_page):
    for content in (page, masks_page):
        body = content.split("</style>", 1)[1]
        for colour, name in ((style.INK, "ink"), (style.SURFACE, "surface"), (style.GRID, "grid")):
            assert colour not in body and f"var(--{name})" in body
            assert f"--{name}: {colour}" in content
        assert style.PALETTE[0] in body


def test_verdicts_come_first_and_in_words(data, page):
    """Of groups, and of their runs one by one."""
    words = "".join(read(page).words)
    assert words.index("Verdicts") < words.index("Groups") < words.index("Figures")
    groups, runs = (
        [v for found in data[key] for v in found["verdicts"].values()] for key in ("groups", "runs")
    )
    # Groups: in words too.
    shown = 2 * sum(v["structured"] for v in groups) + sum(v["structured"] for v in runs)
    assert page.count('class="word yes"') == shown > 0
    for name, found in [("group", data["groups"]), ("name", data["runs"])]:
        for each in found:
            assert each[name] in words
            assert all(verdict["words"] in words for verdict in each["verdicts"].values())
    assert "p < 0.0001" in words and "p = 0.41" in words


def test_structure_that_shuffling_leaves_is_not_called_one_of_frequency():
    content = analysis_page(analysis(groups=2, seeds=3, blocks=1, transforms=("dct",)), {})
    words = {
        "word yes": "structured",
        "word some": "structured, not by frequency",
        "word": "no structure beyond the null",
    }
    shown = [content.count(f'<span class="{css}">{word}</span>') for css, word in words.items()]
    assert shown == [4, 1, 5]  # two groups in the table and in words, six runs: two, one and three


def test_a_run_that_is_its_group_is_judged_once():
    assert "one by one" in analysis_page(analysis(groups=1, seeds=2, blocks=1), {})
    assert "one by one" not in analysis_page(analysis(groups=2, seeds=1, blocks=1), {})


def test_every_number_of_the_analysis_is_on_its_page(data, page):
    words = "".join(read(page).words)
    for group in data["groups"]:
        for spectra in group["spectra"].values():
            for found in spectra.values():
                assert plus_minus(found["mean"], found["sd"]) in words
                assert plus_minus(found["null"], found["null_sd"]) in words
    for run in data["runs"]:
        for matrix in run["matrices"]:
            assert matrix["layer"] in words and "384 × 384" in words
            for spectra in matrix["spectra"].values():
                for found in spectra.values():
                    for field in ("value", "null", "shuffled"):
                        assert decimals(found[field]) in words
        for sets in run["averages"].values():
            for average in sets.values():
                assert decimals(average["effective_rank"], 2) in words
    assert "0.910 [0.870, 0.940]" in words and "0.905 ± 0.010" in words and "−0.430" in words
    for fact in ("zoo 0.1.0", "2026-05-20", "cpu", "41.5 s", "zoo analyze runs/*"):
        assert fact in words


def test_every_number_of_a_mask_is_on_its_page(masks, masks_page):
    words = "".join(read(masks_page).words)
    for group in masks["groups"]:
        for point in group["points"]:
            assert plus_minus(point["mean"], point["sd"], 4) in words
            assert decimals(point["difference"], 4) in words and decimals(point["t"], 2) in words
            assert p_value(point["p_holm"]) in words
    for run in masks["runs"]:
        assert run["path"] in words
        for point in run["points"]:
            assert (
                f"{point['bytes']['values']:,}" in words
                and f"{point['bytes']['places']:,}" in words
            )
    assert "7,077,888 bytes" in words and "294,912 bytes" in words and "3,080 bytes" in words
    assert "rice" in words and "seed" in words
    significant = [
        p
        for g in masks["groups"]
        for p in g["points"]
        if p["p_holm"] is not None and p["p_holm"] < 0.05
    ]
    assert masks_page.count("<td><strong>") == len(significant) > 0


def test_bytes_of_a_group_are_means_over_its_runs():
    data = mask(groups=1, seeds=2)
    for run, places in zip(data["runs"], (1000, 3000), strict=True):
        run["points"][0]["bytes"] = {
            "values": 70000,
            "places": places,
            "encoding": f"e{places}",
            "file": places,
        }
    words = read(mask_page(data, {})).words
    assert "2,000" in words and "e1000, e3000" in words and "72 kB" in words
    assert decimals(72000 / 294912, 2) in words


def test_names_are_escaped():
    evil = "<script>alert('x')</script>&\""
    names = ("cola-minilm-lora-s0", "CoLA / minilm / LoRA")
    analysed = json.loads(
        json.dumps(analysis(groups=1, seeds=1, blocks=1)),
        object_hook=lambda d: {k: evil if v in names else v for k, v in d.items()},
    )
    analysed["command"] = evil
    analysed["runs"][0]["notes"] = [evil]
    analysed["runs"][0]["matrices"][0] |= {"layer": evil, "kind": evil}
    analysed["runs"][0]["verdicts"]["dct"]["words"] = evil
    content = report(analysed, analysis_figures, analysis_page)
    assert "script" not in read(content).tags and "<script" not in content
    assert "".join(read(content).words).count(evil) > 10
    masked = mask(groups=1, seeds=1)
    masked["groups"][0]["group"] = masked["runs"][0]["group"] = masked["runs"][0]["path"] = evil
    masked["groups"][0]["metric"] = masked["runs"][0]["points"][0]["bytes"]["encoding"] = evil
    content = report(masked, mask_figures, mask_page)
    assert "script" not in read(content).tags and "<script" not in content


def test_ids_of_two_figures_do_not_clash():
    use = b'<use xlink:href="#a" clip-path="url(#a)"/>id="a"'
    one = b'<?xml?><svg viewBox="0 0 1 1"><defs><path id="a"/></defs>' + use + b"</svg>"
    both = drawing("x", one, "") + drawing("y", one, "")
    assert read(both).ids == ["x-a", "y-a"]
    assert read(both).references == ["#x-a", "#x-a", "#y-a", "#y-a"]
    assert 'id="a"' in "".join(read(both).words)


def test_a_caption_stands_under_the_first_figure_of_its_kind(masks_page):
    assert (
        len(re.findall("<figure>", masks_page)) == 5
        and len(re.findall("<figcaption>", masks_page)) == 4
    )
    first, second = (masks_page.index(f'aria-label="score_by_budget_{g}') for g in ("cola", "rte"))
    assert first < masks_page.index("<figcaption>Score of the network") < second


def rendered(source, **values):
    return ENVIRONMENT.from_string(source).render(**values)


def test_text_is_escaped_once_and_markup_never():
    assert rendered("<i>{{ words }}</i>", words="a<b") == "<i>a&lt;b</i>"
    assert rendered("{{ words }}", words=Markup("<br>")) == "<br>"
    with pytest.raises(UndefinedError):
        rendered("{{ wrods }}")


def test_cells_of_a_table():
    """Escaped, set off, over others and as words; numbers are typeset, and words are not."""
    cells = [Cell("-1 <", ["-2"], strong=True), Cell("-1 <", ["-2 >"]), "-", Cell("x", mark="word")]
    columns = [Column(str(i), lambda row, i=i: cells[i], left=i == 1) for i in range(4)]
    shown = rendered(
        '{% from "pages/templates/macros.html.j2" import table %}{{ table(shown) }}',
        shown=Table(pd.DataFrame({"a": [1]}), columns, "<caption>"),
    )
    words = [
        "<td><strong>−1 &lt;</strong><br><small>−2</small></td>",
        '<td class="left">-1 &lt;<br><small>-2 &gt;</small></td>',
        "<td>–</td>",
        '<td><span class="word">x</span></td>',
    ]
    assert re.findall("<td.*?</td>", shown, re.S) == words and "&lt;caption&gt;" in shown


@pytest.mark.parametrize(
    "value, words", [(None, "–"), (math.nan, "–"), (-0.5, "−0.500"), (2, "2.000")]
)
def test_decimals(value, words):
    assert decimals(value) == words
    assert numbers.decimals(value).isascii()


@pytest.mark.parametrize(
    "text, shown",
    [
        ("[-0.5, -.25] (-1)", "[−0.5, −.25] (−1)"),
        ("1e-05, 2026-05-20 a-1 x=-1", "1e-05, 2026-05-20 a-1 x=-1"),
        ("0.5 +- 0.1, by -3 %", "0.5 ± 0.1, by −3 %"),
        ("- 1", "- 1"),
    ],
)
def test_signs_of_numbers_are_typeset_and_hyphens_are_not(text, shown):
    assert typeset(text) == shown


def test_intervals_and_what_they_miss():
    assert interval(-1, 2, 1, "+", ",") == "[-1.0,+2.0]" and interval(0, 1) == "[0.000, 1.000]"
    assert interval(None, 1) == interval(0, math.nan) == interval(-math.inf, 0) == ""


@pytest.mark.parametrize(
    "p, words", [(None, "–"), (0, "< 0.0001"), (9e-5, "< 0.0001"), (0.0123, "0.0123")]
)
def test_p_value(p, words):
    assert p_value(p) == words


def test_a_report_is_strict_json_a_page_and_figures(tmp_path, masks):
    data = {**masks, "seconds": 1.0, "odd": [math.nan, math.inf, (1, -math.inf)]}
    files = write_report(tmp_path, "mask", data, mask_figures(data), mask_page)
    assert (
        sorted(files) == sorted(path for path in tmp_path.rglob("*") if path.is_file())
        and len(files) == 12
    )

    def refuse(constant):
        raise AssertionError(constant)

    stored = json.loads((tmp_path / "mask.json").read_text(), parse_constant=refuse)
    listed = sorted(path.relative_to(tmp_path).as_posix() for path in files)
    assert stored == {**masks, "seconds": 1.0, "odd": [None, None, [1, None]], "files": listed}
    assert (tmp_path / "mask.html").read_text() == report(finite(data), mask_figures, mask_page)
    assert {path.name for path in (tmp_path / "figures").glob("*.png")} == {
        f"{n}.png" for n in mask_figures(masks)
    }


def test_missing_values_are_dashes():
    data = analysis(groups=1, seeds=1, blocks=1)
    data["groups"][0] |= {"loss": None, "score": None}
    data["runs"][0]["matrices"][0]["spectra"]["dct"]["k90"] |= {"z": None, "p": 0.0, "value": None}
    assert "–" in read(analysis_page(data, {})).words
    one = mask(groups=1, seeds=1)
    words = read(mask_page(one, {})).words
    assert "nan" not in "".join(words) and words.count("–") == 4 * len(one["groups"][0]["points"])


def test_weights_of_runs_from_scratch_are_said_to_be_weights(data):
    words = "".join(
        read(
            analysis_page({**data, "runs": [{**run, "what": "W"} for run in data["runs"]]}, {})
        ).words
    )
    assert "W itself is analysed: cola-minilm-lora-s0, " in words
