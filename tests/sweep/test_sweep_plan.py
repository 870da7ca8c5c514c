"""A sweep file becomes methods and trials, each with a name and a command line of its own, or one
line of complaint.
"""

import math
import re
import time
import tracemalloc

import pytest
import yaml

from zoo.cli.fit.config_files import shipped
from zoo.errors import UserError
from zoo.sweep.names import label
from zoo.sweep.plan import planned_steps
from zoo.sweep.read import parse, read
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


def every(plan):
    """All trials that could be: at every searched point, on every seed."""
    return [
        trial
        for method in plan.methods
        for trial in [
            *plan.search(method),
            *(each for point in method.points for each in plan.reported(method, point)),
        ]
    ]


def outcome(value, lower=True):
    return Outcome(value, lower, 1.0, "loss" if lower else "score")


def test_methods_are_the_grid_without_what_is_searched(tmp_path):
    plan = sweep(PAPER, tmp_path)
    assert [method.name for method in plan.methods] == [
        "Dense",
        "DCT-ratio=0.5",
        "DCT-ratio=0.1",
        "Zigzag-ratio=0.5",
        "Zigzag-ratio=0.1",
        "ratio=0.5-LoRA",
    ]
    assert [point["model.optimizer.lr"] for point in plan.methods[0].points] == [0.01, 0.02]
    # Its own search.
    assert [point["model.optimizer.lr"] for point in plan.methods[-1].points] == [0.001, 0.002]
    assert plan.size() == 6 * (2 + 2) and len(every(plan)) == 6 * (2 + 2 * 2)


def test_a_trial_is_a_fit(tmp_path):
    plan = sweep(PAPER, tmp_path)
    trial = plan.search(plan.methods[-1])[1]
    assert trial.name == "ratio=0.5-LoRA-lr=0.002-seed=0" and trial.searched and trial.steps == 1000
    assert trial.words("out") == [
        "fit",
        "--config",
        "char_lm.yaml",
        "--trainer.max_steps=1000",
        "--model.parameterization=LoRA",
        "--model.parameterization.ratio=0.5",
        "--model.optimizer.lr=0.002",
        "--name=ratio=0.5-LoRA-lr=0.002-seed=0",
        "--trainer.default_root_dir=out",
        "--seed_everything=0",
    ]
    reported = plan.reported(plan.methods[1], {"model.optimizer.lr": 0.02})
    assert [each.name for each in reported] == [
        "DCT-ratio=0.5-lr=0.02-seed=1",
        "DCT-ratio=0.5-lr=0.02-seed=2",
    ]
    assert not any(each.searched for each in reported)


def test_without_a_search_every_point_runs_on_every_seed(tmp_path):
    plan = sweep(
        """
        grid: {model.parameterization: [DCT, Dense], model.optimizer.lr: [0.1, 0.2]}
        seeds: [3, 4, 5]
    """,
        tmp_path,
    )
    schedule = Schedule(plan, {})
    names = [trial.name for trial in schedule.waiting]
    assert (
        len(names) == plan.size() == 12
        and names[0] == "DCT-lr=0.1-seed=3"
        and names[-1] == "Dense-lr=0.2-seed=5"
    )


def test_a_search_of_one_value_needs_no_trials(tmp_path):
    plan = sweep(
        "{grid: {model.parameterization: [DCT]}, search: {model.optimizer.lr: [0.1]}, seeds: 7}",
        tmp_path,
    )
    assert [trial.name for trial in Schedule(plan, {}).waiting] == ["DCT-lr=0.1-seed=7"]


@pytest.mark.parametrize(
    "value", [["mlp.*"], "a/b", {"mlp.*": {"class_path": "LoRA"}}, "ä b", "x" * 400]
)
def test_names_are_files_names(value):
    name = "-".join(label({"model.targets": value}, {"model.targets": "targets"}))
    other = "-".join(label({"model.targets": [value]}, {"model.targets": "targets"}))
    assert (
        re.fullmatch(r"targets=[\w.+=-]+-[0-9a-f]{4}", name) and len(name) < 140 and name != other
    )


def test_a_class_of_ones_own_goes_by_its_name():
    labels = {"model.parameterization": "parameterization"}
    assert label({"model.parameterization": "my_basis.MyBasis"}, labels) == ["MyBasis"]
    spec = {"class_path": "zoo.parameterizations.DCT", "init_args": {"ratio": 0.5}}
    assert label({"model.parameterization": spec}, labels) == ["DCT", "ratio=0.5"]
    callbacks = {"trainer.callbacks": [{"class_path": "ReLoRA", "init_args": {"every": 400}}, spec]}
    named = label(callbacks, {"trainer.callbacks": "callbacks"})
    assert named == ["callbacks=ReLoRA+every=400+DCT+ratio=0.5"]


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
    "{grid: {model.width: 8}, options: {model.width: 8}, seeds: 1}": [
        "model.width",
        "options and in grid",
    ],
    "{grid: {a.b: 8}, options: {a.c: 8}, search: {a.c: [1]}, seeds: 1}": [
        "a.c",
        "options and in search",
    ],
    "{grid: {a.b: 8}, search: {a.c: 1}, seeds: 1}": ["search.a.c must be a list"],
    "{grid: {a.b: 8, a.c: 1}, search: {a.c: [1]}, seeds: 1}": ["grid's a.c must be a list"],
    "{grid: {a.b: 8}, search: {a.c: []}, seeds: 1}": ["search.a.c", "empty"],
    "{grid: {a.b: 8}, search: {seed: 0}, seeds: 1}": ["search tunes no option"],
    "{grid: [{a.b: 8}, {a.b: 9, a.c: [1]}], search: {a.c: [1, 2]}, seeds: 1}": [
        "b=8",
        "2 values",
        "b=9",
        "fair",
    ],
    "{grid: {a.b: 8}, search: {a.c: [1], seed: 1}, seeds: [1, 2]}": ["seed 1 is the search's"],
    "{grid: {a.b: 8}, search: {a.c: [1], seed: [3]}, seeds: [1, 2]}": ["search.seed", "[3]"],
    "{grid: {a.b: 8}, seeds: [1, 1]}": ["seeds has a number twice"],
    "{grid: {a.b: 8}, seeds: [4294967296]}": ["seeds must be whole numbers from 0 to 4294967295"],
    "{grid: {a.b: 8}, seeds: [-1]}": ["seeds must be whole numbers"],
    "{grid: {a.b: 8}, seeds: [true]}": ["seeds must be whole numbers"],
    "{grid: {a.b: 8}, seeds: []}": ["seeds must be whole numbers"],
    "{grid: {seed_everything: [1, 2]}, seeds: 1}": ["seed_everything", "seeds has them"],
    "{grid: {a.b: 8}, options: {name: x}, seeds: 1}": ["options cannot set name"],
    "{grid: {--a.b: 8}, seeds: 1}": ["without dashes, as a.b"],
    "{grid: {trust: x}, seeds: 1}": ["grid cannot set trust", "zoo sweep --trust"],
    "{grid: {a.b: 2020-01-01}, seeds: 1}": ["grid's a.b", "a date", "in quotes"],
    "{grid: {a.b: [{1: 2}]}, seeds: 1}": ["grid's a.b", "the key 1", "in quotes"],
    "{grid: {a.b: !!set {x}}, seeds: 1}": ["grid's a.b", "a set"],
    '{grid: {a.b: ["x\\0y"]}, seeds: 1}': ["grid's a.b", "cannot stand on a command line"],
    '{grid: {"a\\0": 1}, seeds: 1}': ["cannot stand on a command line"],
    "{grid: {a.b: 0x1%s}, seeds: 1}" % ("0" * 5000): ["a number of more than"],
    "{grid: {a.b: 1}, seeds: [0x1%s]}" % ("0" * 5000): ["a number of more than"],
    f"{{grid: {{a.b: 1}}, seeds: {[[i] for i in range(9999)]}}}": [
        "seeds must be whole numbers",
        "...",
    ],
    "{config: %s, grid: {a.b: 1}, seeds: 1}" % ("x" * 5000): ["no config"],
    "{gird: {a.b: 8}, seeds: 1}": ["no 'gird'", "did you mean 'grid'"],
    "{model: {}, trainer: {}}": ["no 'model'", "config of zoo fit"],
    "{config: dct_hlaf, grid: {a.b: 8}, seeds: 1}": ["no config 'dct_hlaf'", "dct_half.yaml"],
    "[1]": ["must hold `key: value` lines"],
    "grid: {a: [": ["s.yaml', line "],
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_are_one_line(text, tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read(str(path))
    line = str(error.value)
    assert (
        "\n" not in line
        and len(line) < 6000
        and [word for word in MISTAKES[text] if word not in line] == []
    ), line


def test_reported_seeds_follow_their_own_search_alone(tmp_path):
    plan = sweep(PAPER, tmp_path)
    schedule = Schedule(plan, {})
    started = [schedule.next().name for _ in range(12)]
    assert started[:3] == [
        "Dense-lr=0.01-seed=0",
        "Dense-lr=0.02-seed=0",
        "DCT-ratio=0.5-lr=0.01-seed=0",
    ]
    assert schedule.next() is None and not schedule.over()  # all searches run, and none is done
    schedule.finish("DCT-ratio=0.5-lr=0.01-seed=0", outcome(2.0))
    assert schedule.next() is None
    schedule.finish("DCT-ratio=0.5-lr=0.02-seed=0", outcome(1.5))
    assert [schedule.next().name for _ in range(2)] == [
        "DCT-ratio=0.5-lr=0.02-seed=1",
        "DCT-ratio=0.5-lr=0.02-seed=2",
    ]
    assert schedule.next() is None
    schedule.finish("Dense-lr=0.01-seed=0", outcome(math.nan))
    schedule.finish("Dense-lr=0.02-seed=0", outcome(1e9))
    assert schedule.best["Dense"] == {"model.optimizer.lr": 0.02}
    schedule.finish("Zigzag-ratio=0.5-lr=0.01-seed=0", outcome(0.3, lower=False))
    schedule.finish("Zigzag-ratio=0.5-lr=0.02-seed=0", outcome(0.2, lower=False))
    assert schedule.best["Zigzag-ratio=0.5"] == {"model.optimizer.lr": 0.01}


def test_a_method_waits_for_what_failed_and_the_others_go_on(tmp_path):
    plan = sweep(
        """
        grid: {model.parameterization: [DCT, LoRA, Dense]}
        search: {model.optimizer.lr: [0.1, 0.2, 0.4]}
        seeds: [1, 2]
    """,
        tmp_path,
    )
    schedule = Schedule(
        plan, {"DCT-lr=0.1-seed=0": outcome(3.0), "Dense-lr=0.1-seed=0": outcome(1.0)}
    )
    while (trial := schedule.next()) is not None:
        broken = {"DCT-lr=0.2-seed=0": "no more", "Dense-lr=0.1-seed=2": "no more"}
        schedule.finish(
            trial.name,
            broken.get(trial.name) or outcome(math.inf if trial.method == "LoRA" else 2.0),
        )
    assert schedule.over() and set(schedule.failed) == {"DCT-lr=0.2-seed=0", "Dense-lr=0.1-seed=2"}
    assert (
        set(schedule.best) == {"Dense"}
        and set(schedule.stuck) == {"LoRA"}
        and schedule.blocked() == 4
    )
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


def test_the_shipped_one_is_the_papers_table():
    plan = read("char_lm_sweep.yaml")
    assert "char_lm_sweep.yaml" in shipped()
    names = [method.name for method in plan.methods]
    assert "Dense" in names and plan.seeds == (1, 2, 3, 4, 5) and plan.search_seed == 0
    for kind in ("DCT", "RandomOrthonormal", "Zigzag", "Zigzag-basis=random", "LoRA", "RandLoRA"):
        assert {f"{kind}-ratio={ratio}" for ratio in (0.5, 0.1, 0.05)} <= set(names)
    assert len({trial.name for trial in every(plan)}) == len(every(plan))


NINE = list(range(9))
MANY = list(range(10_001))
BLOCK = {"a.b": [1, 2]}
BOMB = (
    "["
    + ", ".join(f"&b{i} [{', '.join([f'*b{i - 1}' if i else '1'] * 9)}]" for i in range(9))
    + "]"
)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"grid": {f"a.b{i}": NINE for i in range(9)}}, "387,420,489 trials"),
        ({"grid": {"a.a": 1}, "search": {f"a.b{i}": NINE for i in range(9)}}, "387,420,490 trials"),
        ({"grid": {f"a.b{i}": NINE for i in range(5000)}}, "about 10^4771 trials"),
        ({"grid": {"a.b": 1}, "seeds": MANY}, "10,001 trials"),
        ({"grid": {"a.b": MANY}}, "10,001 trials"),
        ({"grid": [BLOCK] * 5001}, "10,002 trials"),  # as aliases are
    ],
)
def test_trials_are_counted_before_anything_is_made_of_them(raw, words, tmp_path):
    """A few bytes can stand for billions."""
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(UserError, match=re.escape(words)) as error:
        parse({"seeds": 1, **raw}, tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert time.process_time() - start < 5 and peak < 50e6  # tracing makes it ten times as slow
    if words[0].isdigit() and words.endswith("trials"):
        assert f"--max-trials {words.split()[0].replace(',', '')}" in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"options: {{a.c: {BOMB}}}\ngrid: {{a.b: 1}}\nseeds: 1\n", "more than 1,000,000 values"),
        (f"options: {{a.c: {BOMB}}}\ngrid: {{a.b: 1}}\nseeds: *b8\n", "more than 1,000,000 values"),
        ("grid: {a.b: &a [*a]}\nseeds: 1\n", "deeper than 60"),
    ],
)
def test_aliases_of_aliases_are_counted_as_what_they_stand_for(text, words, tmp_path):
    (tmp_path / "s.yaml").write_text(text)
    start = time.process_time()
    with pytest.raises(UserError, match=words):
        read(str(tmp_path / "s.yaml"))
    assert time.process_time() - start < 10  # it takes one


def test_what_cannot_stand_on_a_command_line_is_refused(tmp_path):
    with pytest.raises(UserError, match="grid's a.b has .* cannot stand on a command line"):
        parse({"grid": {"a.b": ["\ud800"]}, "seeds": 1}, tmp_path)


def test_the_number_of_trials_that_are_counted_is_the_number_that_there_are(tmp_path):
    for text in (
        PAPER,
        "{grid: {a.b: [1, 2, 3], a.c: 5}, seeds: [1, 2]}",
        "{grid: {a.b: 1}, search: {a.c: [1]}, seeds: [1, 2]}",
        "{grid: [{a.b: 1}, {a.b: 2, a.c: [3, 4]}], search: {a.c: [1, 2], a.d: [1, 2, 3]}, "
        "seeds: [1, 2]}",
    ):
        plan = sweep(text, tmp_path)
        assert plan.size() == sum(
            len(plan.search(m)) + len(plan.reported(m, m.points[0])) for m in plan.methods
        )
        parse(yaml.safe_load(text), tmp_path, most=plan.size())
        with pytest.raises(
            UserError, match=f"has {plan.size()} trials, more than {plan.size() - 1}"
        ):
            parse(yaml.safe_load(text), tmp_path, most=plan.size() - 1)


def test_configs_that_start_from_too_many_others(tmp_path):
    for i in range(40):
        (tmp_path / f"c{i}.yaml").write_text(f"base: [c{i + 1}.yaml, c{i + 1}.yaml]\n")
    (tmp_path / "c40.yaml").write_text("{}\n")
    (tmp_path / "loop.yaml").write_text("base: loop.yaml\n")
    (tmp_path / "keys.yaml").write_text("{1: 2, a: 3}\n")
    for name, words in (
        ("c0", "too many others"),
        ("loop", "itself as base"),
        ("keys", "no text: write it in quotes"),
    ):
        with pytest.raises(UserError, match=words):
            parse({"config": f"{name}.yaml", "grid": {"a.b": 1}, "seeds": 1}, tmp_path)


def test_a_trial_is_found_by_its_name(tmp_path):
    for text in (
        PAPER,
        "{grid: {a.b: [1, 2]}, search: {a.c: [1]}, seeds: [1, 2]}",
        "{grid: {a.b: ['x-seed=1', '%s']}, seeds: [1, 11]}" % ("y" * 300),
    ):
        plan = sweep(text, tmp_path)
        known = {trial.name: trial for trial in every(plan)}
        assert {trial.name: trial for trial in plan.among(known)} == known
        assert not plan.among(
            [
                "",
                "-seed=1",
                "x",
                *(f"{name}0" for name in known if f"{name}0" not in known),
                *(f"{name}.damaged-1" for name in known),
                *(f"{name}.log" for name in known),
            ]
        )
        firsts = list(plan.firsts())
        assert {(trial.method, str(trial.point)) for trial in firsts} == {
            (method.name, str(point)) for method in plan.methods for point in method.points
        } and {trial.name for trial in firsts} <= set(known)


@pytest.mark.parametrize(
    "value",
    [
        "..",
        ".",
        "-x",
        "a\nb",
        "\u2028",
        "../../x",
        "/",
        "x" * 400,
        "\U00020000" * 120,
        "\u00e4" * 119,
        "",
    ],
)
def test_a_trials_name_is_a_folders(value, tmp_path):
    """One that is not hidden and no option, and which leaves room for what is put behind it."""
    names = []
    for grid, search in (
        ({"a.b": [value]}, {}),
        ({"model.parameterization": [value]}, {}),
        ({"a.a": 1, "a.d": value}, {"search": {"a.b": [value]}}),
    ):
        names += [
            trial.name
            for trial in every(parse({"grid": grid, "seeds": 2**32 - 1, **search}, tmp_path))
        ]
    for name in names:
        (tmp_path / f"{name}.damaged-999999").mkdir()
        assert (tmp_path / f"{name}.damaged-999999").parent == tmp_path
        assert name.isprintable() and name[0] not in ".-" and "/" not in name


def test_two_trials_never_share_a_name(tmp_path):
    with pytest.raises(
        UserError, match="two trials would both be called a=1-b=2-b=2, and share a folder"
    ):
        sweep(
            "{grid: [{x.a: 1, x.b: [2-b=2]}, {x.a: 1-b=2, x.b: [2]}], search: {x.b: [3]}, "
            "seeds: 1}",
            tmp_path,
        )
