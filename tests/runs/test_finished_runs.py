"""Runs as a report reads them: what counts as one, what is left out, and which settings matter."""

import json
from pathlib import Path

import pytest
from fits import events, fit
from report_runs import write_events, write_run

from zoo.errors import UserError
from zoo.files.flat import flatten
from zoo.runs import event_curves
from zoo.runs.defaults import filled
from zoo.runs.finished_runs import read
from zoo.studies.report.comparison import compare


def only(folder: Path):
    (run,), skipped = read([str(folder)])
    assert skipped == []
    return run


def test_a_run_of_zoo_fit(place, small):
    """Every number of a real run is that of its summary and of TensorBoard's own reader."""
    folder = fit(
        *small,
        "--stable_rank.every_n_steps=2",
        "--trainer.val_check_interval=2",
        "--model.optimizer.lr=0.02",
    )
    summary = json.loads((folder / "summary.json").read_text())
    run = only(place / "runs")
    assert run.value == summary["loss"] == pytest.approx(run.curve[-1][1])
    assert (run.path, run.name, run.parameterization) == (str(folder), "dct_half-text", "DCT")
    assert (run.lr, run.seed, run.steps, run.higher) == (0.02, 0, 6, False)
    theirs = events(folder).Scalars("val/loss")
    assert run.curve == [(event.step, event.value) for event in theirs] and len(run.curve) == 3
    assert [step for step, _ in run.ranks] == [0, 2, 4, 6] and run.ranks[-1][1] == pytest.approx(
        summary["stable_rank"]
    )
    assert run.epoch == summary["train_characters"] // (4 * 16)
    assert run.method["parameterization.ratio"] == 0.5 and run.conditions["model.width"] == 16


def test_scores_of_a_classifier(tune, place):
    """More is better, and the metric is called by its name; W's rank is that of the update."""
    folder = fit(*tune, config="glue_rte lora_8")
    summary = json.loads((folder / "summary.json").read_text())
    run = only(folder)
    assert (run.value, run.higher, run.metrics) == (summary["score"], True, ["accuracy", "score"])
    assert run.subject == "rte / bert" and run.epoch == 5 == run.steps
    assert (
        run.ranks[-1] == (5, pytest.approx(summary["stable_rank"]))
        and run.curve[-1][1] == run.value
    )


def test_runs_are_found_at_any_depth_and_once(tmp_path):
    for place in ("a/b/x/version_0", "a/y/version_1"):
        write_run(tmp_path / place)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    runs, _ = read([str(tmp_path / place) for place in (".", "a/b", "link", "a/b/x/version_0")])
    assert [run.name for run in runs] == ["x", "y-version_1"]


@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        ("summary.json", None, "not finished: it has no summary.json"),
        ("summary.json", "{", "its summary.json is damaged"),
        ("summary.json", "[]", "its summary.json is damaged"),
        ("summary.json", '{"loss": 1}', "not one of zoo fit: no parameterization, coefficients"),
        ("config.yaml", None, "no config.yaml: its settings are not known"),
        ("config.yaml", "model: [", "its config.yaml is damaged"),
        ("config.yaml", "model: 3", "its config.yaml is damaged"),
        ("config.yaml", "", "its config.yaml is damaged"),
    ],
)
def test_what_is_no_run_is_named(tmp_path, file, content, why):
    write_run(tmp_path / "good")
    bad = write_run(tmp_path / "bad") / file
    bad.unlink() if content is None else bad.write_text(content)
    (run,), ((path, words),) = read([str(tmp_path)])
    assert (run.name, path) == ("good", str(tmp_path / "bad"))
    assert why in words


def test_a_run_without_validation_is_named(tmp_path):
    write_run(tmp_path / "bad", loss=None)
    assert read([str(tmp_path)])[1] == [
        (str(tmp_path / "bad"), "it was never validated: its summary.json has no loss")
    ]


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_run_that_diverged_has_no_value(tmp_path, loss):
    assert only(write_run(tmp_path / "run", loss)).value is None


def test_a_path_without_runs(tmp_path):
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "run")
    with pytest.raises(UserError, match="no run in '.*empty'"):
        read([str(tmp_path / "run"), str(tmp_path / "empty")])
    with pytest.raises(UserError, match="is no folder"):
        read([str(tmp_path / "run" / "summary.json")])


ALIKE = [
    {
        "config": {
            "trainer.default_root_dir": "/elsewhere",
            "data.init_args.data_dir": "/there",
            "name": "x",
        }
    },
    {
        "config": {
            "seed_everything": 3,
            "trainer.log_every_n_steps": 7,
            "trainer.limit_val_batches": 1.0,
        },
        "seed": 3,
    },
    {"config": {"model.init_args.seed": 3, "data.init_args.seed": 3}, "seed": 3},
    {"lr": 0.5},
    {"config": {"data.init_args.fallback": "pydoc"}},
    {"device": "GPU", "date": "2027", "seconds": 9.0},
    {
        "config": {
            "model.init_args.overrides": {},
            "trainer.val_check_interval": 10,
            "stable_rank": {"every": 3},
        }
    },
]
NETWORKS = [
    {"corpus_sha256": "b" * 64},
    {"validation_characters": 5},
    {"steps": 300},
    {"batch_size": 16},
    {"precision": "bf16-mixed"},
    {"config": {"model.init_args.width": 64}},
    {"config": {"trainer.max_steps": 4000}},
    {"config": {"trainer.accumulate_grad_batches": 2}},
    {"config": {"trainer.limit_val_batches": 1}},
]
METHODS = [
    {"ratio": 0.1},
    {"name": "Zigzag"},
    {"optimizer": {"weight_decay": 0.0}},
    {"optimizer": {"beta2": 0.9}},
    {"optimizer": {"name": "muon", "momentum": 0.9}},
    {"targets": ["mlp.*"]},
    {"arguments": {"seed": 4}},
    {
        "config": {
            "model.init_args.overrides": {"mlp.*": {"class_path": "zoo.parameterizations.Dense"}}
        }
    },
    {"config": {"trainer.gradient_clip_val": 1.0}},
    {"coefficients": 4999},
]


@pytest.mark.parametrize(
    ("changes", "network", "method"),
    [
        *[(changes, True, True) for changes in ALIKE],
        *[(changes, False, True) for changes in NETWORKS],
        *[(changes, True, False) for changes in METHODS],
    ],
)
def test_which_settings_matter(tmp_path, changes, network, method):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", **changes)
    a, b = read([str(tmp_path)])[0]
    assert (a.conditions == b.conditions, a.method == b.method) == (network, method)


SPLITS = [
    {"batch_size": 16, "devices": 2},
    {"batch_size": 8, "devices": 4},
    {"batch_size": 16, "config": {"trainer.accumulate_grad_batches": 2}},
    {
        "batch_size": 4,
        "devices": 4,
        "config": {"trainer.accumulate_grad_batches": 2, "trainer.devices": 4},
    },
]


@pytest.mark.parametrize("split", SPLITS)
def test_one_global_batch_is_one_condition(tmp_path, split):
    """However it is divided over processes and steps: of 32 windows, an epoch has as many steps."""
    split = {"config": {}} | split
    split["config"] |= {"data.init_args.batch_size": split["batch_size"]}
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", **split)
    write_run(tmp_path / "c", **split | {"devices": 3 * split.get("devices", 1)})
    a, b, c = read([str(tmp_path)])[0]
    assert a.conditions == b.conditions != c.conditions
    assert a.epoch == b.epoch == 40_960 // (32 * 128) == 3 * c.epoch + 1


IDENTITY = {
    "data": {"checksum": "x", "rows.train": 3},
    "conditions": {"model": "my.Task", "model.depth": 2, "steps": 400},
    "method": {
        "model.parameterization": "zoo.parameterizations.DCT",
        "model.parameterization.ratio": 0.5,
        "model.targets": ["*"],
        "model.optimizer": "adamw",
        "model.optimizer.beta2": 0.9,
        "model.extra": None,
    },
}


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("data", "checksum", "y"),
        ("data", "rows.train", 4),
        ("data", "more", 1),
        ("conditions", "model.depth", 3),
        ("conditions", "steps", 5),
        ("conditions", "whatever", [1]),
        ("method", "model.parameterization.ratio", 0.1),
        ("method", "model.targets", ["a"]),
        ("method", "model.extra.word", "x"),
        ("method", "model.optimizer", "muon"),
    ],
)
def test_an_identity_is_compared_whole(tmp_path, part, key, value):
    """Whatever a task calls its settings, and whatever its config.yaml says."""
    for name in ("a", "b"):
        identity = {**IDENTITY, part: IDENTITY[part] | ({key: value} if name == "b" else {})}
        write_run(
            tmp_path / name,
            identity=identity,
            data_name="mine",
            network="own",
            epoch_steps=7,
            config={"model.init_args.width": len(str(tmp_path / name)) + (name == "b")},
        )
    (tmp_path / "a" / "config.yaml").unlink()
    a, b = read([str(tmp_path)])[0]
    assert (a.conditions == b.conditions, a.method == b.method) == (
        part == "method",
        part != "method",
    )
    assert (a.subject, a.epoch, a.lr, a.arguments) == ("mine / own", 7, 0.01, {"ratio": 0.5})


def test_runs_of_an_older_zoo_stand_apart(tmp_path):
    """What they do not say cannot be compared; a report with both says which are which."""
    write_run(tmp_path / "new", identity=IDENTITY, data_name="tiny", network="CharLM")
    write_run(tmp_path / "old")
    names = {comparison["name"] for comparison in compare(read([str(tmp_path)])[0])["comparisons"]}
    assert names == {"tiny / CharLM", "tiny / CharLM, identity=none"}
    assert [c["name"] for c in compare(read([str(tmp_path / "old")])[0])["comparisons"]] == [
        "tiny / CharLM"
    ]


@pytest.mark.parametrize(
    "identity",
    [
        3,
        [],
        {},
        {"data": {}},
        {**IDENTITY, "data": []},
        {**IDENTITY, "method": {}},
        {**IDENTITY, "conditions": {}},
        {**IDENTITY, "method": {"model.optimizer": 3}},
        {**IDENTITY, "data": {str(i): i for i in range(6000)}},
    ],
)
def test_a_damaged_identity_is_left_out(tmp_path, identity):
    write_run(tmp_path / "bad", identity=identity)
    write_run(tmp_path / "good")
    (run,), ((path, why),) = read([str(tmp_path)])
    assert run.name == "good" and path.endswith("bad") and "damaged" in why


def test_what_an_old_run_does_not_mention_is_at_its_default(tmp_path):
    """Of the class that has it: `selection` of DCT is random, `dropout` of CharLM 0."""
    new = {"model.init_args.dropout": 0.0, "model.init_args.budget": None}
    write_run(tmp_path / "new", arguments={"selection": "random", "lora_rank": None}, config=new)
    write_run(
        tmp_path / "other",
        arguments={"selection": "zigzag"},
        config={"model.init_args.dropout": 0.1},
    )
    old = write_run(tmp_path / "old")
    summary = json.loads((old / "summary.json").read_text())
    del summary["optimizer"]
    (old / "summary.json").write_text(json.dumps({**summary, "weight_decay": 0.1}))
    first, last, other = read([str(tmp_path)])[0]
    assert (first.method, first.conditions) == (last.method, last.conditions)
    assert other.method != first.method and other.conditions != first.conditions


def test_a_class_that_is_not_there_has_no_defaults():
    flats = [
        flatten({"class_path": "gone.Basis", "init_args": given}, "p")
        for given in ({}, {"k": 1}, {"k": None})
    ]
    assert filled(flats) == [
        {"p": "gone.Basis"},
        {"p": "gone.Basis", "p.k": 1},
        {"p": "gone.Basis"},
    ]


def test_curves_of_a_resumed_run(tmp_path):
    """The later file has the steps that were trained again; a record that was cut short ends its
    file.
    """
    write_events(tmp_path, {"val/loss": [(1, 5.0), (2, 4.0), (3, 9.0)], "train/loss": [(1, 1.0)]})
    first = next(tmp_path.glob("events*"))
    first.rename(tmp_path / "events.out.tfevents.0000000001.host")
    write_events(tmp_path, {"val/loss": [(2, 3.0), (4, float("nan")), (5, 2.0), (6, 1.0)]})
    last = max(tmp_path.glob("events*"))
    last.write_bytes(last.read_bytes()[:-3])
    assert event_curves.read(tmp_path, ["val/"]) == {
        "val/loss": [(1, 5.0), (2, 3.0), (3, 9.0), (5, 2.0)]
    }


def test_mean_over_layers():
    found = {
        "r/a": [(0, 1.0), (2, 3.0)],
        "r/b": [(0, 2.0), (1, 7.0), (2, 5.0)],
        "r/all.min": [(0, 9.0)],
        "r/update.a": [(0, 50.0)],
        "q/c": [(0, 8.0)],
    }
    assert event_curves.mean_over_layers(found, "r/") == [(0, 1.5), (2, 4.0)]
    assert event_curves.mean_over_layers(found, "r/update.") == [(0, 50.0)]
    assert event_curves.mean_over_layers(found, "none/") == []
