"""Loss by compute: known exponents are found again, and networks of several sizes are a family."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from conftest import refused

from zoo.__main__ import main
from zoo.studies.report.scaling import envelope, fit, frontier, scalings

TRUE = {"Dense": (2.0, 0.3), "DCT": (3.0, 0.45)}
"""A and b of methods whose asymptote is 1.5."""
ASYMPTOTE = 1.5


def points(noise=0.0, seeds=4, sizes=6, seed=0):
    """Runs of networks on the curves, with a spread over seeds."""
    random = np.random.default_rng(seed)
    found = []
    for name, (a, b) in TRUE.items():
        for flops in np.geomspace(1e11, 1e14, sizes):
            exact = ASYMPTOTE + a * (flops / 1e12) ** -b
            values = list(exact + noise * random.standard_normal(seeds))
            mean = float(np.mean(values))
            found.append(
                {"method": name, "flops": flops, "mean": mean, "values": values}
                | {"low": None, "high": None, "sizes": {}, "n": seeds, "lr": 0.01}
            )
    return found


def test_exact_curves_are_found_again():
    """L = E + A C^-b, A and b of each method, and one E of all."""
    for row in fit(points()):
        a, b = TRUE[row["method"]]
        assert row["exponent"] == pytest.approx(b, rel=1e-3)
        assert row["coefficient"] == pytest.approx(a, rel=1e-3)
        assert row["asymptote"] == pytest.approx(ASYMPTOTE, rel=1e-3)


def test_intervals_cover_the_truth_as_often_as_they_say():
    """Of 40 fits to noisy runs 95 % intervals of b hold it in 34 at least, and are no wider."""
    hits, widths = 0, []
    for seed in range(20):
        for row in fit(points(0.02, seed=seed)):
            hits += row["low"] <= TRUE[row["method"]][1] <= row["high"]
            widths.append(row["high"] - row["low"])
            assert row["asymptote_low"] < row["asymptote"] < row["asymptote_high"]
    assert hits >= 34 and max(widths) < 0.2


def test_few_runs_have_no_interval_and_fewer_no_fit():
    few = points(seeds=1, sizes=3)
    one = [point for point in few if point["method"] == "DCT"]
    (row,) = fit(one)  # three runs, three unknowns
    assert row["low"] is None and row["asymptote_high"] is None
    assert fit(one[:2]) == [] == fit([])


def test_the_envelope_is_the_best_at_each_compute():
    """Networks of one compute are one amount of it, of which the best is fitted."""
    same = [{"flops": f, "mean": m} for f, m in ((10, 3.0), (10.2, 2.0), (10.1, 2.5), (20, 1.0))]
    assert [(p["flops"], p["mean"]) for p in envelope(same)] == [(10.2, 2.0), (20, 1.0)]


@pytest.mark.parametrize(("better", "found"), [("lower", [0, 2, 3]), ("higher", [0, 1])])
def test_the_frontier_is_what_none_beats(better, found):
    means = [(1, 3.0), (2, 4.0), (3, 2.5), (4, 1.0), (5, 1.0)]
    assert frontier([{"flops": f, "mean": m} for f, m in means], better) == found


def comparison(width, steps=10, task="CharLM"):
    """A comparison of one method, with its conditions."""
    method = {"method": "Dense", "mean": 2.0, "low": None, "high": None, "n": 1, "lr": 0.1}
    method |= {"values": [2.0], "cost": {"total_training_flops": width * steps}}
    conditions = {"model.width": width, "steps": steps, "model": task, "model.dropout": 0.0}
    return conditions, {
        "name": f"{task}, width={width}, rows=5",
        "metric": "loss",
        "better": "lower",
        "methods": [method],
    }


def test_a_family_differs_in_sizes_alone():
    """Three networks at least; another task is another family, and two of one are none."""
    three = [comparison(width, 20 * width) for width in (8, 16, 32)]
    other = [comparison(width, task="Other") for width in (8, 16)]
    (family,) = scalings([*three, *other])
    assert family["name"] == "CharLM, rows=5"  # not the width of one of them
    assert [point["sizes"]["width"] for point in family["points"]] == ["8", "16", "32"]
    assert family["frontier"] == [0]
    assert scalings(three[:2]) == []
    dropped = three[0][0] | {"model.dropout": 0.5}, three[0][1]
    assert scalings([dropped, *three[1:]]) == []
    unpriced = three[0][0], three[0][1] | {"methods": [three[0][1]["methods"][0] | {"cost": None}]}
    (family,) = scalings([unpriced, *three[1:]])
    assert len(family["points"]) == 2


SWEEP = """
config: char_lm.yaml
match: {match}
options: {{data.corpus: {text}, data.batch_size: 4, data.block_size: 16, model.layers: 1,
          trainer.max_steps: 16, model.optimizer.warmup: 0.1, trainer.precision: 32-true}}
grid:
  - {{model.parameterization: Dense, model.width: 8, model.heads: 1}}
  - {{model.parameterization: Dense, model.width: 16, model.heads: 1}}
  - {{model.parameterization: Dense, model.width: 32, model.heads: 1}}
seeds: [0, 1]
"""


def write(text, match, old="", new=""):
    Path("wide.yaml").write_text(SWEEP.format(match=match, text=text).replace(old, new))


def steps(capsys):
    """Steps of the sweep's trials, by width."""
    assert main(["sweep", "--config", "wide.yaml", "--dry-run"]) == 0
    found = {}
    for line in capsys.readouterr().out.splitlines():
        options = dict(word.split("=", 1) for word in line.split() if word.count("=") == 1)
        if options:
            found[int(options["--model.width"])] = int(options["--trainer.max_steps"])
    return found


def linear(width, vocabulary):
    """Weights of the linear layers of a block and a head."""
    return 12 * width**2 + vocabulary * width


def test_widths_are_matched_in_flops_and_in_tokens(place, text, capsys):
    """Steps are those of the first method times its cost over theirs."""
    costs = {width: linear(width, len(set(text.read_text()))) for width in (8, 16, 32)}
    write(text, "flops")
    assert steps(capsys) == {width: round(16 * costs[8] / cost) for width, cost in costs.items()}
    write(text, "tokens")
    assert steps(capsys) == dict.fromkeys(costs, 16)
    write(text, "tokens", "model.width: 32", "model.width: 32, trainer.accumulate_grad_batches: 2")
    assert steps(capsys) == {8: 16, 16: 16, 32: 8}


@pytest.mark.parametrize(
    ("match", "old", "new", "said"),
    [
        ("flop", "", "", ["match takes flops or tokens", "'flop'"]),
        ("[flops]", "", "", ["match takes flops or tokens"]),
        ("flops", "trainer.max_steps: 16, ", "trainer.max_epochs: 1, ", ["trainer.max_steps"]),
    ],
)
def test_mistakes(place, text, capsys, match, old, new, said):
    write(text, match, old, new)
    refused(capsys, ["sweep", "--config", "wide.yaml"], *said)


@pytest.mark.slow
def test_a_report_of_widths(place, text, capsys):
    """Trained at equal tokens, networks of three widths are drawn against their compute."""
    write(text, "tokens")
    assert main(["sweep", "--config", "wide.yaml", "--out", "runs/wide"]) == 0
    capsys.readouterr()
    assert main(["report", "runs/wide", "--out", "out"]) == 0
    printed = capsys.readouterr().out
    assert "loss by compute, over 3 networks" in printed
    assert max(map(len, printed.splitlines())) <= 80
    (family,) = json.loads(Path("out/report.json").read_text())["scalings"]
    vocabulary = len(set(text.read_text()))
    for point in family["points"]:
        width = int(point["sizes"]["width"])
        assert point["flops"] == 16 * 4 * 16 * 6 * linear(width, vocabulary)
        assert point["n"] == 2 and math.isfinite(point["mean"])
    assert Path("out/figures/loss_by_compute.png").is_file()
    assert "Loss by compute" in Path("out/report.html").read_text()
