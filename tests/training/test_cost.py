"""What a run says of its cost: of a token, of all tokens it has seen, and of what it leaves."""

import json

import pytest
import torch
from fits import fit, weights

from tasks import CharLM
from zoo.__main__ import main
from zoo.layers.costs import network_cost


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
