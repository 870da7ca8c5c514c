"""What runs, comparisons and options are called: in the fewest words that tell them apart."""

import functools
from pathlib import Path

import pytest
from adapted import classifier, run
from fits import fit

from zoo.__main__ import main
from zoo.errors import UserError
from zoo.files.paths import nickname
from zoo.parameterizations import LoRA
from zoo.runs.names import label, numbered, said, short, short_names, told_apart
from zoo.runs.run import Run
from zoo.runs.updates import read


def test_runs_that_differ_in_their_seed_are_one_group(tune, place):
    options = [
        "--seed_everything=0",
        "--seed_everything=1",
        "--model.optimizer.lr=0.01",
        "--model.tuning.head_lr=0.02",
        "--trainer.max_epochs=2",
    ]
    folders = [fit(*tune, option, config="glue_rte lora_8") for option in options]
    folders.append(fit(*tune, "--model.parameterization.lora_rank=4", config="glue_rte dct_8"))
    sources = label([read(str(folder)) for folder in folders])
    groups = [source.group for source in sources]
    assert groups[0] == groups[1]
    assert len(set(groups)) == 5
    assert all(group.startswith("rte / bert / LoRA rank=8, ") for group in groups[:5])
    assert "lr=0.01" in groups[2] and "head_lr=0.02" in groups[3] and "steps=10" in groups[4]
    assert groups[5] == "rte / bert / DCT lora_rank=4"
    assert [source.seed for source in sources[:2]] == [0, 1]
    assert len({source.name for source in sources}) == 6


def named(path: str = "a", **settings: str) -> Run:
    return Run(path=path, name=nickname(path), group="rte / bert / LoRA", conditions=settings)


def test_groups_differ_by_the_setting_that_tells():
    sources = [
        named(f"run{i}", a="1", lr=lr, rare=rare, long=long)
        for i, (lr, rare, long) in enumerate(
            [("1", "x", "y" * 99), ("2", "x", "y" * 99), ("3", "z", "y" * 99)]
        )
    ]
    assert [s.group for s in label(sources)] == [f"rte / bert / LoRA, lr={i}" for i in (1, 2, 3)]
    assert label(sources[:1])[0].group == "rte / bert / LoRA"
    hidden = label(
        [
            named("a", long="y" * 99 + "1"),
            named("b", long="y" * 99 + "2"),
            named("c", long="y" * 99 + "1"),
        ]
    )
    assert hidden[0].group == hidden[2].group != hidden[1].group


def test_adapters_are_groups_of_their_own(backbones, place):
    """Nothing in them says what they were trained on."""
    path = run(classifier(backbones("bert"), functools.partial(LoRA, rank=4)), Path("run"))
    for name in ("cola", "rte", "x/rte"):
        assert main(["export", path, "--to", "peft", "--output", name]) == 0
    sources = label([read(name) for name in ("cola", "rte", "x/rte")])
    assert sources[0].group == "cola / bert / LoRA rank=4"
    assert (
        len({source.group for source in sources}) == len({source.name for source in sources}) == 3
    )


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("runs/rte/version_0", "rte"),
        ("runs/rte/version_1", "rte-version_1"),
        ("bert-base-uncased", "bert-base-uncased"),
        ("google/bert", "bert"),
        ("runs/rte/version_0/checkpoints/last.ckpt", "rte"),
        ("packages/minilm/model", "minilm"),
        ("runs/rte/version_2/checkpoints/best.ckpt", "rte-version_2-best"),
        ("a/adapter/adapter_model.safetensors", "a-adapter"),
        (f"hub/models--google--bert/snapshots/{'0a' * 20}", "bert"),
        ("runs/v1.5", "v1.5"),
    ],
)
def test_a_path_in_short(path, name):
    assert nickname(path) == name


def test_names_differ():
    paths = ["x/rte/version_0", "y/rte/version_0", "y/cola/version_0"]
    assert [s.name for s in label([named(path) for path in paths])] == ["x-rte", "y-rte", "cola"]
    with pytest.raises(UserError, match="'x/rte' and 'x/rte/version_0' are the same"):
        label([named("x/rte"), named("x/rte/version_0")])


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ([{"a": 1}, {"a": 1.0}], ["x", "x"]),  # which are one
        ([{"a": 1}, {"a": 2}, {"a": 1}], ["x, a=1", "x, a=2", "x, a=1"]),
        ([{"a": 1, "steps": 5}, {"a": 2, "steps": 6}], ["x, steps=5", "x, steps=6"]),
        ([{"data.rows": [1, 2]}, {}], ["x, rows=1+2", "x"]),
        ([{"base_sizes.width": 64}, {}], ["x, base_sizes.width=64", "x"]),  # of another network
        ([{"sha": "a" * 64}, {"sha": "b" * 64}], ["x, sha=aaaaaaaaaaaa", "x, sha=bbbbbbbbbbbb"]),
        ([{"a": "1"}, {"a": 1}], ["x", "x (2)"]),  # nothing that is shown tells them apart
        (
            [{"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 2, "b": 2}],
            ["x, a=1, b=1", "x, a=1, b=2", "x, a=2, b=2"],
        ),
    ],
)
def test_names_differ_where_settings_do(settings, names):
    assert told_apart(["x"] * len(settings), settings) == names


def test_what_has_another_name_needs_no_words():
    assert told_apart(["x", "y"], [{"a": 1}, {"a": 2}]) == ["x", "y"]


def test_a_number_is_no_name_that_another_has():
    assert numbered(["x", "x (2)", "x", "x"]) == ["x", "x (2)", "x (3)", "x (4)"]


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (
            ["model.optimizer.lr", "model.tuning.lr", "model.width", "lr"],
            ["optimizer.lr", "tuning.lr", "width", "lr"],
        ),
        (
            ["a.self.query", "a.self.key", "a.output.dense", "output.dense", "mlp.dense"],
            ["query", "key", "a.output.dense", "output.dense", "mlp.dense"],
        ),
        (["x.dense", "y.dense"], ["x.dense", "y.dense"]),
    ],
)
def test_options_and_layers_by_their_last_words(keys, names):
    assert short_names(keys) == dict(zip(keys, names, strict=True))


def test_parts_of_a_map_go_by_their_names_and_what_is_unusual():
    lora = {"class_path": "zoo.parameterizations.LoRA", "init_args": {"rank": 4, "seed": 0}}
    plain = {"class_path": "zoo.parameterizations.Sparse", "init_args": {"ratio": None}}
    settings = {"p.parts": [lora, plain], "p.left": "zoo.parameterizations.DCT", "p.ratio": 0.1}
    assert " ".join(said(settings, settings)) == "LoRA(rank=4)+Sparse left=DCT ratio=0.1"
    assert short({"class_path": "mine.Basis"}) == "mine.Basis"
