"""What makes `best.ckpt`: the least or the largest value of a metric, by its name or as the user
says.
"""

import json

import pytest
import torch
from conftest import Mistake
from fits import fit
from trials import TRIAL, finished

from zoo.errors import UserError
from zoo.sweep.trials import outcome
from zoo.training.callbacks import Checkpoint
from zoo.training.metrics import less_is_better

LESS = (
    "val/loss val_loss val/my-loss val/valLoss val/loss_mismatched val/perplexity "
    "val/bits_per_char val/error_rate"
)
MORE = "val/score val/accuracy val/accuracy_mismatched val/f1 val/matthews val/pearson val/spearman"


@pytest.mark.parametrize(
    ("names", "less"), [(LESS, True), (MORE, False), ("val/quux val/accuracy_loss", None)]
)
def test_the_words_of_a_name_say_it(names, less):
    for name in names.split():
        assert less_is_better(name) is less
        assert less_is_better(name, "min") and less_is_better(name, "max") is False


@pytest.mark.parametrize(
    ("options", "least"),
    [
        (["--checkpoint.monitor", "val/perplexity"], True),
        (["--checkpoint.monitor", "val/bits_per_char"], True),
        (["--checkpoint.mode", "max"], False),
    ],
)
def test_best_is_of_the_right_end(options, least, place, small, monkeypatch):
    seen = []

    def kept(self: Checkpoint, trainer, module) -> None:
        seen.append(trainer.callback_metrics[self.metric(module)].item())
        before(self, trainer, module)

    before = Checkpoint.on_validation_end
    monkeypatch.setattr(Checkpoint, "on_validation_end", kept)
    folder = fit(*small, *options, "--trainer.max_steps=4", "--trainer.val_check_interval=1")
    summary = json.loads((folder / "summary.json").read_text())
    assert len(set(seen)) > 1 and summary["mode"] == ("min" if least else "max")
    assert summary["best"] == (min if least else max)(seen)


def test_a_name_that_says_nothing_is_refused(mistake: Mistake):
    mistake(
        "fit --config dct_half.yaml --checkpoint.monitor train/quux", ["'train/quux'", "not logged"]
    )
    callback, module = Checkpoint(), torch.nn.Module()
    module.monitor = "val/quux"
    with pytest.raises(
        UserError, match=r"Module decides by 'val/quux'.* give --checkpoint.mode min or max"
    ):
        callback.less_is_better(module)
    module.monitor_mode = "min"
    assert callback.less_is_better(module) and not Checkpoint(mode="max").less_is_better(module)


def test_another_metric_is_not_held_against_the_best_of_the_first(place, small):
    callback, module = Checkpoint(monitor="val/score"), torch.nn.Module()
    callback.load_state_dict({"best": 0.01, "best_step": 3, "of": ["val/loss", True]})
    trainer = type("T", (), {"limit_val_batches": 1, "callbacks": [], "num_sanity_val_steps": 0})()
    callback.on_fit_start(trainer, module)
    assert callback.best is None and callback.of == ["val/score", False]


def test_a_sweep_goes_by_the_same_rule(tmp_path):
    for metric, mode, lower in (
        ("perplexity", None, True),
        ("accuracy", None, False),
        ("quux", "min", True),
    ):
        finished(
            tmp_path, TRIAL, monitor=f"val/{metric}", mode=mode, metrics={f"val/{metric}": 0.7}
        )
        assert outcome(tmp_path, TRIAL).lower is lower
