"""What a run says of its cost: of a token, of all tokens it has seen, and of what it leaves."""

import json
from functools import partial

import pytest
import torch
from every import OF_EACH_KIND, factories
from fits import fit, weights

from tasks import CharLM
from zoo.__main__ import main
from zoo.layers.costs import network_cost
from zoo.parameterizations import LoRA
from zoo.parameterizations.cost import counted


def test_a_summary_has_the_cost_of_the_run(place, small):
    """Of a step of 4 windows of 16 ids, and of two such steps that make one."""
    folder = fit(*small, "--trainer.accumulate_grad_batches=2")
    cost = json.loads((folder / "summary.json").read_text())["cost"]
    model = CharLM.load_from_checkpoint(folder / "checkpoints" / "last.ckpt", weights_only=True)
    once = network_cost(model.net, 64)
    assert cost == {
        "rows": 64,
        "forward_flops": round(2 * once.forward / 64),
        "training_flops": round(2 * once.training / 64),
        "total_training_flops": 2 * once.training * 2 * 6,
        "checkpoint_bytes": sum(t.numel() * t.element_size() for t in weights(folder).values()),
        "decode_bytes": 4 * once.read,
    }


@pytest.mark.parametrize("older", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_run_that_goes_on_counts_what_it_had_seen(place, small, older):
    folder = fit(*small)
    if older:  # as a zoo wrote it that did not count
        path = folder / "checkpoints" / "last.resume_6.pt"
        rest = torch.load(path, weights_only=True)
        rest["callbacks"]["RunSummary"] = {"seconds": rest["callbacks"]["RunSummary"]["seconds"]}
        torch.save(rest, path)
    assert main(["fit", "--ckpt_path", str(folder), "--trainer.max_steps=9"]) == 0
    cost = json.loads((folder / "summary.json").read_text())["cost"]
    assert cost["rows"] == 64
    assert cost["total_training_flops"] == cost["training_flops"] * 9 * 64


WRONG = """
from zoo.parameterizations import LoRA

class Wrong(LoRA):
    def cost(self, rows, update=False):
        raise RuntimeError("no such thing")
"""


def test_a_class_that_fails_to_say_its_cost_loses_no_summary(place, small, capsys):
    (place / "wrong.py").write_text(WRONG)
    folder = fit(*small, "--model.parameterization=wrong.Wrong")
    assert (
        "zoo: note: the cost of the network is not known: no such thing\n"
        in capsys.readouterr().err
    )
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["cost"] is None and summary["steps"] == 6


@pytest.mark.parametrize("name", OF_EACH_KIND)
def test_a_whole_network_takes_more_than_a_dense_one_as_is_stated(name):
    """Attention is the same in both, and layers of a shape are built as one batch."""
    ids = torch.randint(0, 8, (4, 16))
    found, stated = [], []
    for factory in (factories()["Dense"], factories()[name]):
        model = CharLM("abcdefgh", factory, block_size=16, width=48, heads=2, layers=2).train()
        trained = [p for p in model.parameters() if p.requires_grad]
        found.append(sum(counted(partial(model, ids), trained)))
        stated.append(network_cost(model.net, ids.numel()).training)
    assert found[1] - found[0] == stated[1] - stated[0]


def test_a_frozen_map_can_be_counted():
    class Own(LoRA):
        def weight(self):
            return 2 * (self.lora_B @ self.lora_A)

    p = Own(8, 8, rank=2).requires_grad_(False)
    assert p.building() == (128, 0) and p.cost(3).forward == 3 * 64 + 128


IDS = torch.zeros(3, 5, dtype=torch.int64)


@pytest.mark.parametrize(
    ("batch", "rows"),
    [
        ((IDS, IDS), 15),
        ({"labels": torch.zeros(3, dtype=torch.int64), "input_ids": IDS}, 15),
        ((torch.zeros(7, 2), torch.zeros(7, dtype=torch.int64)), 7),
        ((torch.zeros(7, 2), torch.zeros(7, 1)), 7),
        ("no tensor", 0),
    ],
    ids=["ids", "ids and labels", "places and labels", "no integers", "nothing"],
)
def test_rows_of_a_batch(batch, rows):
    assert CharLM.batch_rows(None, batch) == rows
