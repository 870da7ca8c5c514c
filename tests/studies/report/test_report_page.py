"""The page, Markdown and rows of a report hold every number, say what is to be known, and load
nothing.
"""

import json
import re

import pytest
from html_reader import read
from report_data import report

from zoo.pages import style
from zoo.pages.numbers import (
    decimals,
    engineering,
    human_bytes,
    interval,
    plus_minus,
    typeset,
)
from zoo.studies.report.figures import figures
from zoo.studies.report.markdown import markdown
from zoo.studies.report.page import page
from zoo.studies.report.sentences import answers, legend, notes, search, settings
from zoo.studies.report.tables import exported, methods_table, ordered

FIELDS = [
    "comparison",
    "method",
    "parameterization",
    "optimizer",
    "budget",
    "coefficients",
    "trainable",
    "count_off",
    "lr",
    "n",
    "seeds",
    "mean",
    "sd",
    "low",
    "high",
    "gap",
    "gap_low",
    "gap_high",
    "gap_p",
    "margin",
    "tost_p",
    "equivalent",
    "stable_rank",
    "stable_rank_sd",
    "terminal_sd",
    "seconds",
    "cost_rows",
    "forward_flops",
    "training_flops",
    "total_training_flops",
    "checkpoint_bytes",
    "decode_bytes",
    "search_trials",
    "devices",
]


@pytest.fixture(scope="module")
def data():
    return report(comparisons=2, kinds=6, seeds=3)


@pytest.fixture
def one():
    """A comparison that a test may change, and its data."""
    data = report(kinds=2, seeds=3)
    return data["comparisons"][0], data


@pytest.fixture(scope="module")
def content():
    data = report(comparisons=2, kinds=2, seeds=2)
    return page(data, {name: style.svg(figure) for name, figure in figures(data).items()})


def words_of(data):
    return "".join(read(page(data, {})).words)


def table_of(text):
    """Cells of the first table in Markdown."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_the_page_is_well_formed_and_needs_nothing_else(content):
    reader = read(content)
    assert len(reader.ids) == len(set(reader.ids)) > 100
    assert {reference.removeprefix("#") for reference in reader.references} <= set(reader.ids)
    assert not {"script", "link", "iframe", "object", "img", "base"} & set(reader.tags)
    assert "http:" not in content and "https:" not in content and "@import" not in content
    assert content.count("prefers-color-scheme: dark") == 1


def test_each_comparison_has_its_figures_and_their_captions(content):
    first, second = content.split("<h2>tinyshakespeare / CharLM, steps=400</h2>")
    for part, end in ((first, "charlm"), (second, "charlm-steps-400")):
        shown = re.findall('<svg role="img" aria-label="([^"]*)"', part)
        assert len(shown) == 7 and all(name.endswith(f"_tinyshakespeare-{end}") for name in shown)
        assert part.count("<figcaption>") == 7


def test_every_number_is_on_the_page_and_in_markdown(data):
    text = markdown(data)
    words = "".join(read(page(data, {})).words)
    for comparison in data["comparisons"]:
        assert settings(comparison) in words and search(comparison) in words
        for method in comparison["methods"]:
            for shown in (words, text):
                assert method["method"] in shown and f"{method['coefficients']:,}" in shown
                assert typeset(plus_minus(method["mean"], method["sd"], 4)) in shown
                cost = method["cost"]
                assert human_bytes(cost["checkpoint_bytes"]) in shown
                assert engineering(cost["training_flops"]) in shown
                assert typeset(interval(method["low"], method["high"], 4)) in shown
                assert typeset(plus_minus(**method["stable_rank"], digits=2)) in shown
                if gap := method["gap"]:
                    assert f"{gap['mean']:+.4f}".replace("-", "−") in shown
                    ends = (f"{gap[end]:+.4f}".replace("-", "−") for end in ("low", "high"))
                    assert f"[{', '.join(ends)}]" in shown
            assert all(decimals(found["value"], 4) in words for found in method["search"])
        assert all(run["path"] in words and run["command"] in words for run in comparison["runs"])
    for fact in ("zoo 0.1.0", "2026-05-20", "zoo report runs --out report", "0.0021", "47.6 s"):
        assert fact in words and fact in text


def test_markdown_is_a_table_per_comparison(data):
    parts = markdown(data).split("### ")[1:]
    assert len(parts) == 2
    for part, comparison in zip(parts, data["comparisons"], strict=True):
        head, rule, *body = table_of(part)
        assert part.startswith(f"{comparison['name']}\n")
        assert rule == ["---", *["---:"] * (len(head) - 1)] and {len(row) for row in body} == {
            len(head)
        }
        assert [row[0] for row in body] == [method["method"] for method in ordered(comparison)]
    assert len(markdown(report())) < 5000


def test_rows_have_every_field_and_the_numbers_of_their_method(data):
    found = exported(data).to_dict("records")
    assert [list(row) for row in found] == [FIELDS] * 2 * 19
    methods = {(c["name"], m["method"]): m for c in data["comparisons"] for m in c["methods"]}
    for row in found:
        method = methods[row["comparison"], row["method"]]
        for field in (
            "mean",
            "sd",
            "low",
            "high",
            "lr",
            "coefficients",
            "trainable",
            "budget",
            "n",
            "count_off",
        ):
            assert row[field] == method[field]
        gap, tost = method["gap"] or {}, method["tost"] or {}
        assert (row["gap"], row["gap_p"]) == (gap.get("mean"), gap.get("p"))
        assert (row["margin"], row["tost_p"], row["equivalent"]) == tuple(
            map(tost.get, ("margin", "p", "equivalent"))
        )
        assert (row["cost_rows"], row["training_flops"]) == (4096, method["cost"]["training_flops"])
        assert (row["seeds"], row["search_trials"], row["devices"]) == ("1 2 3", 4, "cpu")
        assert (row["stable_rank"], row["terminal_sd"], row["seconds"]) == (
            method["stable_rank"]["mean"],
            0.0021,
            47.6,
        )


@pytest.mark.parametrize("better, best", [("lower", min), ("higher", max)])
def test_the_order_is_by_budget_and_then_the_best_first(better, best):
    (comparison,) = report(kinds=5, seeds=3, better=better)["comparisons"]
    found = ordered(comparison)
    assert [method["budget"] for method in found] == [1.0, *[0.5] * 5, *[0.1] * 5, *[0.05] * 5]
    for first in (1, 6, 11):
        assert found[first]["mean"] == best(method["mean"] for method in found[first : first + 5])


def test_the_reference_comes_first_and_what_has_no_value_last(one):
    comparison, _ = one
    comparison["reference"] = "RandomOrthonormal ratio=0.1"
    comparison["methods"][1]["mean"] = None
    found = [method["method"] for method in ordered(comparison)]
    assert found[0] == "RandomOrthonormal ratio=0.1"
    assert found.index("DCT ratio=0.5") == found.index("RandomOrthonormal ratio=0.5") + 1


def test_equivalence_and_significance_are_set_off(one):
    comparison, data = one
    shown = page(data, {})
    equal = sum(method["tost"]["equivalent"] for method in comparison["methods"] if method["tost"])
    assert shown.count('<span class="word yes">yes</span>') == equal > 0
    assert shown.count('<span class="word">not shown</span>') == 6 - equal > 0
    table = methods_table(comparison, data["level"])
    place = [column.header for column in table.columns].index("Gap to Dense")
    strong = {row[0].text for row in table.rows if row[place].strong}
    assert strong == {
        m["method"] for m in comparison["methods"] if m["gap"] and m["gap"]["p"] < 0.05
    }
    assert {row[0] for row in table_of(markdown(data)) if "**" in " ".join(row)} == strong != set()


@pytest.mark.parametrize("better, sign", [("lower", -1), ("higher", 1)])
def test_answers_know_which_way_is_better(better, sign):
    data = report(kinds=2, seeds=4, better=better, budgets=(0.5, 0.1))
    (comparison,) = data["comparisons"]
    ahead, behind, noisy = comparison["methods"][1:4]
    ahead["gap"] |= {"mean": 0.1 * sign, "p": 0.001}
    behind["gap"] |= {"mean": -0.1 * sign, "p": 0.001}
    noisy["gap"] |= {"mean": 0.1 * sign, "p": 0.2}
    comparison["methods"][4]["gap"] |= {"p": 0.5}
    words = answers(data, comparison)
    assert words[1] == f"Better than Dense (p < 0.05): {ahead['method']}."
    for method in comparison["methods"][1:]:
        method["tost"]["equivalent"] = method is noisy
    assert answers(data, comparison)[2] == f"Equivalent to Dense within ± 0.024: {noisy['method']}."
    noisy["tost"]["equivalent"] = False
    assert answers(data, comparison)[2].endswith("none is shown to be.")
    best = [
        f"{m['method']} ({m['mean']:.4f})"
        for m in (comparison["methods"][0], ordered(comparison)[1])
    ]
    metric = "loss" if better == "lower" else "accuracy"
    assert words[0].startswith(f"Best {metric} of each budget: {', '.join(best)}, ")
    assert f"{metric}: {better} is better" in legend(data, comparison)


def test_notes_say_what_a_reader_has_to_know(one):
    comparison, data = one
    assert notes(comparison) == []
    dct, other = comparison["methods"][1:3]
    dct |= {"count_off": -0.031, "tuned_on_reported": True, "devices": ["cpu", "H100"], "n": 1}
    other |= {"mean": None}
    comparison["search"]["equal"] = False
    comparison["notes"] = ["runs/a repeats runs/b: only the newest counts."]
    assert notes(comparison) == [
        "The search was not the same for all methods, which favours those that were searched more.",
        "Not the number of coefficients that others of their budget have: DCT ratio=0.5 by -3.1 %.",
        "Reported on the seed that the rate was chosen on, which flatters: DCT ratio=0.5.",
        "Runs of one row are from different devices: DCT ratio=0.5 (cpu, H100).",
        "Without a value, as after training that diverged: DCT ratio=0.1.",
        "One seed, so that there is no interval and no test: DCT ratio=0.5.",
        "runs/a repeats runs/b: only the newest counts.",
    ]
    words, (row,) = (
        words_of(data),
        [row for row in table_of(markdown(data)) if row[0] == "DCT ratio=0.5"],
    )
    said = [typeset(note) for note in notes(comparison)]
    assert all(note in words and note in markdown(data) for note in said)
    assert "by −3.1 %." in words
    assert (row[1], row[4]) == ("393,216 (−3.1 %)", "0.01 (own seed)") and row[
        -1
    ] == "47.6 s (2 devices)"


def test_rows_from_different_devices_are_said_to_be(one):
    comparison, _ = one
    comparison["methods"][0]["devices"] = ["NVIDIA H100"]
    assert notes(comparison) == ["Rows are from different devices: NVIDIA H100, cpu."]


def test_a_count_within_one_percent_is_not_off(one):
    comparison, data = one
    for method, off in zip(comparison["methods"], (0.01, -0.0099, 0.0), strict=False):
        method["count_off"] = off
    assert notes(comparison) == [] and "%" not in "".join(map("".join, table_of(markdown(data))))


def test_one_run_has_no_column_that_is_empty():
    data = report(kinds=0, seeds=1, search=False, reference=None)
    (comparison,) = data["comparisons"]
    comparison["methods"][0] |= {
        "cost": None,
        "stable_rank": None,
        "terminal": None,
        "seconds": {"mean": 754.0, "sd": None},
    }
    comparison["search"]["words"] = ""
    headers = [column.header for column in methods_table(comparison, 0.05).columns]
    assert headers == ["Method", "Coefficients", "Rate", "n", "Loss", "Time"]
    assert table_of(markdown(data))[2][2:] == [
        "0.01",
        "1",
        decimals(comparison["methods"][0]["mean"], 4),
        "12.6 min",
    ]
    words = words_of(data)
    assert (
        "Report of 1 method" in words
        and "No search, every method was run at one learning rate." in words
    )
    assert not re.search(r"\b(nan|None|brackets)\b", words)


def test_skipped_runs_are_named_with_why():
    data = report(kinds=0, seeds=1)
    data["skipped"] = [{"path": f"runs/x{i}", "why": "summary.json is damaged"} for i in range(7)]
    words = words_of(data)
    assert "Skipped: 7 folders" in words and all(
        f"runs/x{i}: summary.json is damaged" in words for i in range(7)
    )
    assert "Skipped 7: runs/x0 (summary.json is damaged); runs/x1" in markdown(data)


def test_many_learning_rates_stand_in_one_cell(one):
    comparison, data = one
    dct = comparison["methods"][1]
    dct["search"] = [
        {"lr": round(0.001 * 1.3**i, 6), "seed": 0, "value": 2 + i / 7} for i in range(12)
    ]
    dct["lr"] = 0.001
    dct["search"][3]["value"] = None
    words = words_of(data)
    assert (
        "0.001: 2.0000; 0.0013: 2.1429; 0.00169: 2.2857; 0.002197: none; " in words
        and "12 runs" in words
    )
    assert "<strong>2.0000</strong>" in page(data, {})


def test_names_are_escaped():
    evil, data = "<script>alert('x')</script>|&\"", report(kinds=1, seeds=2, budgets=(0.5,))
    (own,) = data["comparisons"]
    names = ("DCT ratio=0.5", "tinyshakespeare", "cpu", own["name"], own["search"]["words"])
    changed = json.loads(
        json.dumps(data), object_hook=lambda d: {k: evil if v in names else v for k, v in d.items()}
    )
    changed["command"] = evil
    changed["skipped"] = [{"path": evil, "why": evil}]
    shown = page(changed, {name: style.svg(figure) for name, figure in figures(changed).items()})
    assert "script" not in read(shown).tags and "<script" not in shown
    assert "".join(read(shown).words).count(evil) > 10
    text = markdown(changed)
    assert "<script" not in text.replace(f"`{evil}`", "")
    assert len({len(row) for row in table_of(text)}) == 1
