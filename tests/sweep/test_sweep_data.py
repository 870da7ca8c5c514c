"""A sweep whose data changes between its trials chooses no rate by them."""

import json

import pytest
import yaml

from zoo.sweep import trials
from zoo.sweep.read import parse
from zoo.sweep.schedule import Schedule

SWEEP = """
grid: {model.parameterization: [DCT]}
search: {model.optimizer.lr: [0.1, 0.2], seed: 0}
seeds: [1]
"""


@pytest.mark.parametrize(
    ("checksums", "chosen"), [(("a", "a"), True), (("a", "b"), False), (("a", None), True)]
)
def test_a_search_is_of_one_data(checksums, chosen, tmp_path):
    plan = parse(yaml.safe_load(SWEEP), tmp_path)
    schedule = Schedule(plan, {})
    for checksum in checksums:
        trial = schedule.next()
        folder = trials.folder(tmp_path, trial)
        folder.mkdir(parents=True)
        summary = {
            "steps": trial.steps or 5,
            "seed": trial.seed,
            "seconds": 1.0,
            "monitor": "val/loss",
            "metrics": {"val/loss": 1.5},
        }
        if checksum is not None:  # an older run says nothing
            summary["identity"] = {"data": {"checksum": checksum}, "method": {}, "conditions": {}}
        (folder / "summary.json").write_text(json.dumps(summary))
        schedule.finish(trial.name, trials.outcome(tmp_path, trial))
    assert bool(schedule.best) == chosen and (schedule.next() is not None) == chosen
    assert [("different data" in why) for why in schedule.stuck.values()] == [True] * (not chosen)
