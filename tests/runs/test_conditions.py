"""What a run says of how it was trained and scored: equal of runs that are alike however they were
asked for, else not.
"""

import json
from pathlib import Path

import pytest
from every import thinned
from fits import fit
from lightning.pytorch import Trainer

from tasks import CharData, CharLM
from zoo.__main__ import main
from zoo.runs.finished_runs import read
from zoo.training.identity import identity


def told(folder: Path) -> dict[str, dict[str, object]]:
    """The identity in the summary of a run."""
    identity: dict[str, dict[str, object]] = json.loads((folder / "summary.json").read_text())[
        "identity"
    ]
    return identity


@pytest.mark.slow
def test_a_number_of_batches_is_of_their_size(place, small):
    """Scored on as many batches of half the size is scored on half the data; 2 x 4 and 1 x 8 train
    alike.
    """
    limit = "--trainer.limit_val_batches=2"
    whole = fit(*small, "--data.batch_size=8", limit, "--name=a")
    parts = fit(
        *small, "--data.batch_size=4", "--trainer.accumulate_grad_batches=2", limit, "--name=a"
    )
    first, second = (told(run)["conditions"] for run in (whole, parts))
    assert (first.pop("validation_batch"), second.pop("validation_batch")) == (
        8,
        4,
    ) and first == second
    runs, _ = read(["runs"])
    assert runs[0].conditions != runs[1].conditions


@pytest.mark.parametrize(
    "words",
    thinned([[], ["--trainer.limit_val_batches=2"], ["--trainer.limit_val_batches=0.5"]], 3),
)
def test_validation_by_other_batches(words, place, tune, trained):
    """GLUE's are scored one by one, whatever the batch, unless batches are counted."""
    same = [
        told(
            Path(
                trained(
                    f"of{size}", "glue_rte lora_8", *tune, *words, f"--data.eval_batch_size={size}"
                )
            )
        )
        for size in (2, 4)
    ]
    assert (same[0] == same[1]) == (not words)


@pytest.mark.slow
def test_the_plan_is_that_of_the_schedule(place, tune, trained):
    """However many steps are allowed, the schedule ends with the epochs; one that was cut short is
    told from it.
    """
    epochs, more, stopped = (
        told(Path(trained(name, "glue_rte lora_8", *tune, *words)))["conditions"]
        for name, words in {
            "epochs": [],
            "more": ["--trainer.max_steps=100"],
            "stopped": [
                "--trainer.max_epochs=3",
                "--trainer.callbacks+=lightning.pytorch.callbacks.EarlyStopping",
                "--trainer.callbacks.monitor=val/score",
                "--trainer.callbacks.stopping_threshold=2",
            ],
        }.items()
    )
    assert epochs == more and "planned_steps" not in epochs
    assert stopped == {**epochs, "planned_steps": 3 * int(str(epochs["steps"]))}


def test_what_went_on_with_other_settings_says_so(place, small):
    """And keeps saying it; one that goes on as it began is like one that was never stopped."""
    folder = fit(*small, "--trainer.max_steps=2")
    more = [
        ["--trainer.max_steps=4", "--model.optimizer.lr=0.001"],
        ["--trainer.max_steps=6", "--model.optimizer.weight_decay=0.5"],
    ]
    for words in more:
        assert main(["fit", "--ckpt_path", str(folder), *words]) == 0
    found = told(folder)
    rate, decay = (
        found["method"][f"model.optimizer.{key}"] for key in ("lr_until_2", "weight_decay_until_4")
    )
    assert (rate, decay) == (0.007, 0.1)
    assert [found["conditions"][f"planned_steps_until_{step}"] for step in (2, 4)] == [2, 4]
    assert "planned_steps" not in found["conditions"]


@pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*", "ignore:.*`lr_scheduler.step.*"
)
def test_weights_that_were_loaded_begin_a_new_run(place, small, text):
    """In Python, on other data; and it is no run that was trained from scratch on that."""
    folder = fit(*small)
    other = place / "other.txt"
    other.write_text(text.read_text()[::-1])
    module = CharLM.load_from_checkpoint(folder / "checkpoints" / "last.ckpt", weights_only=True)
    trainer = Trainer(
        max_steps=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=CharData(str(other), batch_size=4, block_size=16))
    assert (
        "started_from" in identity(module)["method"]
        and "started_from" not in told(folder)["method"]
    )
