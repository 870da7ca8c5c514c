"""A trial of a sweep, and what a finished one leaves."""

import json

from zoo.sweep.plan import Trial

TRIAL = Trial("DCT-seed=1", "DCT", False, {}, ("dct_half.yaml",), {"model.width": 8}, 1, 100, "0")


def finished(out, trial, value=1.5, **other):
    """What a run leaves."""
    folder = out / trial.name / "version_0"
    folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "steps": trial.steps,
        "seed": trial.seed,
        "seconds": 2.0,
        "monitor": "val/loss",
        "loss": value,
        "metrics": {"val/loss": value},
        **other,
    }
    (folder / "summary.json").write_text(json.dumps(facts))
