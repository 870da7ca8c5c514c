"""`sweep.json`: which settings each trial's folder was made with, so that a changed sweep file never mixes two."""

import fcntl
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoo import __version__
from zoo.errors import UserError
from zoo.sweep.plan import Trial

NAME, LOCK = "sweep.json", "sweep.lock"


class Record:
    """The plan as it stands in the sweep's folder.

    Args:
        out: the folder, which need not be there.

    Raises:
        UserError: if its sweep.json is none.
    """

    def __init__(self, out: Path) -> None:
        self.path = out / NAME
        self.facts: dict[str, Any] = {}
        if self.path.is_file():
            from zoo.files import read_json

            self.facts = read_json(self.path)
        self.trials: dict[str, Any] = self.facts.setdefault("trials", {})

    def check(self, trials: Iterable[Trial]) -> None:
        """Compare trials with what is there.

        Raises:
            UserError: naming one whose folder is of other settings, or of no sweep.
        """
        for trial in trials:
            folder = self.path.parent / trial.name
            if not folder.exists():
                continue
            then, now = self.trials.get(trial.name), json.loads(json.dumps(trial.record()))
            if then is None:
                raise UserError(f"'{folder}' is there already and is not of this sweep: give another --out")
            if wrong := _differs(then, now):
                raise UserError(f"'{folder}' was run with {wrong}: give another --out, or move it away")

    def save(self, sweep: str, command: str) -> None:
        """Write it, with the file that it is of and the command."""
        self.facts |= {"zoo": __version__, "sweep": sweep, "command": command}
        self.write()

    def add(self, trial: Trial) -> None:
        """Put down a trial before it starts."""
        if self.trials.get(trial.name) != trial.record():
            self.trials[trial.name] = trial.record()
            self.write()

    def write(self) -> None:
        """Whole or not at all."""
        part = self.path.with_name(f"{NAME}.part")
        part.write_text(json.dumps(self.facts, indent=1) + "\n", encoding="utf-8")
        part.replace(self.path)


def _differs(then: dict[str, Any], now: dict[str, Any]) -> str | None:
    """The first setting that does."""
    for key in {**then["options"], **now["options"]}:
        a, b = (json.dumps(side["options"].get(key)) for side in (then, now))
        if a != b:
            return f"{key} {a}, where the sweep now has {b}"
    if then["digest"] == now["digest"]:  # wherever the configs lie
        return None
    return f"{', '.join(then['config'])}, and the sweep now has {', '.join(now['config'])} with other settings"


@contextmanager
def lock(out: Path) -> Iterator[None]:
    """The sweep's folder, made if need be, for one sweep at a time; a mistake that comes up leaves no empty one.

    Raises:
        UserError: if another sweep has it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / LOCK).open("w")
    except OSError as error:
        raise UserError(f"cannot write '{out}': {error.strerror}; give another --out") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another zoo sweep is at work in '{out}': let it end, or give another --out") from None
        try:
            yield
        except UserError:
            if [path.name for path in out.iterdir()] == [LOCK]:
                (out / LOCK).unlink()
                out.rmdir()
            raise
