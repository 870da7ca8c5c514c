"""Ranks are allocated as by peft, across a stop too, and beside other maps."""

import json
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from every import thinned
from fits import equal, events, fit, same, weights
from test_ddp import fit_in_two

from zoo.__main__ import main
from zoo.cli.open_run import open_run
from zoo.errors import UserError
from zoo.layers.convert import zoo_layers
from zoo.layers.linear import ZooLinear
from zoo.parameterizations import AdaLoRA
from zoo.runs.peft import own_factors
from zoo.training.callbacks import RankAllocator, Stop
from zoo.training.callbacks.adalora import Schedule, orthogonality_gradients

SHAPES = {"a": (12, 8), "b": (6, 10), "c": (8, 8)}
INIT, TARGET, TINIT, TFINAL, TOTAL, EVERY = 4, 2, 3, 6, 24, 2


def with_peft(**settings):
    """peft's model of three layers, and zoo's maps with the same numbers."""
    peft = pytest.importorskip("peft")
    net = Lossless({name: torch.nn.Linear(n, m) for name, (m, n) in SHAPES.items()})
    config = peft.AdaLoraConfig(
        init_r=INIT,
        target_r=TARGET,
        tinit=TINIT,
        tfinal=TFINAL,
        deltaT=EVERY,
        total_step=TOTAL,
        target_modules=list(SHAPES),
        **settings,
    )
    model = peft.get_peft_model(net, config).double()
    maps = {name: AdaLoRA(m, n, rank=INIT).double() for name, (m, n) in SHAPES.items()}
    pairs = []
    for name, p in maps.items():
        layer = model.base_model.model.get_submodule(name)
        for part, ours in p.named_parameters():
            theirs = getattr(layer, part)["default"]
            ours.data.copy_(theirs)
            pairs.append((f"{name}.{part}", ours, theirs))
    return model, maps, pairs


def test_ranks_are_pefts():
    """At the same steps and gradients, the averages and what is pruned: of any beta, to the end."""
    model, maps, pairs = with_peft(beta1=0.8, beta2=0.9)
    allocator = RankAllocator(deltaT=EVERY, beta1=0.8, beta2=0.9)
    allocator.maps = maps
    first, last = INIT * len(maps), TARGET * len(maps)
    allocator.schedule = Schedule(first, last, TINIT, TOTAL - TFINAL, EVERY)
    theirs = model.base_model.rankallocator
    seen = []
    for step in range(1, TOTAL + 1):
        for _, ours, other in pairs:
            ours.grad = torch.randn_like(ours)
            other.grad = ours.grad.clone()
            for p in (ours, other):
                p.data.sub_(p.grad, alpha=0.1)
        allocator.follow(step)
        model.base_model.update_and_allocate(step)
        for name, ours, other in pairs:
            assert torch.equal(ours, other), (step, name)
            for mine, his in (
                (allocator.sensitivity, theirs.exp_avg_ipt),
                (allocator.uncertainty, theirs.exp_avg_unc),
            ):
                assert bool(mine) == bool(his) == (step < TOTAL - TFINAL)
                if mine:
                    wanted = his[f"{name}.default"]
                    torch.testing.assert_close(mine[name].double(), wanted, rtol=1e-5, atol=0)
        if allocator.schedule.prunes(step):
            budget, _ = theirs.budget_schedule(step)
            assert allocator.schedule.budget(step) == budget
            left = sum(int(p.directions().sum()) for p in maps.values())
            assert left == sum(allocator.ranks().values()) == budget
            seen.append(left)
    assert seen[0] == 10 and seen[-TFINAL - 1 :] == [last] * (TFINAL + 1) and len(set(seen)) >= 4
    assert allocator.final and not allocator.sensitivity


class Lossless(torch.nn.ModuleDict):
    """Layers whose loss is 0, to which peft adds its regularizer."""

    def forward(self):
        return SimpleNamespace(loss=torch.zeros((), dtype=torch.float64))


def test_the_regularizer_is_pefts():
    """The gradient is that of what peft adds to a loss; and 0 at factors that are orthonormal."""
    model, maps, pairs = with_peft(orth_reg_weight=0.3)
    model.base_model().loss.backward()
    found = orthogonality_gradients(maps.values(), 0.3)
    assert len(found) == 2 * len(maps)
    for name, ours, other in pairs:
        if "lora_E" not in name:
            torch.testing.assert_close(found[ours], other.grad, rtol=1e-12, atol=1e-15)
    unit = AdaLoRA(1, 1, rank=1)
    for p in unit.parameters():
        torch.nn.init.ones_(p)
    assert not any(grad.any() for grad in orthogonality_gradients([unit], 1.0).values())


def test_equals_are_pruned_to_the_budget():
    """Where all matter alike, and at a budget of all: so many are left, the first ones."""
    maps = {name: AdaLoRA(*shape, rank=INIT) for name, shape in SHAPES.items()}
    allocator = RankAllocator()
    allocator.maps, allocator.schedule = maps, Schedule(12, 5, 0, 1, 1)
    allocator.follow(1)  # nothing has a gradient
    assert allocator.ranks() == {"a": 4, "b": 1, "c": 0}
    assert [int(p.directions().sum()) for p in maps.values()] == [4, 1, 0]
    same_budget = Schedule(12, 12, 0, 5, 1)
    assert [same_budget.budget(step) for step in range(7)] == [12] * 7


def begun(allocator, steps=12):
    """An allocator at the start of a run of the three layers."""
    net = torch.nn.ModuleDict(
        {name: ZooLinear(AdaLoRA(*shape, rank=INIT)) for name, shape in SHAPES.items()}
    )
    trainer = SimpleNamespace(estimated_stepping_batches=steps, scaler=None)
    allocator.on_fit_start(trainer, SimpleNamespace(net=net))
    return allocator


def test_a_step_that_float16_skips_is_not_followed():
    allocator = begun(RankAllocator(tinit=0, deltaT=20), 100)
    allocator._scaled = True
    for step, grad in ((1, 1.0), (2, float("inf"))):
        for p in allocator.maps["a"].parameters():
            p.grad = torch.full_like(p, grad)
        allocator.follow(step)
        if step == 1:
            before = {name: value.clone() for name, value in allocator.sensitivity.items()}
            assert before["a.lora_A"].any() and not before["b.lora_A"].any()
    assert same(before, allocator.sensitivity)


# ---- In runs -------------------------------------------------------------------------------------

ALLOCATED = [
    "--model.parameterization=AdaLoRA",
    "--model.parameterization.rank=4",
    "--trainer.callbacks+=RankAllocator",
    "--trainer.callbacks.deltaT=2",
    "--trainer.callbacks.tinit=3",
    "--trainer.callbacks.tfinal=4",
    "--trainer.callbacks.target_r=0.5",
    "--trainer.max_steps=12",
]
MIXED = (
    '--model.overrides={"*.mlp.fc": {"class_path": "DCT", "init_args": {"ratio": 0.3}}, '
    '"*.mlp.proj": {"class_path": "Sum", "init_args": {"parts": [{"class_path": "AdaLoRA", '
    '"init_args": {"rank": 2}}, {"class_path": "Sparse", "init_args": {"ratio": 0.1}}]}}}'
)


def resumable(folder):
    """What a checkpoint has besides weights to go on from, without the times."""
    (path,) = (folder / "checkpoints").glob("last.resume_*.pt")
    content = torch.load(path, weights_only=True)
    return content["callbacks"]["RankAllocator"], content["optimizer_states"]


def curves(folder):
    """The ranks over a run, by tag."""
    found = events(folder)
    tags = [tag for tag in found.Tags()["scalars"] if tag.startswith("rank/")]
    return {tag: sorted((e.step, int(e.value)) for e in found.Scalars(tag)) for tag in tags}


@pytest.mark.parametrize("stops", thinned([((7,),), ((2, 7, 10),)], lambda stops: len(stops) == 1))
def test_a_stopped_run_goes_on_to_the_bit(stops, place, small, monkeypatch):
    """Before the first pruning, between two, and after the last; two batches a step, and other maps
    beside: of them those within a sum are pruned too.
    """
    options = [
        *small,
        *ALLOCATED,
        MIXED,
        "--model.layers=1",
        "--trainer.accumulate_grad_batches=2",
        "--trainer.log_every_n_steps=1",
        "--stable_rank.every_n_steps=0",
        "--model.dropout=0.1",
    ]
    whole = fit(*options, "--name=whole", config="char_lm")
    still, end_of_batch = list(stops), Stop.on_train_batch_end

    def stopping(self, trainer, *rest):
        if still and trainer.global_step == still[0]:
            self.asked = signal.SIGTERM
            if (rest[-1] + 1) % trainer.accumulate_grad_batches == 0:
                still.pop(0)
        end_of_batch(self, trainer, *rest)

    monkeypatch.setattr(Stop, "on_train_batch_end", stopping)
    folder = Path("runs/stopped/version_0")
    words = ["fit", "--config", "char_lm.yaml", *options, "--name=stopped"]
    for step in stops:
        assert main(words) == 143
        ours, _ = resumable(folder)
        assert (folder / f"checkpoints/last.resume_{step}.pt").is_file()
        assert (bool(ours["sensitivity"]), bool(ours["kept"]), ours["final"]) == {
            2: (True, False, False),
            7: (True, True, False),
            10: (False, True, True),
        }[step]
        words = ["fit", "--ckpt_path", str(folder)]
    assert main(words) == 0
    assert equal(weights(folder), weights(whole))
    assert same(resumable(folder), resumable(whole))

    assert curves(folder) == curves(whole)
    layers = json.loads((whole / "summary.json").read_text())["ranks"]
    assert {f"rank/{name}" for name in (*layers, "total")} == set(curves(whole))
    assert set(layers) == {
        f"blocks.0.{part}" for part in ("attn.qkv", "attn.proj", "mlp.proj.parts.0")
    }
    total = [(0, 10), (4, 6), (5, 6), (6, 2), (7, 2), (8, 2)]
    assert sum(layers.values()) == 2 and curves(whole)["rank/total"] == total


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_layers_of_which_nothing_is_left(trained, tune, backbones, capsys):
    """They train, are scored without the callback, and what is exported loads with equal logits."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    allocated = [word for word in ALLOCATED if "max_steps" not in word]
    less = ["--trainer.callbacks.tinit=0", "--trainer.callbacks.target_r=0.25"]
    run = trained("pruned", "glue_rte", *tune, *allocated, *less, "--stable_rank.every_n_steps=0")
    summary = json.loads(Path(run, "summary.json").read_text())
    assert sorted(summary["ranks"].values()) == [0, 0, 0, 1]
    capsys.readouterr()
    assert main(["validate", "--ckpt_path", run]) == 0
    assert f"score {summary['score']:.4f}" in " ".join(capsys.readouterr().out.split())

    model = open_run(run)[0].eval()
    whole = {name: layer.update() for name, layer in zoo_layers(model.net).items()}
    for name, layer in zoo_layers(model.net).items():
        factors = own_factors(layer)
        assert len(factors.A) == max(1, summary["ranks"][name])
        assert torch.equal(factors.scale * factors.B @ factors.A, whole[name])
    assert main(["export", run, "--to", "peft", "--output", "adapter"]) == 0
    network = transformers.AutoModelForSequenceClassification.from_pretrained(backbones("bert"))
    ids = torch.arange(5, 35).view(3, 10)
    with torch.no_grad():
        wanted = model.net(input_ids=ids).logits
        found = peft.PeftModel.from_pretrained(network, "adapter").eval()(input_ids=ids).logits
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (
            "--trainer.callbacks.tfinal=9",
            "RankAllocator's tinit 3 and tfinal 9 leave none of 12 steps to prune in: give fewer "
            "than 12 together, or shares as 0.1 and 0.5",
        ),
        (
            "--model.parameterization=LoRA",
            "RankAllocator prunes layers of AdaLoRA, and this network has LoRA: "
            "--model.parameterization AdaLoRA, or leave the callback out",
        ),
        (
            "--model.dense_steps=2",
            "RankAllocator follows AdaLoRA's gradients from the first step on, and for 2 dense "
            "steps there are none: drop --model.dense_steps, or the callback",
        ),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(option, said, place, small, capsys):
    assert main(["fit", "--config", "char_lm.yaml", *small, *ALLOCATED, option]) == 2
    assert capsys.readouterr().err.splitlines() == [f"zoo: {said}"]
    assert not list(place.iterdir())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"target_r": 4.5},
            "target_r 4.5 is above the rank at the start, 4 on the average: give less, or AdaLoRA "
            "a higher rank",
        ),
        (
            {"target_r": 0.1},
            "target_r 0.1 leaves no direction of 3 layers: give at least 0.33, which is one",
        ),
        ({"target_r": 0.0}, "target_r must be above 0 and finite, got 0.0"),
        ({"target_r": float("nan")}, "target_r must be above 0 and finite, got nan"),
        ({"tinit": -1.0}, "tinit must be at least 0 and finite, got -1.0"),
        ({"deltaT": 0}, "deltaT must be at least 1, got 0"),
        ({"beta1": 1.0}, "beta1 must lie in [0, 1), got 1.0"),
        ({"orth_reg_weight": -1.0}, "orth_reg_weight must be at least 0 and finite, got -1.0"),
    ],
)
def test_a_setting_out_of_range_is_refused(settings, said):
    with pytest.raises(UserError) as error:
        begun(RankAllocator(**settings))
    assert str(error.value) == f"RankAllocator.{said}"


def test_averages_of_other_layers_are_refused():
    state = begun(RankAllocator()).state_dict() | {"kept": {"a": torch.ones(4, dtype=torch.bool)}}
    allocator = RankAllocator()
    allocator.load_state_dict(state)
    with pytest.raises(UserError, match="kept of directions belongs to other layers than these"):
        begun(allocator)
    with pytest.raises(ValueError, match="no kept of directions"):
        allocator.load_state_dict(state | {"kept": {"a": torch.ones(4)}})


def test_the_defaults_are_the_papers_shares():
    """Of 200 steps 20 before, 100 after, and two thirds of the directions are left."""
    assert begun(RankAllocator(), 200).schedule == Schedule(12, 8, 20, 100, 10)


@pytest.mark.slow
def test_two_processes_prune_as_one(place, small):
    """Batches of 4 in two processes, or of 8 in one: equal losses and ranks."""
    words = [
        *small,
        *ALLOCATED,
        MIXED,
        "--trainer.accelerator=cpu",
        "--trainer.accumulate_grad_batches=2",
        "--trainer.log_every_n_steps=1",
    ]
    one = fit(*words, "--data.batch_size=8", config="char_lm")
    two, _, _ = fit_in_two("char_lm", *words, "--data.batch_size=4")
    assert curves(two) == curves(one)
    alone, together = (events(run).Scalars("train/loss") for run in (one, two))
    assert [e.value for e in together] == pytest.approx([e.value for e in alone], abs=1e-4)
    name = "net.blocks.0.attn.qkv.parameterization.lora_A"
    torch.testing.assert_close(weights(two)[name], weights(one)[name], rtol=0, atol=1e-4)
