"""What a sweep's folder holds of the sweep itself, its lock, and the classes of their own that
users name.
"""

import os

import pytest
import yaml
from test_sweep_plan import every, sweep

from zoo.errors import UserError
from zoo.sweep.plan import own_classes
from zoo.sweep.record import Record, lock


def test_a_folder_of_other_settings_is_refused(tmp_path):
    out, mine = tmp_path / "out", tmp_path / "mine.yaml"
    mine.write_text("base: char_lm\n")
    (out / "DCT-seed=1").mkdir(parents=True)
    text = (
        "{config: mine.yaml, options: {model.width: %s}, grid: {model.parameterization: DCT}, "
        "seeds: %s}"
    )
    first = sweep(text % (8, 1), tmp_path)
    with pytest.raises(UserError, match="is there already and is not of this sweep"):
        Record(out).check(every(first))
    record = Record(out)
    record.save("s.yaml", "zoo sweep")
    record.add(every(first)[0])
    Record(out).check(every(sweep(text % (8, [1, 2]), tmp_path)))  # more seeds are more trials
    with pytest.raises(
        UserError, match="DCT-seed=1' was run with model.width 8, where the sweep now has 16"
    ):
        Record(out).check(every(sweep(text % (16, 1), tmp_path)))
    mine.write_text("base: char_lm\nmodel: {init_args: {layers: 1}}\n")
    with pytest.raises(UserError, match=r"was run with .*mine\.yaml.* with other settings"):
        Record(out).check(every(sweep(text % (8, 1), tmp_path)))


OWN = """
model: mine.Task
data: {class_path: mine.Data, init_args: {transform: {class_path: mine.Transform}, corpus: a.txt}}
trainer:
  callbacks:
    - mine.Callback
    - {class_path: lightning.pytorch.callbacks.Timer, init_args: {dirpath: a.b}}
  logger: {class_path: mine.Logger}
  strategy: ddp
  profiler: mine.Profiler
  default_root_dir: not.a.klass
"""


def test_classes_are_what_stands_where_a_class_belongs():
    assert own_classes(yaml.safe_load(OWN)) == [
        "mine.Task",
        "mine.Data",
        "mine.Transform",
        "mine.Callback",
        "mine.Logger",
        "mine.Profiler",
    ]
    assert own_classes(
        {
            "model": {
                "class_path": "tasks.char_lm.CharLM",
                "init_args": {
                    "parameterization": "mine.Basis",
                    "overrides": {
                        "mlp.proj": "mine.Other",
                        "a.b": {
                            "class_path": "mine.Third",
                            "init_args": {"init": {"class_path": "mine.Init"}, "file": "a.b"},
                        },
                    },
                    "tokenizer": "a.b",
                    "backbone": "a.b",
                },
            }
        }
    ) == ["mine.Basis", "mine.Other", "mine.Third", "mine.Init"]
    assert own_classes(
        {
            "model.parameterization": "mine.Basis",
            "model.init_args.overrides": '{"mlp.*": "mine.Other", "a.b": DCT}',
            "data.class_path": "mine.Data",
            "trainer.callbacks+": '{"class_path": "mine.Callback"}',
            "trainer.strategy": "torch.x.Y",
            "model.width": "a.b",
            "data.init_args.transform.class_path": "mine.Transform",
            "trainer.plugins": "{",
            "trainer.logger": ["zoo.training.tensorboard.Logger", "zoology.Logger"],
        }
    ) == [
        "mine.Basis",
        "mine.Other",
        "mine.Data",
        "mine.Callback",
        "mine.Transform",
        "zoology.Logger",
    ]


def test_a_trial_trusts_what_its_own_configs_and_options_name(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: below.yaml\ntrainer: {callbacks: [mine.Callback]}\n")
    (tmp_path / "below.yaml").write_text("model: {class_path: mine.Task}\n")
    plan = sweep(
        """
        options: {data: mine.Data}
        grid: [{config: mine.yaml}, {model.parameterization: [mine.Basis, DCT]}]
        search: {trainer.strategy: [mine.A, mine.B]}
        seeds: 1
    """,
        tmp_path,
    )
    first, basis, dct = (plan.search(method) for method in plan.methods)
    assert [trial.classes for trial in first] == [
        ("mine.Task", "mine.Callback", "mine.Data", "mine.A"),
        ("mine.Task", "mine.Callback", "mine.Data", "mine.B"),
    ]
    assert basis[0].classes == ("mine.Data", "mine.Basis", "mine.A") and dct[1].classes == (
        "mine.Data",
        "mine.B",
    )
    assert not any("trust" in key or "classes" in key for key in dct[0].record())


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{",
        "",
        "1",
        '{"trials": []}',
        '{"trials": null}',
        '{"trials": {"a\\nb": 1}}',
        '{"trials": {"a": {}}}',
        '{"trials": {"DCT-seed=1": {"options": []}}}',
        "[" * 100_000,
        '{"trials": {"DCT-seed=1": {"options": {}, "config": [1], "seed": 1, "digest": "0"}}}',
        '{"trials": {"DCT-seed=1": {"options": {}, "config": [], "seed": 1}}}',
        '{"trials": {"DCT-seed=1": {"options": {}, "config": "x", "seed": 1, "digest": "0"}}}',
    ],
)
def test_a_damaged_record_is_one_line(content, tmp_path):
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(UserError, match="sweep.json") as error:
        Record(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("nowhere", path)])
def test_what_is_no_record_is_neither_waited_for_nor_replaced(make, tmp_path):
    make(tmp_path / "sweep.json")
    with pytest.raises(UserError, match="sweep.json"):
        Record(tmp_path)


def test_a_record_that_cannot_be_written_stays(tmp_path, monkeypatch):
    record = Record(tmp_path)
    record.save("s.yaml", "zoo sweep")
    before = (tmp_path / "sweep.json").read_bytes()

    def full(path, text):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("zoo.sweep.record.write_text", full)
    with pytest.raises(
        UserError, match="sweep.json': No space left on device; the same command goes on"
    ):
        record.save("s.yaml", "zoo sweep --again")
    assert (tmp_path / "sweep.json").read_bytes() == before


def test_the_lock_names_its_holder_and_leaves_nothing(tmp_path):
    out = tmp_path / "a" / "b"
    with lock(out):
        with (
            pytest.raises(UserError, match=rf"is at work in '{out}' \({os.getpid()} on .*\)"),
            lock(out),
        ):
            raise AssertionError
        assert os.listdir(out) == ["sweep.lock"]
    assert not list(tmp_path.iterdir())
    out.mkdir(parents=True)
    with pytest.raises(KeyError), lock(out):
        raise KeyError
    assert not list(out.iterdir())  # it was there before
    with lock(tmp_path / "c"):
        (tmp_path / "c" / "kept").touch()
    assert os.listdir(tmp_path / "c") == ["kept"]
    os.mkfifo(tmp_path / "c" / "sweep.lock")
    with pytest.raises(UserError, match="cannot write"), lock(tmp_path / "c"):
        raise AssertionError
