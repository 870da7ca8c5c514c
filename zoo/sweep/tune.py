"""Ray Tune runs the trials.

It asks a searcher what to run next, which is what the schedule says, and starts it where there is
room. Whatever else it does unasked is turned off: each trial is a run of zoo's, with zoo's own
files.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune
from ray.exceptions import RayError
from ray.tune.search import Searcher

from zoo.errors import UserError
from zoo.sweep import trials
from zoo.sweep.cluster import Share
from zoo.sweep.plan import Trial
from zoo.sweep.schedule import Schedule


class Plan(Searcher):
    """Suggest what the schedule has next; nothing while a search has to end first.

    Args:
        schedule: says what is next, and is told what becomes of it.
        out: the sweep's folder.
        limit: how many trials run at a time.
    """

    def __init__(self, schedule: Schedule, out: Path, limit: int) -> None:
        super().__init__(metric="ok", mode="max")
        self.schedule, self.out, self.limit = schedule, out, limit
        self.names: dict[str, str] = {}

    def suggest(self, trial_id: str) -> Any:
        """Give a trial; None if there is none now, FINISHED if none will come."""
        if self.schedule.over():
            return Searcher.FINISHED
        trial = self.schedule.next() if len(self.schedule.running) < self.limit else None
        if trial is None:
            return None
        self.names[trial_id] = trial.name
        return {"trial": trial}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Put down what has become of a trial."""
        name = self.names.pop(trial_id)
        why = "the process of Ray that ran it has died" if error else (result or {}).get("why")
        try:
            found = trials.outcome(self.out, self.schedule.running[name]) if why is None else None
        except UserError as mistake:
            found, why = None, str(mistake)
        self.schedule.finish(
            name, found or why or "it ended without a summary.json of all its steps"
        )

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the runs' folders are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing, as nothing is saved."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune would keep it, to go on with; a sweep goes on from its runs


class Clock(tune.Callback):
    """Call a function some times a second."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self.tick = tick

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.tick()

    def __getstate__(self) -> dict[str, Any]:
        return {}


def run(
    schedule: Schedule,
    out: Path,
    there: str,
    parts: Share,
    scratch: Path,
    tick: Callable[[], None],
    trust: Sequence[str] = (),
) -> None:
    """Run what the schedule says until nothing is left.

    Args:
        schedule: says what is next, and is told what becomes of it.
        out: the sweep's folder.
        there: current folder of the command.
        parts: what each trial gets of a machine.
        scratch: a folder for what Tune writes.
        tick: a function that is called some times a second.
        trust: modules and classes that the sweep was given as trusted.
    """
    work = partial(train, out=out, there=there, threads=parts.threads, trust=tuple(trust))
    tuner = tune.Tuner(
        tune.with_resources(work, parts.resources),
        tune_config=tune.TuneConfig(
            search_alg=Plan(schedule, out, parts.limit), num_samples=-1, reuse_actors=True
        ),
        run_config=tune.RunConfig(
            storage_path=str(scratch), name="tune", verbose=0, callbacks=[Clock(tick)]
        ),
    )
    try:
        tuner.fit()
    except (RayError, tune.TuneError) as error:
        why = str(error).strip().splitlines()[-1]
        raise UserError(f"Ray has stopped ({why}); the same command goes on") from error


def train(
    config: dict[str, Any], out: Path, there: str, threads: int | None, trust: Sequence[str]
) -> None:
    """Run one trial, and report to Tune whether and why it failed."""
    trial: Trial = config["trial"]
    try:
        why = trials.run(out, trial, there, threads, trust)
    except (UserError, OSError) as error:
        why = str(error)
    tune.report({"ok": int(why is None), "why": why})
