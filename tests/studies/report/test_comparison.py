"""What is compared with what, at which learning rate, and with what result."""

import numpy as np
import pytest
from report_runs import write_run, write_sweep
from scipy import stats

from zoo.errors import UserError
from zoo.runs.finished_runs import read
from zoo.studies.report.comparison import compare, searched, terminal

DENSE, DCT = [1.50, 1.52, 1.49, 1.51], [1.51, 1.54, 1.52, 1.55]


def compared(top, **options):
    return compare(*read([str(top)]), **options)


def methods(top, **options):
    """Of the only comparison, by name."""
    (comparison,) = compared(top, **options)["comparisons"]
    return {method["method"]: method for method in comparison["methods"]}


def test_means_intervals_gaps_and_equivalence(tmp_path):
    """All as scipy has them."""
    found = methods(write_sweep(tmp_path, {"Dense": DENSE, "DCT": DCT}), margin=0.1)
    dense, dct = found["Dense"], found["DCT ratio=0.5"]
    assert (dct["mean"], dct["sd"]) == pytest.approx((np.mean(DCT), np.std(DCT, ddof=1)))
    assert (dct["low"], dct["high"]) == pytest.approx(
        stats.ttest_1samp(DCT, 0).confidence_interval(0.95)
    )
    test = stats.ttest_rel(DCT, DENSE)
    low, high = test.confidence_interval(0.95)
    gap = {
        "n": 4,
        "mean": np.mean(DCT) - np.mean(DENSE),
        "low": low,
        "high": high,
        "p": test.pvalue,
    }
    assert dct["gap"] == pytest.approx(gap)
    ps = [
        stats.ttest_rel(DCT, np.add(DENSE, 0.1), alternative="less").pvalue,
        stats.ttest_rel(DCT, np.subtract(DENSE, 0.1), alternative="greater").pvalue,
    ]
    assert dct["tost"] == {"margin": 0.1, "p": pytest.approx(max(ps)), "equivalent": True}
    assert (dense["gap"], dense["tost"], dense["rank"], dct["rank"]) == (None, None, 1, 2)
    assert (dct["seeds"], dct["values"], dct["n"]) == ([1, 2, 3, 4], DCT, 4)
    strict = methods(tmp_path, margin=0.03)["DCT ratio=0.5"]["tost"]
    assert strict["p"] > 0.05 and not strict["equivalent"]


def test_gaps_are_over_the_seeds_of_both(tmp_path):
    write_sweep(tmp_path, {"Dense": DENSE[:2], "DCT": DCT})
    write_run(tmp_path / "x", 1.0, seed=9, name="Zigzag")
    found = methods(tmp_path)
    assert found["DCT ratio=0.5"]["gap"]["n"] == 2
    assert found["DCT ratio=0.5"]["gap"]["mean"] == pytest.approx(np.mean([0.01, 0.02]))
    assert found["Zigzag ratio=0.5"]["gap"] is None and found["Zigzag ratio=0.5"]["low"] is None


def test_what_differs_is_never_averaged(tmp_path):
    """Corpora, steps and widths are comparisons of their own, called by the fewest settings that
    tell.
    """
    for place, changes in {
        "a": {},
        "b": {"steps": 300},
        "c": {"config": {"model.init_args.width": 64}, "steps": 300},
        "d": {"corpus": "big", "corpus_sha256": "b" * 64},
    }.items():
        write_sweep(tmp_path / place, {"Dense": [1.0, 2.0]}, **changes)
    found = compared(tmp_path)["comparisons"]
    assert {c["name"]: len(c["runs"]) for c in found} == {
        "tiny / CharLM, steps=400, width=128": 2,
        "tiny / CharLM, steps=300, width=128": 2,
        "tiny / CharLM, steps=300, width=64": 2,
        "big / CharLM": 2,
    }
    assert all(c["methods"][0]["n"] == 2 for c in found)


def test_methods_are_called_by_what_differs(tmp_path):
    runs = [
        {"name": "Dense"},
        {"name": "DCT"},
        {"ratio": 0.1},
        {"arguments": {"selection": "zigzag"}},
        {"arguments": {"selection": "random", "lora_rank": None}},
        {"optimizer": {"name": "muon", "momentum": 0.95}},
        {"optimizer": {"weight_decay": 0.0}},
        {"name": "Dense", "optimizer": {"name": "muon", "momentum": 0.95, "weight_decay": 0.0}},
        {"targets": ["mlp.*", "qkv"]},
    ]
    for i, changes in enumerate(runs):
        write_run(tmp_path / f"r{i}", 1.0, seed=i, **changes)
    found = methods(tmp_path)
    assert set(found) == {
        "Dense",
        "DCT ratio=0.5",
        "DCT ratio=0.1",
        "DCT ratio=0.5 selection=zigzag",
        "DCT ratio=0.5 muon",
        "DCT ratio=0.5 weight_decay=0",
        "Dense muon weight_decay=0",
        "DCT ratio=0.5 targets=mlp.*+qkv",
    }
    assert found["DCT ratio=0.5"]["n"] == 2  # the defaults that are written out
    assert found["DCT ratio=0.5 weight_decay=0"]["other"] == {
        "optimizer.weight_decay": 0.0,
        "targets": ["blocks.*"],
    }
    assert found["DCT ratio=0.5 muon"]["optimizer"] == "muon"


def test_a_basis_of_the_runs_own_seed(tmp_path):
    """A seed of the basis that is always the run's makes no method; one that is chosen does."""
    for seed in (0, 1, 2):
        write_run(tmp_path / f"a{seed}", 1.0, seed, arguments={"seed": seed})
    assert {name: m["n"] for name, m in methods(tmp_path).items()} == {"DCT ratio=0.5": 3}
    write_run(tmp_path / "b", 1.0, 3, arguments={"seed": 0})
    found = {name: m["seeds"] for name, m in methods(tmp_path).items()}
    assert found == {
        "DCT ratio=0.5 seed=0": [0, 3],
        "DCT ratio=0.5 seed=1": [1],
        "DCT ratio=0.5 seed=2": [2],
    }


def write_search(top, losses, seeds=(1, 2), name="DCT", at=None):
    """Losses by rate on seed 0; reported seeds at one rate."""
    for lr, loss in losses.items():
        write_run(top / f"{name}-search-{lr}", loss, 0, lr, name)
    best = at or min(losses, key=losses.get)
    for seed in seeds:
        write_run(top / f"{name}-{seed}", 1.5 * seed, seed, best, name)


def test_the_search_is_found_in_the_runs(tmp_path):
    """Seeds with several rates are the search, and are not reported."""
    write_search(tmp_path, {0.005: 1.8, 0.01: 1.5, 0.02: 1.6})
    write_search(tmp_path, {0.1: 1.7, 0.2: 1.5, 0.4: 1.6}, name="Dense")
    (comparison,) = compared(tmp_path)["comparisons"]
    dct = next(m for m in comparison["methods"] if m["parameterization"] == "DCT")
    assert (dct["lr"], dct["seeds"], dct["values"]) == (0.01, [1, 2], [1.5, 3.0])
    assert (dct["tuned_on_reported"], dct["edge"]) == (False, None)
    assert dct["search"] == [
        {"lr": lr, "seed": 0, "value": v} for lr, v in ((0.005, 1.8), (0.01, 1.5), (0.02, 1.6))
    ]
    assert comparison["search"] == {"equal": True, "words": "3 learning rates per method on seed 0"}
    assert sorted(run["searched"] for run in comparison["runs"]) == [False] * 4 + [True] * 6
    assert comparison["notes"] == []


def test_an_unequal_search_is_said(tmp_path):
    write_search(tmp_path, {0.005: 1.8, 0.01: 1.5})
    write_search(tmp_path, {0.1: 1.5}, name="Dense")
    write_search(tmp_path, {0.2: 1.5}, name="Zigzag")
    (comparison,) = compared(tmp_path)["comparisons"]
    assert comparison["search"] == {
        "equal": False,
        "words": "no search, one learning rate (2 of 3 methods); "
        "2 learning rates per method on seed 0: DCT ratio=0.5",
    }
    assert comparison["notes"] == [
        "The best learning rate is the largest that was tried: DCT ratio=0.5."
    ]


def rate(tmp_path, runs):
    """What `searched` makes of (rate, seed, loss)."""
    for i, (lr, seed, loss) in enumerate(runs):
        write_run(tmp_path / f"r{i}", loss, seed, lr)
    search, lr, reported = searched(read([str(tmp_path)])[0])
    return len(search), lr, [run.seed for run in reported]


NAN = float("nan")


@pytest.mark.parametrize(
    ("runs", "found"),
    [
        ([(0.1, 0, 2.0), (0.2, 0, 1.0)], (2, 0.2, [0])),  # the search itself is reported
        # Only one rate has other seeds.
        ([(0.1, 0, 2.0), (0.2, 0, 1.0), (0.1, 1, 9.0)], (2, 0.1, [1])),
        (
            [(0.1, 0, 2.0), (0.2, 0, 1.0), (0.1, 1, 2.0), (0.2, 1, 4.0), (0.2, 2, 1.0)],
            (4, 0.2, [2]),
        ),
        # By the mean of both seeds.
        ([(0.1, 0, 2.0), (0.2, 0, 1.0), (0.1, 1, 2.0), (0.2, 1, 4.0)], (4, 0.1, [0, 1])),
        ([(0.1, 0, 2.0), (0.2, 0, NAN)], (2, 0.1, [0])),  # what diverged is worst,
        # If on one seed only.
        ([(0.1, 0, 2.0), (0.1, 1, 2.0), (0.2, 0, 1.0), (0.2, 1, NAN)], (4, 0.1, [0, 1])),
        # No seed has both: the one with most.
        ([(0.1, 0, 2.0), (0.2, 1, 1.0), (0.1, 2, 3.0)], (0, 0.1, [0, 2])),
        ([(0.1, 0, 2.0), (0.1, 1, 1.0)], (0, 0.1, [0, 1])),
    ],
)
def test_which_rate_and_which_seeds(tmp_path, runs, found):
    assert rate(tmp_path, runs) == found


def test_scores_are_better_when_higher(tmp_path):
    for lr, score in ((0.1, 0.6), (0.2, 0.8)):
        write_run(
            tmp_path / f"s{lr}",
            1.0,
            0,
            lr,
            score=score,
            metrics={"val/score": score, "val/accuracy": score},
        )
    write_run(
        tmp_path / "d",
        1.0,
        0,
        name="Dense",
        score=0.7,
        metrics={"val/score": 0.7, "val/accuracy": 0.7},
    )
    (comparison,) = compared(tmp_path)["comparisons"]
    assert (comparison["metric"], comparison["better"]) == ("accuracy", "higher")
    found = [(m["method"], m["lr"], m["rank"]) for m in comparison["methods"]]
    assert found == [("DCT ratio=0.5", 0.2, 1), ("Dense", 0.01, 2)]
    assert comparison["methods"][0]["gap"]["mean"] == pytest.approx(0.1)


def test_repeated_runs_are_no_independent_draws(tmp_path):
    write_run(tmp_path / "a", 1.0, date="2026-01-02")
    write_run(tmp_path / "b", 2.0, date="2026-01-03")
    write_run(tmp_path / "c", 3.0, date="2026-01-01")
    (comparison,) = compared(tmp_path)["comparisons"]
    assert comparison["methods"][0]["values"] == [2.0] and len(comparison["runs"]) == 1
    (note,) = comparison["notes"]
    assert note == f"{tmp_path}/b repeats {tmp_path}/c, {tmp_path}/a: only the newest counts."


def test_diverged_runs_are_counted(tmp_path):
    write_sweep(tmp_path, {"Dense": [1.0, 2.0], "DCT": [1.0, NAN, 3.0], "Zigzag": [NAN]})
    (comparison,) = compared(tmp_path)["comparisons"]
    dense, dct, zigzag = sorted(comparison["methods"], key=lambda m: m["method"] != "Dense")
    assert (dct["mean"], dct["n"], dct["seeds"], dct["diverged"]) == (2.0, 2, [1, 2, 3], [2])
    assert dct["gap"]["n"] == 1 and dct["values"] == [1.0, None, 3.0]
    assert (zigzag["mean"], zigzag["n"], zigzag["gap"], zigzag["rank"]) == (None, 0, None, 3)
    assert "DCT ratio=0.5 diverged on seed 2, which its mean leaves out." in comparison["notes"]


def test_a_reference_that_diverged_pairs_with_nothing(tmp_path):
    write_sweep(tmp_path, {"Dense": [1.0, NAN, 2.0], "DCT": [1.5, 5.0, 2.7]})
    gap = methods(tmp_path)["DCT ratio=0.5"]["gap"]
    assert (gap["n"], gap["mean"]) == (2, pytest.approx(0.6))


def test_budgets(tmp_path):
    """Counts within 15 % are one budget, and each is compared with the commonest."""
    counts = {"a": 1000, "b": 1000, "c": 985, "d": 5000, "e": 5100, "f": 500}
    for i, (place, count) in enumerate(counts.items()):
        write_run(tmp_path / place, 1.0, i, ratio=count / 10_000 + i / 10**6, coefficients=count)
    write_run(tmp_path / "dense", 1.0, name="Dense")
    found = sorted(
        (m["coefficients"], m["budget"], round(m["count_off"], 6))
        for m in methods(tmp_path).values()
    )
    assert found == [
        (500, 0.05, 0.0),
        (985, 0.1, -0.015),
        (1000, 0.1, 0.0),
        (1000, 0.1, 0.0),
        (5000, 0.5, 0.0),
        (5100, 0.5, 0.02),
        (10_000, 1.0, 0.0),
    ]


def test_budgets_of_different_targets_are_apart(tmp_path):
    write_run(tmp_path / "a", 1.0)
    write_run(tmp_path / "b", 1.0, coefficients=5100, replaced=20_000, targets=["mlp.*"])
    assert sorted(m["budget"] for m in methods(tmp_path).values()) == [0.255, 0.5]


def test_the_reference(tmp_path):
    write_sweep(tmp_path, {"Dense": DENSE, "DCT": DCT})
    write_run(tmp_path / "m", 1.0, 1, name="Dense", optimizer={"name": "muon"})
    assert compared(tmp_path)["comparisons"][0]["reference"] == "Dense"
    found = methods(tmp_path, reference="dct RATIO=0.5")
    assert found["Dense"]["gap"]["mean"] == pytest.approx(np.mean(DENSE) - np.mean(DCT))
    assert found["DCT ratio=0.5"]["gap"] is None
    with pytest.raises(
        UserError,
        match="no method 'DTC'; --reference takes one of: Dense muon; Dense; DCT ratio=0.5",
    ):
        compared(tmp_path, reference="DTC")


def test_without_dense_there_is_no_gap(tmp_path):
    write_sweep(tmp_path, {"DCT": DCT, "Zigzag": DENSE})
    (comparison,) = compared(tmp_path)["comparisons"]
    assert comparison["reference"] is None and all(m["gap"] is None for m in comparison["methods"])


@pytest.mark.parametrize(
    ("curve", "epoch", "found"),
    [
        # Within the last epoch.
        ([(99, 5.0), (199, 3.0), (299, 2.0), (399, 1.0)], 250, (1.0, 2.0, 3)),
        (
            [(99, 5.0), (199, 3.0), (299, 2.0), (399, 1.0)],
            350,
            (np.std([5, 3, 2, 1], ddof=1), 4.0, 4),
        ),
        # Too few in it: the last three.
        ([(99, 5.0), (199, 3.0), (299, 2.0), (399, 1.0)], 10, (1.0, 2.0, 3)),
        ([(199, 3.0), (399, 1.0)], 10, (2**0.5, 2.0, 2)),
    ],
)
def test_terminal(tmp_path, curve, epoch, found):
    run = write_run(tmp_path / "a", events={"val/loss": curve}, train_characters=epoch * 32 * 128)
    ((run,), _) = read([str(run)])
    assert tuple(terminal(run).values()) == pytest.approx(found)


def test_terminal_variation_is_a_mean_over_runs(tmp_path):
    for seed, step in ((1, 1.0), (2, 3.0)):
        curve = [(199, 5.0), (299, 5.0 + step), (399, 5.0 + 2 * step)]
        write_run(
            tmp_path / f"s{seed}",
            1.0 + seed,
            seed,
            events={"val/loss": curve, "stable_rank/a": [(0, 4.0)]},
        )
    write_run(tmp_path / "none", 1.0, name="Dense")
    (comparison,) = compared(tmp_path)["comparisons"]
    found = {m["parameterization"]: m["terminal"] for m in comparison["methods"]}
    assert found == {"DCT": {"sd": 2.0, "range": 4.0, "n": 3}, "Dense": None}
    (run,) = (run for run in comparison["runs"] if run["name"] == "s2")
    assert run["terminal_sd"] == 3.0 and run["curves"]["stable_rank"] == [(0, 4.0)]


def test_devices_are_named(tmp_path):
    write_run(tmp_path / "a", 1.0, 1, device="CPU")
    write_run(tmp_path / "b", 2.0, 2, device="GPU")
    assert methods(tmp_path)["DCT ratio=0.5"]["devices"] == ["CPU", "GPU"]
