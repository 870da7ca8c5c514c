"""`zoo sweep`: the live table, what a trial gets of a machine, and a command that says what is
wrong.
"""

import fcntl
import io
import json
import os
import signal
import sys
import time
import types
from types import SimpleNamespace

import pytest
import yaml
from conftest import refused
from trials import finished

from zoo.__main__ import main
from zoo.cli.fit.command import command_line
from zoo.cli.fit.config_files import shipped
from zoo.errors import UserError
from zoo.layers.convert import counts
from zoo.sweep import cluster, trials
from zoo.sweep.read import parse, read
from zoo.sweep.schedule import Schedule
from zoo.sweep.table import Table, clock, lines, methods_table, shorten, time_left
from zoo.sweep.trials import Outcome
from zoo.training import progress_file
from zoo.training.progress_file import RunProgress

GRID = """
config: dct_half.yaml
options: {trainer.max_steps: 6}
grid: {model.parameterization: [DCT, Dense]}
search: {model.optimizer.lr: [0.1, 0.2], seed: 0}
seeds: [1, 2]
"""


def schedule(tmp_path, text=GRID, known=None):
    return Schedule(parse(yaml.safe_load(text), tmp_path), known or {})


def test_the_live_table_fits(tmp_path):
    plan = schedule(
        tmp_path,
        """
        grid: {model.parameterization: [DCT, LoRA],
               model.targets: [["blocks.*.attention.query", "blocks.*.mlp.*"]],
               model.parameterization.ratio: [0.5, 0.1, 0.05, 0.01]}
        search: {model.optimizer.lr: [0.001, 0.002, 0.004, 0.008]}
        seeds: [1, 2, 3]
    """,
    )
    running = {}
    for i in range(30):
        running[plan.next().name] = (
            RunProgress(12_345, 100_000, 1.2345, 2.0, 1.5, 1.0, 86_000.0) if i % 3 else None
        )
    for width, height in ((80, 24), (60, 10), (120, 50)):
        table = lines(plan, running, 1e5, width, height)
        assert len(table) < height and max(map(len, table)) < width
        assert table[-1].startswith("0 of 56 done, 30 running, 26 waiting, 0 failed  27:46 h")
    table = lines(plan, running, 1)
    assert any(
        "lr=0.002-seed=0  12,345/100,000  1.234     1.500  23:53 h" in line for line in table
    )
    assert "and 12 more" in table


def test_a_run_that_time_ends_has_no_last_step(tmp_path):
    plan = schedule(tmp_path)
    name = plan.next().name
    running = {name: RunProgress(1_234, None, 1.0, None, None, 2.0, None)}
    row = next(line for line in lines(plan, running, None) if line.startswith(name))
    assert row.split() == [name, "1,234", "1.000", "-", "-"]
    assert time_left(plan, running, 5.0) is None


def test_time_left_counts_what_is_half_done(tmp_path):
    plan = schedule(tmp_path)
    assert time_left(plan, {}, 5.0) is None
    plan.next(), plan.next()
    half = {
        "DCT-lr=0.1-seed=0": RunProgress(3, 6, 1.0, 1.0, 1.0, 0.6, 5.0),
        "DCT-lr=0.2-seed=0": None,
    }
    assert time_left(plan, half, 5.0) == pytest.approx(10 * 7.5)
    plan.finish("DCT-lr=0.1-seed=0", "no more")  # it, and the two seeds that wait for it
    assert time_left(
        plan, {"DCT-lr=0.2-seed=0": RunProgress(3, 6, 1.0, 1.0, 1.0, 0.6, 5.0)}, 5.0
    ) == pytest.approx(10 * 4.5)


def test_what_is_shown_at_the_end(tmp_path):
    plan = schedule(tmp_path, GRID.replace("[0.1, 0.2]", "[0.1, 0.2, 0.4]"))
    values = {
        "DCT-lr=0.2-seed=0": 1.0,
        "DCT-lr=0.2-seed=1": 1.1,
        "DCT-lr=0.2-seed=2": 1.3,
        "Dense-lr=0.4-seed=0": 1.0,
    }
    while (trial := plan.next()) is not None:
        plan.finish(trial.name, Outcome(values.get(trial.name, 2.0), True, 1.0, "loss"))
    assert methods_table(plan) == [
        "method   lr   seeds              loss",
        "DCT     0.2       2  1.2000 +- 0.1414",
        "Dense   0.4*      2  2.0000 +- 0.0000",
        "",
        "*  the least or the largest value that was searched: a wider search may do better",
    ]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_where_there_is_no_terminal_and_a_redrawn_table_where_there_is(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    for out in (io.StringIO(), Terminal()):
        err, plan = io.StringIO(), schedule(tmp_path)
        table = Table(plan, tmp_path, out, err)
        first, second = plan.next(), plan.next()
        table.tick()
        plan.finish(first.name, Outcome(1.23456, True, 61.0, "loss"))
        plan.finish(second.name, "RuntimeError: no more")
        table.tick()
        table.tick()
        table.close()
        assert err.getvalue().count("\n") == 2
        assert (
            err.getvalue().startswith(f"{second.name} failed; ")
            and "    RuntimeError: no more" in err.getvalue()
        )
        said = out.getvalue()
        if not out.isatty():
            assert (
                said.startswith(f"{first.name}  loss 1.2346  1:01 min  (1 of 8, ")
                and said.count("\n") == 1
            )
        else:
            assert "0 of 8 done, 2 running" in said and "1 of 8 done, 0 running" in said
            assert said.endswith("A\r\x1b[J")  # nothing of it stays


def test_what_was_seen_last_stays_while_a_trial_ends(tmp_path, monkeypatch):
    """A fit takes its file away before its process is over."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("zoo.sweep.table.EVERY", 0.0)
    plan = schedule(tmp_path)
    out, trial = Terminal(), plan.next()
    table, run = Table(plan, tmp_path, out, out), trials.folder(tmp_path, trial)
    table.tick()
    assert f"{trial.name}  starting" in out.getvalue()
    run.mkdir(parents=True)
    progress_file.write(run, RunProgress(6, 6, 1.0, None, 1.5, 2.0, 0.0))
    table.tick()
    progress_file.remove(run)
    out.truncate(0)
    table.tick()
    assert f"{trial.name}   6/6  1.000     1.500  0:00 min" in out.getvalue()


def test_clock_and_names():
    assert [clock(s) for s in (0, 59.6, 3599, 90_000)] == [
        "0:00 min",
        "1:00 min",
        "59:59 min",
        "25:00 h",
    ]
    names = ["DCT-ratio=0.5-lr=0.01-seed=0", "Zigzag-basis=random-ratio=0.05-lr=0.005-seed=0"]
    assert shorten(names, 30) == [names[0], "Zigzag-ba...05-lr=0.005-seed=0"]
    ends = [f"LoRA-rank=48-base={base}-callbacks=ReLoRA+every=400" for base in ("random", "warm")]
    assert shorten(ends, 30) == ["LoRA-rank..random-callbacks=Re", "LoRA-rank..warm-callbacks=ReLo"]


@pytest.mark.parametrize(
    ("nodes", "per_device", "expected"),
    [
        ([{"CPU": 2}], None, ({"cpu": 1}, 1, 2)),
        ([{"CPU": 16}], 4, ({"cpu": 4}, 4, 4)),
        ([{"CPU": 16}], 3, ({"cpu": 5}, 5, 3)),
        ([{"CPU": 2}], 4, ({"cpu": 0.5}, 1, 4)),
        ([{"CPU": 0}, {"CPU": 8}, {"CPU": 4}], None, ({"cpu": 1}, 1, 12)),
        ([{"CPU": 8}, {"CPU": 4}], 2, ({"cpu": 2}, 2, 4)),
        ([{"CPU": 16, "GPU": 1}], None, ({"cpu": 0, "gpu": 1}, None, 1)),
        ([{"CPU": 16, "GPU": 2}, {"CPU": 8}], 3, ({"cpu": 0, "gpu": 0.3333}, None, 6)),
    ],
)
def test_what_a_trial_gets(nodes, per_device, expected):
    share = cluster.share(nodes, per_device)
    assert (share.resources, share.threads, share.limit) == expected


def test_a_cluster_without_cores():
    with pytest.raises(UserError, match="no cores"):
        cluster.share([{"CPU": 0}], None)


@pytest.mark.parametrize(
    ("sees", "words"),
    [
        (lambda f: f(), None),
        (lambda f: "does not see", "node 10.0.0.2 does not see"),
    ],
)
def test_each_node_must_see_the_folder(sees, words, tmp_path, monkeypatch):
    """A fake Ray that runs the real check of the first node here, and has the second one's fail."""
    (tmp_path / "other").write_text("kept")
    (tmp_path / cluster.TOKEN).symlink_to(tmp_path / "other")
    nodes = [{"NodeID": i, "NodeManagerAddress": f"10.0.0.{i}", "Alive": i < 3} for i in (1, 2, 3)]
    ran = []

    def remote(scheduling_strategy, **options):
        def wrap(function):
            def run():
                ran.append(scheduling_strategy.node)
                assert (tmp_path / cluster.TOKEN).read_text() == str(os.getpid())
                return function() if scheduling_strategy.node == 1 else sees(function)

            return SimpleNamespace(remote=run)

        return wrap

    ray = SimpleNamespace(nodes=lambda: nodes, remote=remote, get=lambda value, timeout: value)
    module = types.ModuleType("strategies")
    module.NodeAffinitySchedulingStrategy = lambda node, soft: SimpleNamespace(node=node)
    monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))
    monkeypatch.setitem(sys.modules, "ray.util", types.ModuleType("ray.util"))
    monkeypatch.setitem(sys.modules, "ray.util.scheduling_strategies", module)
    if words:
        with pytest.raises(UserError, match=words):
            cluster._check_nodes(ray, tmp_path, str(tmp_path))
    else:
        cluster._check_nodes(ray, tmp_path, str(tmp_path))
        with pytest.raises(UserError, match="has no folder '/nowhere'"):
            cluster._check_nodes(ray, tmp_path, "/nowhere")
    assert ran[:2] == [1, 2] and os.listdir(tmp_path) == ["other"]
    assert (tmp_path / "other").read_text() == "kept"


@pytest.fixture
def sweeping(place, small, monkeypatch):
    """The command with Tune and Ray replaced by a loop; `sweeping(text)` writes the file, `ran` has
    what was run.
    """
    ran = []

    def run(schedule, out, there, parts, scratch, tick, trust):
        sweeping.trust = trust
        while (trial := schedule.next()) is not None:
            print("Ray would say something")
            ran.append(trial.name)
            if trial.name == sweeping.stop_at:
                signal.raise_signal(sweeping.signal)
            if trial.name in sweeping.broken:
                schedule.finish(trial.name, "RuntimeError: no more")
            else:
                finished(out, trial, 1 + trial.options["model.optimizer.lr"] * trial.seed)
                schedule.finish(trial.name, trials.outcome(out, trial))
            tick()

    class Connected:
        def __init__(self, address, out, there):
            self.nodes, self.scratch = [{"CPU": 2}], out

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

    fake = types.ModuleType("zoo.sweep.tune")
    fake.run = run
    monkeypatch.setitem(sys.modules, "zoo.sweep.tune", fake)
    monkeypatch.setattr("zoo.sweep.tune", fake, raising=False)
    monkeypatch.setattr(cluster, "connected", Connected)
    monkeypatch.setattr(cluster, "prepare", lambda address: None)
    options = dict(word.removeprefix("--").split("=") for word in small)

    def write(text=GRID, **more):
        raw = yaml.safe_load(text)
        raw["options"] = {**options, "trainer.max_steps": 6, **raw.get("options", {}), **more}
        (place / "s.yaml").write_text(yaml.safe_dump(raw))

    sweeping = SimpleNamespace(write=write, ran=ran, stop_at="", broken=(), signal=signal.SIGINT)
    return sweeping


def test_a_sweep_that_is_stopped_and_has_a_failure_goes_on(place, sweeping, capfd):
    argv = ["sweep", "--config", "s.yaml"]
    sweeping.write()
    sweeping.stop_at = "Dense-lr=0.1-seed=0"
    assert main(argv) == 130
    said = capfd.readouterr()
    assert (
        said.err.splitlines()[-1]
        == "zoo: stopped; 2 of 8 trials are done, and the same command goes on"
    )
    assert "Ray would" not in said.out + said.err
    sweeping.ran.clear()
    sweeping.stop_at, sweeping.broken = "", ("DCT-lr=0.1-seed=2",)
    assert main(argv) == 1
    said = capfd.readouterr()
    assert sorted(sweeping.ran) == [
        "DCT-lr=0.1-seed=1",
        "DCT-lr=0.1-seed=2",
        "Dense-lr=0.1-seed=0",
        "Dense-lr=0.1-seed=1",
        "Dense-lr=0.1-seed=2",
        "Dense-lr=0.2-seed=0",
    ]
    assert (
        "RuntimeError: no more" in said.err
        and "1 trial failed; the same command tries again" in said.err
    )
    assert (
        "DCT     0.1       1            1.1000\n" in said.out and "zoo report runs/s\n" in said.out
    )
    sweeping.ran.clear()
    sweeping.broken = ()
    assert main(argv) == 0 and sweeping.ran == ["DCT-lr=0.1-seed=2"]
    assert main(argv) == 0 and len(sweeping.ran) == 1
    assert "Dense   0.1       2  1.1500 +- 0.0707\n" in capfd.readouterr().out
    kept = json.loads((place / "runs" / "s" / "sweep.json").read_text())
    assert len(kept["trials"]) == 8 and kept["command"] == "zoo sweep --config s.yaml"
    sweeping.write(GRID.replace("[1, 2]", "[1, 2, 3]"))
    sweeping.ran.clear()
    assert main(argv) == 0 and sweeping.ran == ["DCT-lr=0.1-seed=3", "Dense-lr=0.1-seed=3"]
    sweeping.write(**{"trainer.max_steps": 7})
    refused(capfd, argv, "run with trainer.max_steps 6, where the sweep now has 7", "--out")


def test_a_sweep_of_too_many_trials(place, sweeping, capsys):
    grid = {f"model.x{i}": list(range(9)) for i in range(9)}
    (place / "large.yaml").write_text(yaml.safe_dump({"grid": grid, "seeds": [1]}))
    start = time.process_time()
    refused(
        capsys, ["sweep", "--config", "large.yaml"], "387,420,489 trials", "--max-trials 387420489"
    )
    assert time.process_time() - start < 1
    sweeping.write()
    argv = ["sweep", "--config", "s.yaml", "--dry-run"]
    refused(capsys, [*argv, "--max-trials", "7"], "has 8 trials, more than 7", "--max-trials 8")
    refused(capsys, [*argv, "--max-trials", "0"], "--max-trials must be at least 1, got 0")
    assert main([*argv, "--max-trials", "8"]) == 0


def test_a_sweep_hands_on_whom_the_user_trusts(place, sweeping, capsys):
    """To trials that it starts only by the words of the command."""
    sweeping.write()
    argv = ["sweep", "--config", "s.yaml", "--trust", "my_basis", "--trust", "b.C"]
    assert main([*argv, "--dry-run"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("zoo fit")]
    assert lines and all(line.endswith(" --trust my_basis --trust b.C") for line in lines)
    assert main(argv) == 0 and sweeping.trust == ("my_basis", "b.C")
    kept = json.loads((place / "runs" / "s" / "sweep.json").read_text())
    assert "trust" not in json.dumps(kept["trials"])
    assert main(argv[:3]) == 0  # the same sweep, whom it trusts


def test_rays_folders_of_killed_sweeps_are_removed_and_no_others(tmp_path, monkeypatch):
    """Whatever a user's own are called."""
    monkeypatch.setattr(cluster.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(cluster.tempfile, "tempdir", str(tmp_path))
    own = tmp_path / "zoo-sweep-9999999"
    own.mkdir()
    (own / "sweep.json").touch()
    mine, held = cluster._scratch()
    left, number = cluster._scratch()
    (left / "session").mkdir()
    os.close(number)  # as death does
    cluster._remove_left()
    assert (own / "sweep.json").exists() and mine.is_dir() and not left.exists()
    assert len(str(mine.relative_to(tmp_path))) < 20  # Ray's sockets lie in it
    os.close(held)


def test_dry_run_prints_commands_and_writes_nothing(place, sweeping, capsys):
    sweeping.write()
    before = sorted(place.rglob("*"))
    assert main(["sweep", "--config", "s.yaml", "--dry-run", "--out", "o"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("zoo fit --config dct_half.yaml") for line in said) == 4
    assert "# Dense: at the best of 2, then seeds 1, 2" in said and said[-1] == "# 8 trials, 0 done"
    assert "--name=DCT-lr=0.2-seed=0 --trainer.default_root_dir=o --seed_everything=0" in said[1]
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        (
            {"model.parametrization": ["DCT"]},
            ["no setting 'parametrization'", "did you mean 'parameterization'"],
        ),
        (
            {"model.parameterization": "Dense", "model.parameterization.ratio": [0.5]},
            ["Dense has no setting 'ratio'"],
        ),
        (
            {"model.parameterization": ["DCT"], "model.parameterization.ratio": [0.5, 1.5]},
            ["ratio=1.5", "(0, 1]"],
        ),
        ({"model.dropout": [0.1], "trainer.max_step": [16]}, ["no option", "trainer.max_steps"]),
        ({"model.optimizer.lr": [0.1, "fast"]}, ["lr=fast", "model.optimizer.lr must be float"]),
    ],
)
def test_each_method_is_built_before_anything_starts(grid, words, place, sweeping, capsys):
    sweeping.write(yaml.safe_dump({"config": "dct_half.yaml", "grid": grid, "seeds": [1]}))
    refused(capsys, ["sweep", "--config", "s.yaml"], *words)
    assert not sweeping.ran


def test_mistakes_of_the_command(place, sweeping, capsys, monkeypatch):
    sweeping.write()
    refused(capsys, ["sweep"], "--config")
    refused(capsys, ["sweep", "--config", "none.yaml"], "no config 'none.yaml'")
    refused(
        capsys, ["sweep", "--config", "s.yaml", "--trials-per-device", "0"], "at least 1, got 0"
    )
    refused(
        capsys, ["sweep", "--config", "s.yaml", "--trial-per-device", "1"], "--trials-per-device"
    )
    refused(capsys, ["sweep", "--config", "s.yaml", "--out", "s.yaml"], "is no folder", "--out")
    refused(capsys, ["sweep", "--config", "s.yaml", "--out", "/proc/x"], "/proc", "--out")
    (place / "r").mkdir()
    (place / "r" / "sweep.json").mkdir()
    refused(capsys, ["sweep", "--config", "s.yaml", "--out", "r"])
    (place / "DCT-lr=0.1-seed=0").mkdir()
    refused(
        capsys,
        ["sweep", "--config", "s.yaml", "--out", "."],
        "is there already and is not of this sweep",
    )
    monkeypatch.setattr(cluster, "connected", None)
    (place / "o").mkdir()
    (place / "o" / "sweep.lock").touch()
    with (place / "o" / "sweep.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        refused(
            capsys,
            ["sweep", "--config", "s.yaml", "--out", "o"],
            "another zoo sweep is at work in",
            "o'",
        )


def test_ray_that_is_missing_or_does_not_answer(place, small, capsys, monkeypatch):
    (place / "s.yaml").write_text(GRID)
    environment = dict(os.environ)
    monkeypatch.setattr(os, "environ", environment)
    argv = ["sweep", "--config", "s.yaml"]
    for address, word in (
        ("ray://h:1", "HOST:PORT"),
        ("head", "HOST:PORT"),
        ("127.0.0.1:1", "refused"),
        ("127.0.0.1:99999", "no Ray cluster"),
    ):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
        refused(capsys, [*argv, "--ray-address", address], address, word)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused(capsys, argv, "pip install -e '.[sweep]'")


@pytest.mark.slow
def test_what_shipped_sweeps_train_can_be_built(place, text):
    sweeps = [name for name in shipped() if "sweep" in name]
    methods = {method.name: method for name in sweeps for method in read(name).methods}
    assert len(methods) >= 19
    for name, method in methods.items():
        words = method.trial(method.points[0], 0, {key: key for key in method.points[0]}).words(
            "out"
        )
        found = counts(command_line([], [*words[1:], f"--data.corpus={text}"]).model.net)[
            "coefficients"
        ]
        ratio = float(name.partition("ratio=")[2].partition("-")[0] or 1)
        whole = "LoRA" in name  # whole ranks and bases, at most the budget
        assert found == pytest.approx(ratio * 786_432, rel=0.1 if whole else 1e-3), name


def test_sweeps_are_listed_apart(capsys):
    assert main(["list"]) == 0
    configs, sweeps = capsys.readouterr().out.split("configs\n")[1].split("sweeps\n")
    assert (
        "  char_lm_sweep.yaml" in sweeps and "sweep" not in configs and "  dct_half.yaml" in configs
    )
