"""Finished runs, found in folders and read from their summary.json: what `zoo report` compares."""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from zoo.errors import UserError
from zoo.files.flat import Flat
from zoo.files.paths import nickname
from zoo.files.trust import NOBODY, Trust
from zoo.pages.texts import printable
from zoo.runs import event_curves, older_runs
from zoo.runs.defaults import filled
from zoo.runs.event_curves import Curve
from zoo.runs.names import COUNTS
from zoo.runs.run import UNTOLD, Run, fields_of, settings_of
from zoo.runs.run_files import CONFIG, COSTS, SUMMARY, read_settings, read_summary


class Skipped(NamedTuple):
    """A folder that is left out, and why."""

    path: str
    why: str


@dataclass(frozen=True, kw_only=True, eq=False)
class FinishedRun(Run):
    """A run with all that its folder says of it.

    Args:
        summary: its summary.json.
        curve: the metric by step.
        ranks: the mean stable rank by step.
    """

    seed: int
    lr: float
    summary: dict[str, Any]
    curve: Curve = field(default_factory=list)
    ranks: Curve = field(default_factory=list)

    @property
    def subject(self) -> str:
        """What it is of: data and network."""
        return f"{self.task} / {self.network}"

    @property
    def value(self) -> float | None:
        """The metric at the last step; None if it is not finite, and the run diverged."""
        return self.score if self.higher else self.loss

    @property
    def higher(self) -> bool:
        """Whether more is better."""
        return self.summary.get("score") is not None

    @property
    def steps(self) -> int:
        """Steps that it was trained for."""
        return int(self.summary["steps"])

    @property
    def epoch(self) -> int | None:
        """Steps of a pass over the training data, if known."""
        return self.summary.get("epoch_steps")

    @property
    def counts(self) -> dict[str, int]:
        """Coefficients, replaced, trainable and total."""
        return {key: self.summary[key] for key in COUNTS}

    @property
    def cost(self) -> dict[str, float | None]:
        """What it took, by the names of `COSTS`; None where a summary does not say it."""
        return {key: (self.summary.get("cost") or {}).get(key) for key in COSTS}

    @property
    def optimizer(self) -> str:
        """The optimizer's name."""
        return str(self.method["optimizer"])

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the parameterization that are set, by name."""
        start = "parameterization."
        return {k.removeprefix(start): v for k, v in self.method.items() if k.startswith(start)}


def read(paths: Iterable[str], trust: Trust = NOBODY) -> tuple[list[FinishedRun], list[Skipped]]:
    """Return all finished runs in some folders, at any depth, each once; and what was left out.

    A run may come from anyone: one with whatever in its files is left out by itself, and never
    stands in the way of the others.

    Args:
        paths: of the folders.
        trust: whose classes are imported, to see their defaults.

    Raises:
        UserError: for a path that is no folder, or in which there is no run at all.
    """
    found: dict[Path, Path] = {}  # as given, by where it really is
    for path in paths:
        folders = list(_folders(Path(path)))
        if not folders:
            raise UserError(
                f"no run in '{path}': give a folder of zoo fit, or one that contains such folders"
            )
        for folder in folders:
            found.setdefault(folder.resolve(), folder)
    summaries, skipped = {}, []
    for folder in sorted(found.values()):
        try:
            summary = read_summary(folder)
            if summary.get("identity") is None:
                summary = older_runs.completed(summary, read_settings(folder))
            summaries[folder] = summary
        except UserError as error:
            skipped.append(Skipped(_shown(folder), printable(error)))
        except Exception:  # whatever the checks have missed is of one run alone
            skipped.append(damaged(folder))
    runs = []
    for folder, settings in _settings(summaries, trust).items():
        try:
            runs.append(_run(folder, summaries[folder], settings))
        except Exception:
            skipped.append(damaged(folder))
    return sorted(runs, key=lambda run: run.path), sorted(skipped)


def damaged(folder: Path | str) -> Skipped:
    """Return a run that cannot be taken, for a reason that nobody has thought of."""
    return Skipped(_shown(Path(folder)), "its summary.json is damaged")


def _folders(top: Path) -> Iterable[Path]:
    """Yield those that are a run's, or look like one."""
    if not top.is_dir():
        raise UserError(f"'{top}' is no folder: give a run's folder, or one that contains runs")
    for folder, below, files in os.walk(top):
        below.sort()
        if SUMMARY in files or CONFIG in files:
            yield Path(folder)


def _shown(folder: Path) -> str:
    """Return the path as it was given, or within the current folder as one would type it."""
    here = Path.cwd()
    return printable(folder.relative_to(here) if folder.is_relative_to(here) else folder)


def _settings(summaries: dict[Path, dict[str, Any]], trust: Trust) -> dict[Path, Flat]:
    """Return the settings of runs, each completed by those of other runs of the same task.

    That a run wrote no identity is said only beside others that did.
    """
    every = {folder: settings_of(summary) for folder, summary in summaries.items()}
    alike: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for folder, settings in every.items():
        alike[tuple(str(settings.get(key)) for key in ("model", "data", UNTOLD))].append(folder)
    if all(UNTOLD in settings for settings in every.values()):
        for settings in every.values():
            del settings[UNTOLD]
    complete: dict[Path, Flat] = {}
    for folders in alike.values():
        same: Sequence[Flat] = filled([every[folder] for folder in folders], trust)
        complete |= zip(folders, same, strict=True)
    return complete


def _run(folder: Path, summary: dict[str, Any], settings: Flat) -> FinishedRun:
    """Return the run in a folder, with its curves."""
    tag = "val/loss" if summary.get("score") is None else "val/score"
    rank = "stable_rank/update." if summary.get("updates") else "stable_rank/"
    curves = event_curves.read(folder, (tag, rank))
    known = fields_of(summary, settings, summary["steps"])
    known["conditions"]["metric"] = tag.removeprefix("val/")
    known["method"] |= {key: summary[key] for key in COUNTS}
    return FinishedRun(
        **known,
        path=_shown(folder),
        name=printable(nickname(str(folder))),
        summary=summary,
        curve=curves.get(tag, []),
        ranks=[
            (step, mean)
            for step, mean in event_curves.mean_over_layers(curves, rank)
            if mean > 0  # dW starts at 0
        ],
    )
