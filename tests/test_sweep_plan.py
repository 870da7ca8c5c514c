"""A sweep file becomes methods and trials, each with a name and a command line of its own, or one line of complaint."""

import math
import re

import pytest
import yaml

from zoo.config_files import shipped
from zoo.errors import UserError
from zoo.sweep.names import label, short_names
from zoo.sweep.plan import planned_steps
from zoo.sweep.read import parse, read
from zoo.sweep.record import Record
from zoo.sweep.schedule import Schedule
from zoo.sweep.trials import Outcome

PAPER = """
config: char_lm.yaml
options: {trainer.max_steps: 1000}
grid:
  - model.parameterization: Dense
  - model.parameterization: [DCT, Zigzag]
    model.parameterization.ratio: [0.5, 0.1]
  - model.parameterization.ratio: 0.5
    model.parameterization: LoRA
    model.optimizer.lr: [0.001, 2e-3]
search: {model.optimizer.lr: [0.01, 0.02], seed: 0}
seeds: [1, 2]
"""


def sweep(text, tmp_path):
    return parse(yaml.safe_load(text), tmp_path)


def outcome(value, lower=True):
    return Outcome(value, lower, 1.0, "loss" if lower else "score")


def test_methods_are_the_grid_without_what_is_searched(tmp_path):
    plan = sweep(PAPER, tmp_path)
    assert [method.name for method in plan.methods] == [
        "Dense", "DCT-ratio=0.5", "DCT-ratio=0.1", "Zigzag-ratio=0.5", "Zigzag-ratio=0.1", "ratio=0.5-LoRA"
    ]
    assert [point["model.optimizer.lr"] for point in plan.methods[0].points] == [0.01, 0.02]
    assert [point["model.optimizer.lr"] for point in plan.methods[-1].points] == [0.001, 0.002]  # its own search
    assert plan.size() == 6 * (2 + 2) and len(plan.every()) == 6 * (2 + 2 * 2)


def test_a_trial_is_a_fit(tmp_path):
    plan = sweep(PAPER, tmp_path)
    trial = plan.search(plan.methods[-1])[1]
    assert trial.name == "ratio=0.5-LoRA-lr=0.002-seed=0" and trial.searched and trial.steps == 1000
    assert trial.words("out") == [
        "fit", "--config", "char_lm.yaml", "--trainer.max_steps=1000", "--model.parameterization=LoRA",
        "--model.parameterization.ratio=0.5", "--model.optimizer.lr=0.002",
        "--name=ratio=0.5-LoRA-lr=0.002-seed=0", "--trainer.default_root_dir=out", "--seed_everything=0",
    ]
    reported = plan.reported(plan.methods[1], {"model.optimizer.lr": 0.02})
    assert [each.name for each in reported] == ["DCT-ratio=0.5-lr=0.02-seed=1", "DCT-ratio=0.5-lr=0.02-seed=2"]
    assert not any(each.searched for each in reported)


def test_without_a_search_every_point_runs_on_every_seed(tmp_path):
    plan = sweep("""
        grid: {model.parameterization: [DCT, Dense], model.optimizer.lr: [0.1, 0.2]}
        seeds: [3, 4, 5]
    """, tmp_path)
    schedule = Schedule(plan, {})
    names = [trial.name for trial in schedule.waiting]
    assert len(names) == plan.size() == 12 and names[0] == "DCT-lr=0.1-seed=3" and names[-1] == "Dense-lr=0.2-seed=5"


def test_a_search_of_one_value_needs_no_trials(tmp_path):
    plan = sweep("{grid: {model.parameterization: [DCT]}, search: {model.optimizer.lr: [0.1]}, seeds: 7}", tmp_path)
    assert [trial.name for trial in Schedule(plan, {}).waiting] == ["DCT-lr=0.1-seed=7"]


def test_options_with_the_same_last_word_keep_two():
    names = short_names({"model.optimizer.lr", "model.tuning.lr", "model.width", "lr"})
    assert names == {
        "model.optimizer.lr": "optimizer.lr", "model.tuning.lr": "tuning.lr", "model.width": "width", "lr": "lr"
    }


@pytest.mark.parametrize("value", [["mlp.*"], "a/b", {"mlp.*": {"class_path": "LoRA"}}, "ä b", "x" * 400])
def test_names_are_files_names(value):
    name = "-".join(label({"model.targets": value}, {"model.targets": "targets"}))
    other = "-".join(label({"model.targets": [value]}, {"model.targets": "targets"}))
    assert re.fullmatch(r"targets=[\w.+=-]+-[0-9a-f]{4}", name) and len(name) < 140 and name != other


def test_a_class_of_ones_own_goes_by_its_name():
    labels = {"model.parameterization": "parameterization"}
    assert label({"model.parameterization": "my_basis.MyBasis"}, labels) == ["MyBasis"]
    spec = {"class_path": "zoo.parameterizations.DCT", "init_args": {"ratio": 0.5}}
    assert label({"model.parameterization": spec}, labels) == ["DCT", "ratio=0.5"]


def test_configs_can_be_an_axis(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: dct_half.yaml\ntrainer: {max_steps: 7}\n")
    plan = sweep("{grid: {config: [mine.yaml, dense]}, seeds: 1}", tmp_path)
    mine, dense = (plan.reported(method, {})[0] for method in plan.methods)
    assert mine.words("o")[1:3] == ["--config", str(tmp_path / "mine.yaml")] and mine.steps == 7
    assert dense.words("o")[1:3] == ["--config", "dense"] and dense.steps == 4000
    assert [mine.name, dense.name] == ["mine-seed=1", "dense-seed=1"]


def test_steps_are_planned_where_they_alone_end_a_run():
    files = [{"trainer": {"max_steps": 5}}, {"trainer": {"max_steps": 6}}]
    assert planned_steps(files, {}) == 6
    assert planned_steps(files, {"trainer.max_steps": 7}) == 7
    assert planned_steps(files, {"trainer.max_epochs": 1}) is None
    assert planned_steps([], {}) is None


MISTAKES = {
    "grid: {model.width: [1]}": ["seeds", "whole numbers"],
    "{seeds: 1}": ["grid is empty"],
    "{grid: [{}], seeds: 1}": ["grid is empty"],
    "{grid: [], seeds: 1}": ["grid is empty"],
    "{grid: [model.width], seeds: 1}": ["option: value", "model.width"],
    "{grid: {model.width: []}, seeds: 1}": ["model.width", "empty"],
    "{grid: {model.width: [8, 8.0]}, seeds: 1}": ["model.width", "8.0 twice"],
    "{grid: [{model.width: 8}, {model.width: [4, 8]}], seeds: 1}": ["width=8 twice"],
    "{grid: [{a.b: 1, a.c: 2}, {a.c: 2, a.b: 1}], seeds: 1}": ["c=2-b=1 twice"],
    "{grid: {model.width: 8}, options: {model.width: 8}, seeds: 1}": ["model.width", "options and in grid"],
    "{grid: {a.b: 8}, options: {a.c: 8}, search: {a.c: [1]}, seeds: 1}": ["a.c", "options and in search"],
    "{grid: {a.b: 8}, search: {a.c: 1}, seeds: 1}": ["search.a.c must be a list"],
    "{grid: {a.b: 8, a.c: 1}, search: {a.c: [1]}, seeds: 1}": ["grid's a.c must be a list"],
    "{grid: {a.b: 8}, search: {a.c: []}, seeds: 1}": ["search.a.c", "empty"],
    "{grid: {a.b: 8}, search: {seed: 0}, seeds: 1}": ["search tunes no option"],
    "{grid: [{a.b: 8}, {a.b: 9, a.c: [1]}], search: {a.c: [1, 2]}, seeds: 1}": ["b=8", "2 values", "b=9", "fair"],
    "{grid: {a.b: 8}, search: {a.c: [1], seed: 1}, seeds: [1, 2]}": ["seed 1 is the search's"],
    "{grid: {a.b: 8}, search: {a.c: [1], seed: [3]}, seeds: [1, 2]}": ["search.seed", "[3]"],
    "{grid: {a.b: 8}, seeds: [1, 1]}": ["seeds has a number twice"],
    "{grid: {a.b: 8}, seeds: [-1]}": ["seeds must be whole numbers"],
    "{grid: {a.b: 8}, seeds: [true]}": ["seeds must be whole numbers"],
    "{grid: {a.b: 8}, seeds: []}": ["seeds must be whole numbers"],
    "{grid: {seed_everything: [1, 2]}, seeds: 1}": ["seed_everything", "seeds has them"],
    "{grid: {a.b: 8}, options: {name: x}, seeds: 1}": ["options cannot set name"],
    "{grid: {--a.b: 8}, seeds: 1}": ["without dashes, as a.b"],
    "{gird: {a.b: 8}, seeds: 1}": ["no 'gird'", "did you mean 'grid'"],
    "{model: {}, trainer: {}}": ["no 'model'", "config of zoo fit"],
    "{config: dct_hlaf, grid: {a.b: 8}, seeds: 1}": ["no config 'dct_hlaf'", "dct_half.yaml"],
    "[1]": ["must hold `key: value` lines"],
    "grid: {a: [": ["line 1"],
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_are_one_line(text, tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read(str(path))
    line = str(error.value)
    assert "\n" not in line and [word for word in MISTAKES[text] if word not in line] == [], line


def test_reported_seeds_follow_their_own_search_alone(tmp_path):
    plan = sweep(PAPER, tmp_path)
    schedule = Schedule(plan, {})
    started = [schedule.next().name for _ in range(12)]
    assert started[:3] == ["Dense-lr=0.01-seed=0", "Dense-lr=0.02-seed=0", "DCT-ratio=0.5-lr=0.01-seed=0"]
    assert schedule.next() is None and not schedule.over()  # all searches run, and none is done
    schedule.finish("DCT-ratio=0.5-lr=0.01-seed=0", outcome(2.0))
    assert schedule.next() is None
    schedule.finish("DCT-ratio=0.5-lr=0.02-seed=0", outcome(1.5))
    assert [schedule.next().name for _ in range(2)] == ["DCT-ratio=0.5-lr=0.02-seed=1", "DCT-ratio=0.5-lr=0.02-seed=2"]
    assert schedule.next() is None
    schedule.finish("Dense-lr=0.01-seed=0", outcome(math.nan))
    schedule.finish("Dense-lr=0.02-seed=0", outcome(1e9))
    assert schedule.best["Dense"] == {"model.optimizer.lr": 0.02}
    schedule.finish("Zigzag-ratio=0.5-lr=0.01-seed=0", outcome(0.3, lower=False))
    schedule.finish("Zigzag-ratio=0.5-lr=0.02-seed=0", outcome(0.2, lower=False))
    assert schedule.best["Zigzag-ratio=0.5"] == {"model.optimizer.lr": 0.01}


def test_a_method_waits_for_what_failed_and_the_others_go_on(tmp_path):
    plan = sweep("""
        grid: {model.parameterization: [DCT, LoRA, Dense]}
        search: {model.optimizer.lr: [0.1, 0.2, 0.4]}
        seeds: [1, 2]
    """, tmp_path)
    schedule = Schedule(plan, {"DCT-lr=0.1-seed=0": outcome(3.0), "Dense-lr=0.1-seed=0": outcome(1.0)})
    while (trial := schedule.next()) is not None:
        broken = {"DCT-lr=0.2-seed=0": "no more", "Dense-lr=0.1-seed=2": "no more"}
        schedule.finish(trial.name, broken.get(trial.name) or outcome(math.inf if trial.method == "LoRA" else 2.0))
    assert schedule.over() and set(schedule.failed) == {"DCT-lr=0.2-seed=0", "Dense-lr=0.1-seed=2"}
    assert set(schedule.best) == {"Dense"} and set(schedule.stuck) == {"LoRA"} and schedule.blocked() == 4
    assert "Dense-lr=0.1-seed=1" in schedule.done and schedule.at_edge(plan.methods[2])


def test_going_on_repeats_nothing(tmp_path):
    """The same trials run whatever had been finished when a sweep was killed."""
    def value(trial):
        return outcome(len(trial.name) + trial.options["model.optimizer.lr"])

    plan = sweep(PAPER, tmp_path)
    schedule, order = Schedule(plan, {}), []
    while (trial := schedule.next()) is not None:
        order.append(trial)
        schedule.finish(trial.name, value(trial))
    assert len({trial.name for trial in order}) == len(order) == plan.size()
    for killed in (1, 5, 11, 12, 13, 20, 24):
        again, rest = Schedule(plan, {trial.name: value(trial) for trial in order[:killed]}), []
        while (trial := again.next()) is not None:
            rest.append(trial.name)
            again.finish(trial.name, value(trial))
        assert sorted(rest) == sorted(trial.name for trial in order[killed:])
        assert again.done == schedule.done and again.best == schedule.best


def test_a_folder_of_other_settings_is_refused(tmp_path):
    out, mine = tmp_path / "out", tmp_path / "mine.yaml"
    mine.write_text("base: char_lm\n")
    (out / "DCT-seed=1").mkdir(parents=True)
    text = "{config: mine.yaml, options: {model.width: %s}, grid: {model.parameterization: DCT}, seeds: %s}"
    first = sweep(text % (8, 1), tmp_path)
    with pytest.raises(UserError, match="is there already and is not of this sweep"):
        Record(out).check(first.every())
    record = Record(out)
    record.save("s.yaml", "zoo sweep")
    record.add(first.every()[0])
    Record(out).check(sweep(text % (8, [1, 2]), tmp_path).every())  # more seeds are more trials
    with pytest.raises(UserError, match="DCT-seed=1' was run with model.width 8, where the sweep now has 16"):
        Record(out).check(sweep(text % (16, 1), tmp_path).every())
    mine.write_text("base: char_lm\nmodel: {init_args: {layers: 1}}\n")
    with pytest.raises(UserError, match=r"was run with .*mine\.yaml.* with other settings"):
        Record(out).check(sweep(text % (8, 1), tmp_path).every())


def test_the_shipped_one_is_the_papers_table():
    plan = read("char_lm_sweep.yaml")
    assert "char_lm_sweep.yaml" in shipped()
    names = [method.name for method in plan.methods]
    assert "Dense" in names and plan.seeds == (1, 2, 3, 4, 5) and plan.search_seed == 0
    for kind in ("DCT", "RandomOrthonormal", "Zigzag", "Zigzag-basis=random", "LoRA", "RandLoRA"):
        assert {f"{kind}-ratio={ratio}" for ratio in (0.5, 0.1, 0.05)} <= set(names)
    assert len({trial.name for trial in plan.every()}) == len(plan.every())
