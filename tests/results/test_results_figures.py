"""Figures on pages are those that results/figures.py makes of the tables of today."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from lab_figures import inside, words

from results import figures, rows
from results.figures import DOCS, FIGURES, drawing

ROOT = DOCS.parent
PAGES = [ROOT / "README.md", *DOCS.glob("*.md"), ROOT / "results" / "README.md"]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def drawn():
    return {name: make() for name, make in FIGURES.items()}


def test_every_figure_of_a_page_is_made_here():
    shown = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"!\[[^]]*\]\(([^)]*)\)", page.read_text())
    }
    assert shown == {DOCS / f"{name}.svg" for name in FIGURES} == set(DOCS.glob("*.svg"))


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_of_the_rows_of_today(name, drawn):
    """Its hash and its words; `python results/figures.py` makes it anew."""
    page = (DOCS / f"{name}.svg").read_bytes()
    assert len(page) < 60_000
    there = ET.fromstring(page)
    assert there.find(f"{SVG}g").get("id") == drawn[name].get_gid(), f"{name} is behind its rows"
    here = ET.fromstring(drawing(drawn[name]))
    assert [text.text for text in there.iter(f"{SVG}text")] == [
        text.text for text in here.iter(f"{SVG}text")
    ]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_has_the_same_bytes_each_time(name):
    """Of two that were just made: a layout is fitted again each time that one is drawn."""
    assert drawing(FIGURES[name]()) == drawing(FIGURES[name]())


@pytest.mark.parametrize("name", FIGURES)
def test_all_of_it_can_be_seen(name, drawn):
    inside(name, drawn[name])
    assert "nan" not in " ".join(words(drawn[name])).lower()


def test_another_number_is_another_figure(monkeypatch, tmp_path, drawn):
    text = (rows.FOLDER / "ranks.csv").read_text()
    step, number = re.search(r"^dct_half,(\d+),([\d.]+),", text, re.MULTILINE).groups()
    (tmp_path / "ranks.csv").write_text(
        text.replace(f"dct_half,{step},{number},", f"dct_half,{step},99.5,")
    )
    monkeypatch.setattr(rows, "FOLDER", tmp_path)
    assert figures.ranks().get_gid() != drawn["ranks"].get_gid()


def test_names_of_points_do_not_cover_each_other(drawn):
    figure = drawn["maps"]
    figure.draw_without_rendering()
    boxes = {text.get_text(): text.get_window_extent() for text in figure.axes[0].texts}
    assert len(boxes) == 26
    assert not [(a, b) for a in boxes for b in boxes if a < b and boxes[a].overlaps(boxes[b])]


def test_rows_of_ranks_are_read_from_runs(monkeypatch, tmp_path, capsys):
    run = tmp_path / "dct_half-tinyshakespeare" / "version_0"
    run.mkdir(parents=True)
    (run / "summary.json").write_text(
        json.dumps(
            {
                "command": "zoo fit --config dct_half.yaml",
                "device": "X",
                "threads": 1,
                "date": "2026-11-30T00:00:00",
            }
        )
    )
    curves = {
        "stable_rank/blocks.0.attn.qkv": [(0, 21.25), (20, 20.5)],
        "stable_rank/blocks.0.mlp.fc": [(0, 31.25), (20, 30.5)],
        "stable_rank/all.median": [(0, 26.0), (20, 25.0)],
    }
    monkeypatch.setattr(figures, "read_curves", lambda folder, starts: curves)
    figures.main(["ranks", str(run)])
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.startswith("run,step,blocks.0.attn.qkv,blocks.0.mlp.fc,command,")
    assert first.startswith("dct_half,0,21.250,31.250,zoo fit --config dct_half.yaml,")
    assert second.startswith("dct_half,20,20.500,30.500,")


def test_it_writes_all(monkeypatch, tmp_path):
    monkeypatch.setattr(figures, "DOCS", tmp_path)
    figures.main([])
    assert {path.stem for path in Path(tmp_path).iterdir()} == set(FIGURES)
