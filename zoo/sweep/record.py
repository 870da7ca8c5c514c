"""`sweep.json`: the settings that each trial's folder was made with.

A sweep file that was changed then never mixes runs of two settings.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from zoo import __version__
from zoo.errors import UserError
from zoo.files.access import read_json, write_text
from zoo.files.locks import Lock
from zoo.sweep.names import cut, shown
from zoo.sweep.plan import Trial

NAME, LOCK = "sweep.json", "sweep.lock"


class Record:
    """Keep the plan in the sweep's folder.

    Args:
        out: the folder, which need not be there.

    Raises:
        UserError: if its sweep.json is none.
    """

    def __init__(self, out: Path) -> None:
        self.path = out / NAME
        self.facts: dict[str, Any] = read_json(self.path) if os.path.lexists(self.path) else {}
        self.trials: dict[str, Any] = self.facts.setdefault("trials", {})
        if not isinstance(self.trials, dict):
            raise UserError(
                f"'{self.path}' is damaged, its trials are no mapping: give another --out"
            )
        for name, settings in self.trials.items():
            if not _is_record(settings):
                raise UserError(
                    f"'{self.path}' is damaged, at trial {shown(name)}: give another --out"
                )

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
                raise UserError(
                    f"'{folder}' is there already and is not of this sweep: give another --out"
                )
            if wrong := _differs(then, now):
                raise UserError(
                    f"'{folder}' was run with {wrong}: give another --out, or move it away"
                )

    def save(self, sweep: str, command: str) -> None:
        """Write the record, with the name of the sweep file and the command."""
        self.facts |= {"zoo": __version__, "sweep": sweep, "command": command}
        self.write()

    def add(self, trial: Trial) -> None:
        """Put down a trial before it starts."""
        if self.trials.get(trial.name) != trial.record():
            self.trials[trial.name] = trial.record()
            self.write()

    def write(self) -> None:
        """Write the record, whole or not at all.

        Raises:
            UserError: if it cannot be written; it is then as it was.
        """
        try:
            write_text(self.path, json.dumps(self.facts, indent=1) + "\n")
        except OSError as error:
            raise UserError(
                f"cannot write '{self.path}': {error.strerror}; the same command goes on"
            ) from None


def _is_record(settings: Any) -> bool:
    """Say whether settings are what `Trial.record` gives."""
    if not isinstance(settings, dict) or not isinstance(settings.get("options"), dict):
        return False
    config = settings.get("config")
    return isinstance(config, list) and all(
        isinstance(each, str) for each in (*config, settings.get("digest"))
    )


def _differs(then: dict[str, Any], now: dict[str, Any]) -> str | None:
    """Name the first setting that differs, with both values; None if none does."""
    for key in {**then["options"], **now["options"]}:
        a, b = (json.dumps(side["options"].get(key)) for side in (then, now))
        if a != b:
            return f"{cut(key)} {cut(a)}, where the sweep now has {cut(b)}"
    if then["digest"] == now["digest"]:  # wherever the configs lie
        return None
    configs = (cut(", ".join(side["config"])) for side in (then, now))
    return f"{next(configs)}, and the sweep now has {next(configs)} with other settings"


@contextmanager
def lock(out: Path) -> Iterator[None]:
    """Lock the sweep's folder for one sweep at a time; it is made if need be, and not left empty.

    Raises:
        UserError: if another sweep has it.
    """
    made = [path for path in (out, *out.parents) if not path.exists()]
    held = Lock(out / LOCK)
    try:
        out.mkdir(parents=True, exist_ok=True)
        free = held.acquire()
    except OSError as error:
        raise UserError(f"cannot write '{out}': {error.strerror}; give another --out") from None
    if not free:
        raise UserError(
            f"another zoo sweep is at work in '{out}' ({cut(held.holder())}): let it end, or give "
            "another --out"
        )
    try:
        yield
    finally:
        held.release()
        with suppress(OSError):  # it is not empty
            for path in made:
                path.rmdir()
