"""What a run is: where it lies, what it was trained on and with, and what came of it.

`zoo report`, `zoo analyze` and `zoo mask` all read runs as this, from the identity that a run
writes of itself (`zoo.training.identity`), so that they tell the same runs apart.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zoo import path_today
from zoo.files.flat import Flat, is_set
from zoo.runs.run_files import is_number
from zoo.training.identity import PARTS

UNTOLD = "identity"
"""The condition of a run that wrote no identity: it is never compared with one that did."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """A run, or what stands for one: its checkpoint, or an adapter of peft's.

    Args:
        path: where it lies, as given.
        name: what it is called, in short.
        task: the data in short, as a task of GLUE or a corpus.
        network: the network in short: the pretrained one, or the task's class.
        parameterization: its class, or several as `LoRA+DCT` where layers differ.
        seed: of its training.
        lr: the learning rate, which tells the runs of a search apart.
        conditions: settings that runs must share to be compared, the facts of the data among them.
        method: settings that make a method, by their names within the model.
        loss: on the validation data; None if it is not finite or not known.
        score: on the validation data; None as well if there is none.
        metrics: what the score may be called, the most telling first; `loss` without one.
        group: what it is of: data, network and parameterization, in words.
    """

    path: str
    name: str
    task: str | None = None
    network: str | None = None
    parameterization: str | None = None
    seed: int | None = None
    lr: float | None = None
    conditions: Flat = field(default_factory=dict)
    method: Flat = field(default_factory=dict)
    loss: float | None = None
    score: float | None = None
    metrics: list[str] = field(default_factory=list)
    group: str = ""

    @property
    def metric(self) -> str | None:
        """What the score is called, if there is one."""
        return self.metrics[0] if self.metrics and self.score is not None else None

    @property
    def settings(self) -> Flat:
        """All settings that tell it from other runs, but for its seeds."""
        every = {**self.conditions, "optimizer.lr": self.lr, **self.method}
        return {
            key: value
            for key, value in every.items()
            if is_set(value) and key.rpartition(".")[2] != "seed"
        }

    def about(self) -> dict[str, Any]:
        """Return what stands of a run in the files of `zoo analyze` and `zoo mask`."""
        fields = ("name", "path", "group", "task", "parameterization", "seed")
        return {**{key: getattr(self, key) for key in fields}, "model": self.network}


def slashed(*parts: str | None) -> str:
    """Return what is known of some words as `rte / bert`."""
    return " / ".join(part for part in parts if part)


# ---- Out of a summary ----------------------------------------------------------------------------


def settings_of(summary: Mapping[str, Any]) -> Flat:
    """Return the identity in a summary as one mapping, the facts of the data as `facts.<name>`."""
    data, method, conditions = (summary["identity"][part] for part in PARTS)
    facts = {f"facts.{key}": value for key, value in data.items()}
    return facts | conditions | {key: path_today(value) for key, value in method.items()}


def fields_of(summary: Mapping[str, Any], settings: Flat, step: int) -> dict[str, Any]:
    """Return what a summary says of a run, as arguments of `Run`.

    Args:
        summary: of `zoo fit`, or an older one that `zoo.runs.older_runs` has completed.
        settings: its identity as `settings_of` has it, where more may have been filled in.
        step: of the weights that the results are asked for.
    """
    roots = {_root(key) for key in summary["identity"]["method"]}
    score = summary.get("score")
    every = summary.get("metrics") or {}
    named = [tag.removeprefix("val/") for tag, value in every.items() if value == score]
    return {
        "task": summary.get("data_name") or summary["task"],
        "network": summary.get("network") or summary["task"],
        "parameterization": summary["parameterization"],
        "seed": summary["seed"],
        "lr": float(summary["lr"]),
        "conditions": {key: value for key, value in settings.items() if _root(key) not in roots},
        "method": {
            key.removeprefix("model."): value
            for key, value in settings.items()
            if _root(key) in roots
        },
        "loss": _result(summary, "loss", step),
        "score": _result(summary, "score", step),
        "metrics": ["loss"]
        if score is None
        else [*(name for name in named if name != "score"), "score"],
    }


def _root(key: str) -> str:
    """Return `model.optimizer` of `model.optimizer.lr`."""
    return ".".join(key.split(".")[:2])


def _result(summary: Mapping[str, Any], key: str, step: int) -> float | None:
    """Return a result at a step: at the last one each is known, at the best one what decided."""
    value: Any = None
    if summary["steps"] == step:
        value = summary.get(key)
    elif summary.get("monitor") == f"val/{key}" and summary.get("best_step") == step:
        value = summary.get("best")
    return float(value) if is_number(value) and math.isfinite(value) else None


# ---- Beside each other ---------------------------------------------------------------------------


def repeated(runs: Sequence[Run]) -> dict[str, str]:
    """Return notes, by name, on runs that have the group and the seed of one before."""
    first: dict[tuple[str, int], str] = {}
    notes = {}
    for run in runs:
        if (
            run.seed is not None
            and (before := first.setdefault((run.group, run.seed), run.name)) != run.name
        ):
            notes[run.name] = (
                f"has the seed of {before}: the statistics take both for independent, and err"
            )
    return notes
