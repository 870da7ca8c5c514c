"""The rows of `python -m results.goals`: known answers from times that are given, real ones on tiny
stand-ins.
"""

import csv
import json
import math
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

from results.goals import goals as lab
from results.goals import loop as goals_loop
from results.goals import peft as goals_peft
from results.goals import rows as goals
from results.goals.__main__ import main as command
from results.goals.goals import Goal, training_bytes
from results.goals.peft import Batch
from zoo.errors import UserError
from zoo.parameterizations import DCT
from zoo.studies.bench.floor import Case
from zoo.studies.bench.layers import Spec, contenders
from zoo.studies.bench.timing import Ratio

BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 50,
}


def quiet(line):
    pass


@pytest.fixture
def given(monkeypatch):
    """Sets what times any alternation is to find, from its names; calls each once."""

    def times(seconds):
        def alternate(calls, *args, **options):
            for call in calls.values():
                call()
            return {name: seconds(name) for name in calls}

        for module in (lab, goals, goals_peft):
            monkeypatch.setattr(module, "alternate", alternate)

    return times


def test_met():
    """Less is better, or more, as the goal says; equal will do."""
    for measured, at_least, met in (
        (1.0, False, True),
        (1.1, False, False),
        (1.0, True, True),
        (1.1, True, True),
        (0.9, True, False),
        (0.9, False, True),
    ):
        assert Goal("", 1.0, measured, 0, 0, "", at_least).met is met


def test_rows_by_name():
    rows = {name: lambda say, name=name: [lab.goal(name, 1, Ratio(1, 1, 1), "")] for name in "abc"}
    said = []
    assert [each.case for each in lab.measure(None, said.append, rows)] == said == ["a", "b", "c"]
    assert [each.case for each in lab.measure(["c", "a", "c"], quiet, rows)] == ["c", "a"]
    with pytest.raises(UserError, match="a,b,c, got 'd'"):
        lab.measure(["a", "d"], lambda line: pytest.fail("measured before it was refused"), rows)


def test_every_row_of_the_table_has_a_name():
    names = ["step", "layer", "growth", "memory", "cache", "peft", "loop", "import"]
    assert list(goals.ROWS) == names
    assert (lab.SIZES[0], lab.SIZES[-1]) == (256, 8192)
    assert lab.LAYERS == {(768, 768): 1.1, (3072, 768): 1.1, (4096, 4096): 1.25}
    with pytest.raises(UserError, match=",".join(names)):
        goals.measure(["speed"], quiet)


def test_layers(given):
    """A layer that takes 1.5 times as long as a dense one, in each round, measures 1.5."""
    given(lambda name: [2.0, 4.0, 6.0] if name == "dense" else [3.0, 6.0, 9.0])
    found = lab.layers(quiet, {(8, 12): 1.1, (16, 16): 1.6}, tokens=3)
    assert [each[:1] + each[2:5] for each in found] == [
        (f"layer {shape}, 3 tokens, {name} to dense", 1.5, 1.5, 1.5)
        for shape in ("8x12", "16x16")
        for name in ("DCT 0.5", "BlockDCT 0.5", "BlockDCT 0.1")
    ]
    assert [each.goal for each in found] == [1.1, 1.03, 1.03, 1.6, 1.03, 1.03]
    assert "6e+03 ms to 4e+03 ms" in found[0].note


@pytest.mark.parametrize("power", [2, 3])
def test_growth(given, monkeypatch, power):
    """Times of n^p log n are (n / n_0)^(p - 2) times as large as they should be."""
    sizes = iter([16, 32, 64] * 2)

    def next_size(name):
        n = next(sizes)
        return [1e-9 * n**power * math.log(n)] * 3

    given(next_size)
    for each in lab.growth(quiet, (16, 32, 64)):
        assert each.measured == pytest.approx(4.0 ** (power - 2)) and each.met == (power == 2)
        assert "16: 1.00, 32:" in each.note


def test_memory_of_dense_adamw():
    """Four numbers a parameter and one a tensor; the inputs of layers, and of the square, for
    backward.
    """
    n, depth, tokens = 8, 3, 5
    found = training_bytes(nn.Sequential(*(nn.Linear(n, n) for _ in range(depth))), n, tokens)
    assert found["held"] == 4 * (4 * depth * (n * n + n) + 2 * depth)
    assert found["kept"] == 4 * tokens * n * (depth + 1)
    assert found["peak"] >= 4 * depth * (n * n + n)  # of new gradients


def test_memory():
    """Of a tenth of the coefficients: four numbers each, and their places, for any basis at most
    0.25 of dense.
    """
    found = lab.memory(quiet, size=128, depth=3, tokens=2)
    assert [each.case for each in found] == [
        f"training memory, 3 layers 128x128, {name} 0.1 to dense" for name in ("DCT", "BlockDCT")
    ]
    assert all(0.1 < each.measured <= 0.25 for each in found)
    assert lab.memory(quiet, size=128, depth=3, tokens=2, ratio=0.9)[0].measured > 0.8


def test_cache(given):
    given(lambda name: [1.0, 1.0] if name == "dense" else [1.5, 0.5])
    found = lab.cache(quiet, (8, 12), (1, 3))
    assert [each.measured for each in found] == [1.0, 1.0] and found[0].low < 1 < found[0].high


def test_a_kept_weight_is_measured(monkeypatch):
    """What is timed builds no W again: otherwise the row would say nothing."""
    (each,) = contenders([Spec(DCT, {"ratio": 0.5})], (8, 12), False, [], torch.device("cpu"))
    built, weight = [], DCT.weight
    monkeypatch.setattr(DCT, "weight", lambda self: built.append(1) or weight(self))
    times = lab._passes([each], Case("float32", (8, 12), 2), "evaluation", 0.01)
    assert len(times[each.name]) >= 4 and len(built) == 1


@pytest.mark.parametrize("every", [False, True])
def test_peft(given, monkeypatch, every):
    """Pairs have equal counts, and real steps of both move what they train."""
    pytest.importorskip("peft")
    monkeypatch.setattr(goals_peft, "RANK", 2)
    monkeypatch.setattr(goals_peft, "BASIS_RANK", 4)
    given(lambda name: [2.0, 2.0] if name == "peft" else [1.0, 1.0])
    found = goals_peft.peft_pairs(quiet, [Batch(2, 3, every)], BERT)
    steps, peaks = found[::2], found[1::2]
    # Again, with recompute.
    limits = [1.0, 0.7, 0.7, 0.5, 0.5, 0.5, 0.5] if every else [1.0, 0.7, 0.5, 0.5]
    assert [each.goal for each in steps] == [each.goal for each in peaks] == limits
    for each in steps:
        own, peft = each.note.removesuffix(" trained").split(", ")[-1].split(" to ")
        assert each.measured == 0.5 and (own == peft or "BlockDCT" in each.case)
    assert all(0.1 < each.measured < 2 for each in peaks)
    layers = "all layers" if every else "query and value"
    assert all(each.case.endswith(f"2x3 tokens, {layers}") for each in found)


def test_peft_that_is_not_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "peft" else 1)
    said = []
    assert goals_peft.peft_pairs(said.append) == []
    assert "peft is not installed" in said[0] and len(said) == 1


def test_steps(given):
    """Real steps of four networks; times are given."""
    given(lambda name: [1.0, 1.0] if name == "dense" else [1.04, 1.04])
    found = goals.steps(quiet)
    assert [each.goal for each in found] == [1.04, 1.03, 1.03] and [each.met for each in found] == [
        True,
        False,
        False,
    ]


def test_turns_exclude_each_other(monkeypatch):
    """A clock that counts calls: chunks of two steps, of the fit's and of the others' in turn."""
    now, order = [0.0], []

    def took(name, seconds):
        now[0] += seconds
        order.append(name)

    monkeypatch.setattr(goals_loop, "CHUNK", 2)
    monkeypatch.setattr(goals_loop.time, "perf_counter", lambda: now[0])
    turns = goals_loop.Turns({"a": lambda: took("a", 1.0), "b": lambda: took("b", 10.0)})
    turns.on_train_start(None, None)
    for _ in range(5):
        took("fit", 100.0)
        turns.on_train_batch_end(None, None, None, None, 0)
    assert turns.fit_seconds == [200.0, 200.0] and turns.seconds == {
        "a": [2.0, 2.0],
        "b": [20.0, 20.0],
    }
    assert order == ["fit", "fit", "a", "a", "b", "b"] * 2 + ["fit"]


@pytest.mark.slow
def test_loops(monkeypatch, capfd):
    """A real fit takes turns with both loops, is silent and leaves the command line as it was."""
    import sys

    monkeypatch.setattr(sys, "argv", ["zoo", "bench"])
    monkeypatch.setattr(goals_loop, "CHUNK", 1)
    monkeypatch.setattr(goals_loop, "LOOP", {"dense.yaml": 1.0})
    found = goals_loop.loops(quiet, 3)
    assert [each.case for each in found] == [
        f"zoo fit dense.yaml, tokens a second to {name}"
        for name in ("nanoGPT's loop", "the same, AdamW fused")
    ]
    assert all(each.at_least and 0.05 < each.measured < 20 for each in found)
    assert sys.argv == ["zoo", "bench"] and capfd.readouterr() == ("", "")


def test_a_fit_that_fails_is_no_measurement():
    with pytest.raises(RuntimeError, match="no_such_config"):
        goals_loop.fit(["--config", "no_such_config.yaml"], [])


def test_nanogpts_loop_learns():
    """Of a text that repeats one character, the loss falls."""
    torch.manual_seed(0)
    text = torch.full((1000,), 7, dtype=torch.int32)
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(goals_loop, "ids", lambda: text)
        patch.setattr(goals_loop, "WINDOWS", 2)
        cross_entropy = torch.nn.functional.cross_entropy

        def kept(*args, **options):
            loss = cross_entropy(*args, **options)
            seen.append(loss.item())
            return loss

        patch.setattr(goals_loop.F, "cross_entropy", kept)
        for fused in (False, True):
            step = goals_loop.plain_step(fused)
            for _ in range(12):
                step()
    assert seen[0] > 4 and seen[11] < 3 and seen[23] == pytest.approx(seen[11], rel=0.05)


def test_a_process_that_fails_is_no_measurement():
    with pytest.raises(subprocess.CalledProcessError):
        goals._process("raise SystemExit('no step was made')")


@pytest.mark.timed
def test_a_run_ends_at_its_first_step():
    (found,) = goals.imports(quiet, rounds=1)
    assert 0.5 < found.measured < 3


@pytest.mark.timed
@pytest.mark.parametrize(
    ("row", "limit"),
    [
        (lambda: goals.steps(quiet)[0], 1.25),
        (lambda: lab.layers(quiet, {(768, 768): 1.1}, seconds=3)[0], 1.3),
        (lambda: lab.memory(quiet)[0], 0.25),
    ],
    ids=["a training step", "a layer", "memory"],
)
def test_what_matters_most_stays(row, limit):
    """Generous: a machine that is busy is no regression, twice the time is."""
    found = row()
    assert found.measured <= limit, found


def test_goals_stand_beside_what_is_measured(place, capsys, monkeypatch):
    """`results.goals.rows` measures; here are its rows."""
    found = [
        Goal("a layer", 1.1, 1.05, 1.04, 1.08, ""),
        Goal("a layer with a long name " * 4, 1.25, 1.5, 1.4, 1.6, "n " * 60),
        Goal("tokens per second", 0.95, 0.97, 0.96, 0.98, "", at_least=True),
    ]
    project = {goal.case: lambda say, goal=goal: [goal] for goal in found}
    monkeypatch.setattr(goals, "ROWS", project)
    assert command(["--json", "g.json", "--csv", "g.csv"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert [line.split()[-1] for line in printed.splitlines() if "+-" in line] == [
        "yes",
        "NO",
        "yes",
    ]
    assert ">= 0.95" in printed and "1.05 +-0.02" in printed
    rows = json.loads(Path("g.json").read_text())["rows"]
    assert [row["met"] for row in rows] == [True, False, True]
    with Path("g.csv").open() as file:
        assert [row["goal"] for row in csv.DictReader(file)] == ["<= 1.1", "<= 1.25", ">= 0.95"]
    assert command(["a layer"]) == 0
    assert "tokens" not in capsys.readouterr().out
    monkeypatch.setitem(project, "tokens per second", lambda say: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command(["--json", "broken.json"])
    # What was measured before is there.
    assert len(json.loads(Path("broken.json").read_text())["rows"]) == 2
