"""`results/gpu/characters`: the loop is that of `zoo fit`, rates are those that were found, a cut
leaves whole rows.
"""

import contextlib
import csv
import time
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Callback

from results.goals import loop as goals_loop
from results.gpu import PARTS, characters
from results.gpu.cases.methods import METHODS, Training
from results.gpu.frame.rows import Last, Table
from results.gpu.frame.setting import Setting
from results.gpu.training import steps as training
from tasks import CharLM
from zoo import parameterizations
from zoo.parameterizations import LoRA
from zoo.training.callbacks import StableRank
from zoo.training.optimizers import OptimizerConfig

ROOT = Path(__file__).parents[2]
SHIPPED = {
    "dense": "dense",
    "DCT 1/2": "dct_half",
    "LoRA 48": "lora_48",
    "random 1/2": "random_orthonormal_half",
    "DCT 1/10": "dct_tenth",
    "zigzag 1/10": "zigzag_tenth",
    "random 1/10": "random_orthonormal_tenth",
    "DCT 1/20": "dct_twentieth",
    "zigzag 1/20": "zigzag_twentieth",
    "random 1/20": "random_orthonormal_twentieth",
}
OPTIMIZER = {"weight_decay": 0.1, "warmup": 100, "final_lr": 0.02, "clip": 1.0}


class Seen(Callback):
    """Losses of a fit, and its validations."""

    def __init__(self):
        self.losses, self.validations, self.ranks = [], [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())

    def on_validation_end(self, trainer, pl_module):
        self.validations.append(trainer.callback_metrics["val/loss"].item())

    def on_train_end(self, trainer, pl_module):
        (look,) = [each for each in trainer.callbacks if isinstance(each, StableRank)]
        self.ranks.append(look)


@pytest.mark.parametrize("name", ["DCT 1/2", "LoRA 48"])
def test_the_loop_is_that_of_zoo_fit(text, tmp_path, name):
    """Batches, rates, clipping and AdamW to the bit; validation and stable rank to rounding."""
    steps, seed, method = 20, 3, METHODS[name]._replace(arguments={"ratio": 0.5})
    sizes = {"layers": 1, "width": 16, "heads": 2}
    seen = Seen()
    goals_loop.fit(
        [
            "--config",
            "char_lm.yaml",
            f"--model.parameterization={method.parameterization}",
            "--model.parameterization.ratio=0.5",
            *(f"--model.{key}={value}" for key, value in sizes.items()),
            f"--model.optimizer.lr={method.rate}",
            f"--data.corpus={text}",
            "--data.block_size=16",
            "--data.batch_size=4",
            f"--trainer.max_steps={steps}",
            "--trainer.val_check_interval=10",
            f"--trainer.default_root_dir={tmp_path}",
            f"--seed_everything={seed}",
            "--spectral_energy.every_n_steps=0",
            "--checkpoint.every_n_steps=0",
        ],
        [seen],
    )
    how = Training(str(text), None, 4, 16, sizes, OPTIMIZER, steps, 10, 3, (seed,), "cpu")
    data = how.data(seed)
    ids, windows = (
        data.encoded[0][0],
        tuple(map(torch.stack, zip(*data.val_dataloader().dataset, strict=True))),
    )
    starts = training.window_starts(len(ids), steps, 4, 16, seed)
    run = training.Run(how.model(method, seed, data.vocabulary), ids, starts, 16)
    validations = []
    for step in range(steps):
        run.step()
        if step % 10 == 9:
            validations.append(run.validate(windows))
    assert run.taken == steps
    assert run.losses.tolist() == seen.losses
    assert validations == pytest.approx(seen.validations, rel=1e-5)
    assert characters.stable_rank(run) == pytest.approx(seen.ranks[0].mean, rel=1e-5)
    first = training.lightning_losses(
        how.model(method, seed, data.vocabulary), data, steps, 3, "cpu"
    )
    assert first.tolist() == seen.losses[:3]


def test_rates_are_the_best_of_the_searches():
    for name, method in METHODS.items():
        file, start = method.trials.split()
        rows = list(csv.DictReader((ROOT / "results" / file).read_text().splitlines()))
        found = {
            float(row["lr"]): float(row["loss"])
            for row in rows
            if row["run"].startswith(f"{start}-lr=") and (row["seed"], row["steps"]) == ("0", "400")
        }
        assert len(found) == 3 and min(found, key=found.get) == method.rate, name


def test_methods_are_those_of_the_shipped_configs():
    base = yaml.safe_load((ROOT / "configs" / "char_lm.yaml").read_text())["model"]["init_args"]
    for name, file in SHIPPED.items():
        method, config = (
            METHODS[name],
            yaml.safe_load((ROOT / "configs" / f"{file}.yaml").read_text()),
        )
        own = config["model"]["init_args"]
        expected = {"class_path": method.parameterization, "init_args": method.arguments}
        assert own["parameterization"] == {
            key: value for key, value in expected.items() if value
        }, name
        assert own.get("optimizer", base["optimizer"])["lr"] == method.shipped, name


# ---- Rows ----------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path, text, monkeypatch):
    """Two methods, two seeds, six steps."""
    monkeypatch.setattr(
        characters, "METHODS", {name: METHODS[name] for name in ("dense", "DCT 1/2")}
    )
    how = Training(
        str(text),
        None,
        2,
        8,
        {"layers": 1, "width": 8, "heads": 2},
        OPTIMIZER,
        6,
        3,
        2,
        (1, 2),
        "cpu",
    )
    monkeypatch.setattr(characters, "shipped", lambda setting: contextlib.nullcontext(how))
    monkeypatch.setattr(training, "lightning_losses", reference)
    part = PARTS["characters"]
    return Table(tmp_path / "characters.csv", part.case, part.measured, {})


def reference(model, data, steps, count, device):
    """What `lightning_losses` gives, in a tenth of its time."""
    ids = data.encoded[0][0]
    run = training.Run(model, ids, training.window_starts(len(ids), steps, 2, 8, 1), 8)
    training_step = training.eager([run])
    for _ in range(count):
        training_step()
    return run.losses[:count]


def setting(seconds=60.0):
    return Setting("cpu", True, time.time() + seconds, "", None, {})


def cases(table):
    return [(row["method"], row["seed"]) for row in table.rows]


def test_a_row_for_each_seed_and_a_second_run_goes_on(table):
    characters.METHODS.pop("DCT 1/2")
    characters.measure(setting(), table)
    assert cases(table) == [("dense", "1"), ("dense", "2")]
    for row in table.rows:
        assert row["loop"] == "eager" and float(row["agreement"]) == 0 and not row["note"]
        assert float(row["best_loss"]) <= float(row["loss"]) < 4
        assert row["best_step"] == ("6" if row["best_loss"] == row["loss"] else "3")
    assert table.rows[0]["loss"] != table.rows[1]["loss"]
    characters.METHODS["DCT 1/2"] = METHODS["DCT 1/2"]
    characters.measure(setting(), table)
    assert cases(table) == [("dense", "1"), ("dense", "2"), ("DCT 1/2", "1"), ("DCT 1/2", "2")]


def test_a_method_without_time_leaves_no_row(table):
    characters.measure(setting(0.0), table)
    assert table.rows == []


@pytest.mark.parametrize("broken", ["capture failed", "losses differ"])
def test_a_loop_that_fails_or_differs_gives_way_to_the_next(table, monkeypatch, broken):
    """On a GPU graphs come first; one that trains otherwise than Lightning does is left."""

    def graph(runs):
        if broken == "capture failed":
            raise RuntimeError(broken)
        runs[0]._ids = runs[0]._ids.flip(0)
        return training.eager(runs)

    characters.METHODS.pop("DCT 1/2")
    monkeypatch.setattr(training, "LOOPS", {"graph": graph, "eager": training.eager})
    monkeypatch.setattr(characters, "TOLERANCE", 1e-5)
    characters.measure(setting(), table)
    assert {(row["loop"], row["agreement"]) for row in table.rows} == {("eager", "0")}
    assert all(
        row["note"].startswith(f"graph: RuntimeError: {broken}") and row["loss"]
        for row in table.rows
    )


def test_where_no_loop_works_the_rows_say_why(table, monkeypatch):
    monkeypatch.setattr(training, "lightning_losses", lambda *rest: torch.full((2,), 1.0))
    characters.measure(setting(), table)
    assert len(table.rows) == 4 and all(
        "losses differ" in row["note"] and "loss" not in row for row in table.rows
    )
    assert characters.lines(table.rows) == []


def test_a_method_whose_graphs_fail_and_whose_steps_are_too_slow_is_noted(table, monkeypatch):
    """Another run would find the same, so that the next method is measured."""

    def graph(runs):
        raise RuntimeError("capture failed")

    monkeypatch.setattr(training, "LOOPS", {"graph": graph, "eager": training.eager})
    monkeypatch.setattr(characters, "_finish", lambda *rest: None)
    characters.measure(setting(), table)
    said = "RuntimeError: graph: RuntimeError: capture failed; eager: too slow"
    assert [row["note"] for row in table.rows] == 4 * [said]


def test_a_graph_that_failed_is_not_tried_again(table, monkeypatch):
    """For no other method, nor in the process that goes on after one that it has ended; rows know
    it.
    """
    tried = []

    def graph(runs):
        tried.append(0)
        raise RuntimeError("capture failed")

    monkeypatch.setattr(training, "LOOPS", {"graph": graph, "eager": training.eager})
    monkeypatch.setattr(characters, "GRAPHS", ())
    characters.METHODS.pop("DCT 1/2")
    first, method = next(iter(characters.METHODS.items()))
    with characters.shipped(setting()) as training_:
        rows = characters.train(method, training_, lambda: 100.0, {"graph"})
        assert not tried and rows[0]["loop"] == "eager"
        monkeypatch.setattr(
            characters, "note", lambda error, device: Last("RuntimeError: capture failed")
        )
        # The eager loop is not begun.
        with pytest.raises(RuntimeError, match="^graph: RuntimeError: capture failed$"):
            characters.train(method, training_, lambda: 100.0)


def test_branches_fork_from_the_graph_and_join_it(monkeypatch):
    """Each run's stream waits for the capturing one before its step, and that one for each of them
    after.
    """
    said = []

    class Stream:
        count = 0

        def __init__(self):
            Stream.count += 1
            self.name = f"s{Stream.count}"

        def wait_stream(self, other):
            said.append(f"{self.name} after {other.name}")

    class Run:
        def step(self):
            said.append("step")

    main = Stream()
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: main)
    monkeypatch.setattr(
        torch.cuda,
        "stream",
        lambda stream: contextlib.nullcontext(said.append(f"on {stream.name}")),
    )
    monkeypatch.setattr(training, "captured", lambda call: call)
    training.one_graph([Run(), Run()])()
    assert said == [
        "s2 after s1",
        "on s2",
        "step",
        "s3 after s1",
        "on s3",
        "step",
        "s1 after s2",
        "s1 after s3",
    ]


@pytest.mark.parametrize("name", METHODS)
def test_a_step_reads_nothing_back(name, monkeypatch):
    """On the meta device a number cannot be asked for, nor can an operand be on the CPU: a graph
    bears neither.
    """
    monkeypatch.setattr(
        training.optimizers, "build", lambda model, *rest: torch.optim.SGD(model.parameters())
    )
    # AdamW's kernel is of a GPU or a CPU.
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self: None)
    method = METHODS[name]
    factory = partial(getattr(parameterizations, method.parameterization), **method.arguments)
    model = CharLM("abcdefgh", factory, block_size=8, layers=2, width=64, heads=2).to("meta")
    run = training.Run(
        model, torch.arange(8).repeat(9), torch.zeros(1, 2, dtype=torch.int64), 8, autocast=False
    )
    run.step()
    assert all(p.grad is not None and p.grad.is_meta for p in model.parameters())


# ---- Counts and words ----------------------------------------------------------------------------


def test_operations_of_the_papers_model():
    vocabulary = goals_loop.CHARACTERS
    dense = CharLM(vocabulary)
    assert training.operations(dense, 4096, 128) == 6 * 4096 * (786_432 + 65 * 128 + 4 * 128 * 128)
    assert training.moved(dense) == 32 * 826_433
    low = CharLM(vocabulary, lambda m, n: LoRA(m, n, rank=48))
    assert training.operations(low, 4096, 128) == 6 * 4096 * (393_216 + 65 * 128 + 4 * 128 * 128)


def test_a_gradient_is_clipped_as_the_task_clips_it():
    """Also where its norm is below the limit, which a graph cannot ask."""
    for clip in (1e-3, 1e3):
        model = CharLM(
            "abcdefgh",
            block_size=8,
            layers=1,
            width=8,
            heads=2,
            optimizer=OptimizerConfig(clip=clip),
        )
        run = training.Run(
            model,
            torch.arange(8).repeat(9),
            torch.zeros(1, 2, dtype=torch.int64),
            8,
            autocast=False,
        )
        run.step()
        norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
        assert (norm.item() == pytest.approx(1e-3, rel=1e-3)) is (clip < 1)


def test_what_is_said_fits():
    rows = [
        {
            "method": name,
            "seed": str(seed),
            "loss": f"1.{seed}234",
            "stable_rank": "19.87",
            "step_ms": "1.523",
            "agreement": "0.000123",
            "loop": "one graph, a branch for each seed",
        }
        for name in METHODS
        for seed in range(1, 6)
    ]
    found = characters.lines(rows)
    assert found[0] == "loss/rank, +-0.158; one graph, 1.52 ms a step, off by 1e-04"
    assert len(found) == 5 and max(map(len, found)) <= 69
    assert found[1].startswith("dense 1.323/20 DCT 1/2 1.323/20 LoRA 48 ")
    assert characters.lines([]) == [] and len(characters.lines(rows[:1])) == 2
