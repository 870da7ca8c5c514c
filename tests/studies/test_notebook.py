"""Results as a notebook shows them: tables and pictures in a part of a page that runs nothing."""

import re

import pytest
from html_reader import read
from lab_data import analysis, mask
from report_data import report

from zoo.pages.html import ENVIRONMENT
from zoo.pages.notebook import CLASS, Figures, own_ids, scoped
from zoo.studies.analyze.result import Analysis
from zoo.studies.mask.result import Masked
from zoo.studies.report.result import Report

EVIL = "<script>alert(1)</script>&\"'`"


@pytest.fixture(scope="module")
def results():
    return {
        "analysis": Analysis(analysis(groups=2, seeds=1, blocks=2)),
        "mask": Masked(mask(groups=1, transforms=("dct",))),
        "report": Report(report(kinds=2, seeds=2)),
    }


@pytest.mark.parametrize("name", ["analysis", "mask", "report"])
def test_it_is_a_part_of_a_page_with_the_tables_and_figures_of_the_page(results, name, tmp_path):
    result = results[name]
    shown = result._repr_html_()
    reader = read(shown)
    assert shown.startswith(f'<div class="{CLASS}">')
    tags = set(reader.tags)
    assert {"style", "table", "svg", "figure"} <= tags
    assert not {"script", "link", "iframe", "object", "img", "html", "body", "main"} & tags
    assert "http:" not in shown and "https:" not in shown and "@import" not in shown
    assert "prefers-color-scheme" not in shown  # a notebook has a theme of its own
    assert len(reader.ids) == len(set(reader.ids)) > 10
    references = {each.removeprefix("#") for each in reader.references if each[:1] == "#"}
    assert references <= set(reader.ids)
    result.save(tmp_path / "out")
    page = read((tmp_path / "out" / f"{result.file}.html").read_text())
    for tag in ("table", "td", "svg", "figcaption", "h2", "details"):
        assert reader.tags.count(tag) == page.tags.count(tag), tag
    said = " ".join(" ".join(page.words).split())
    for words in reader.words:
        if words.strip() and "{" not in words and words.strip()[0] not in "—":
            assert " ".join(words.split()) in said


def test_two_results_share_no_id(results):
    every = [read(result._repr_html_()).ids for result in results.values()]
    every.append(read(Analysis(analysis(groups=2, seeds=1, blocks=2, seed=1))._repr_html_()).ids)
    joined = [each for ids in every for each in ids]
    assert len(joined) == len(set(joined))


@pytest.mark.parametrize("kind", ["analysis", "mask"])
def test_names_are_shown_and_never_taken_for_markup(kind):
    data = {"analysis": analysis, "mask": mask}[kind](groups=1)
    for run in data["runs"]:
        run |= {"name": EVIL, "group": EVIL, "path": EVIL, "notes": [EVIL]}
        for matrix in run.get("matrices", []):
            matrix |= {"layer": f"{EVIL}.{matrix['layer']}", "kind": EVIL}
    for group in data["groups"]:
        group |= {"group": EVIL, "metric": EVIL}
    result = {"analysis": Analysis, "mask": Masked}[kind](data)
    shown = result._repr_html_()
    reader = read(shown)
    assert "script" not in reader.tags and "<script" not in shown
    assert EVIL in "".join(reader.words)
    assert "<script" not in result.figures._repr_html_()


def test_methods_are_never_taken_for_markup():
    data = report(kinds=1, seeds=2)
    for comparison in data["comparisons"]:
        comparison["name"] = EVIL
        for run in comparison["runs"]:
            run |= {"path": EVIL, "command": EVIL}
    reader = read(Report(data)._repr_html_())
    assert "script" not in reader.tags and EVIL in "".join(reader.words)


def test_rules_hold_within_it_alone():
    """Each selector begins with the class, and the page's own colours are set there alone."""
    shown = ENVIRONMENT.get_template("pages/templates/notebook.html.j2").render(title=None)
    (style,) = re.findall(r"<style>(.*?)</style>", shown, re.DOTALL)
    assert "{%" not in style and style.count("{") == style.count("}") > 30
    selectors = re.findall(r"([^{}]+)\{", style)
    assert all(f".{CLASS}" in each for rule in selectors for each in rule.split(","))
    assert "body {" not in style and ":root" not in style
    assert str(scoped("a, b { c: d; } e { f: g; }")) == (
        ".zoo-page.zoo-page a, .zoo-page.zoo-page b { c: d; }.zoo-page.zoo-page e { f: g; }"
    )


def test_figures_show_by_themselves(results):
    figures = results["mask"].figures
    assert isinstance(figures, Figures)
    reader = read(figures._repr_html_())
    assert reader.tags.count("svg") == len(figures) > 0


def test_ids_change_and_words_do_not(monkeypatch):
    drawing = b'<svg><g id="a"><use href="#a"/><text>id="a" url(#a)</text></g></svg>'
    monkeypatch.setattr("zoo.pages.notebook.svg", lambda figure: drawing)
    changed = own_ids({"x": None})["x"].decode()
    (token,) = set(re.findall(r'(?:id="|href="#)(\w+)-a"', changed))
    assert changed.endswith('<text>id="a" url(#a)</text></g></svg>') and len(token) == 8


@pytest.mark.parametrize("name", ["analysis", "mask", "report"])
def test_what_is_printed_has_no_control_characters(results, name):
    said = str(results[name])
    assert "\x1b" not in said and max(map(len, said.splitlines())) <= 80
    assert repr(results[name]).startswith(f"<{type(results[name]).__name__} ")
