"""Measure zoo on the GPU of this machine, in the order of worth: `bash results/gpu.sh`."""

import argparse
import io
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from results.gpu import PARTS
from results.gpu.frame import process, wheels
from results.gpu.frame.folder import held, source_of
from results.gpu.frame.options import (
    Mistake,
    check,
    check_corpus,
    check_device,
    check_torch,
    parser,
)
from results.gpu.frame.part import AGAIN
from results.gpu.frame.setting import Setting

LAST = 10.0
"""Seconds kept for the last table, half of them against all odds."""
GRACE = 15.0
"""Seconds after its time at which a part that has not ended is killed."""
RESTART = 12.0
"""Seconds that must be left for another process to go on, once an error has poisoned the device."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end a run."""


def main(words: Sequence[str] | None = None) -> int:
    """Measure the parts that the command line names, each in a process of its own.

    Returns:
        0 if every part ended well, 1 if one failed, 2 for a mistake of the user's, and as a shell
        says it, 128 and its number, for a signal.
    """
    start = time.time()
    try:
        with _stoppable():
            options = parser().parse_args(words)
            check(options)
            with _folder() as site:
                _complete(options.wheels, site)
                check_torch()
                source = source_of(options.small)
                check_device(options)
                check_corpus(options)
                with held(options.out, source):
                    return _measure(options, source, start + 60 * options.minutes)
    except Mistake as mistake:
        _say(f"gpu.sh: {mistake}", error=True)
        return 2
    except Stopped as stopped:
        _say(f"gpu.sh: stopped by {stopped}; its rows are whole: run it again to go on", error=True)
        return 128 + stopped.number


class Stopped(BaseException):
    """A signal that ends the run, which no handler of errors may take for an error."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let a signal raise `Stopped`, once, so that parts and folders go.

    A signal that is ignored stays so.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    before = {each: held for each in SIGNALS if (held := signal.getsignal(each)) != signal.SIG_IGN}
    for each in before:
        signal.signal(each, stop)
    try:
        yield
    finally:
        for each, held in before.items():
            signal.signal(each, held)


@contextmanager
def _folder() -> Iterator[Path]:
    """Provide a folder for what comes from wheels."""
    try:
        folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    except OSError as error:
        raise Mistake(
            f"no folder can be made for what is temporary, {error.strerror}: set TMPDIR"
        ) from None
    with folder as name:
        yield Path(name)


def _complete(folder: Path | None, site: Path) -> None:
    """Add what this machine lacks to the path of this process and of those that it starts."""
    for _ in range(5):  # a wheel may ask for another
        lacking = wheels.missing(wheels.needed(), site)
        if not lacking:
            return
        if folder is None:
            names = " ".join(f"'{each}'" for each in lacking)
            raise Mistake(
                f"not installed here: {names}; install them, or give --wheels FOLDER, as --help "
                "says"
            )
        try:
            wheels.install(lacking, folder, site)
        except (OSError, ValueError) as error:
            raise Mistake(str(error)) from None
        if str(site) not in sys.path:
            sys.path.insert(0, str(site))
            os.environ["PYTHONPATH"] = os.pathsep.join(
                [str(site), os.environ.get("PYTHONPATH", str(wheels.ROOT))]
            )
    names = ", ".join(map(str, lacking))
    raise Mistake(f"the wheels of '{folder}' do not fit each other: {names} is still missing")


def _say(text: str, error: bool = False) -> None:
    """Print at once, and go on if nobody reads it any more: the tables are what a run is for."""
    stream = sys.stderr if error else sys.stdout
    try:
        print(text, file=stream, flush=True)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # else what is left in it raises again at exit
        os.close(nowhere)


def _measure(options: argparse.Namespace, source: dict[str, str], end: float) -> int:
    """Measure each part in its process, and then print the last table."""
    failed = {}
    _say(f"{source['device']}, commit {source['commit']}; tables in {options.out}")
    for place, name in enumerate(options.only):
        shares = [PARTS[each].seconds for each in options.only[place:]]
        left = end - time.time() - LAST
        seconds = left * shares[0] / sum(shares)
        if seconds < 1:
            why = "no time was left"
        else:
            why = _part(name, seconds, min(seconds + GRACE, left + LAST / 2), options, source)
        if why:
            failed[name] = why
            _say(f"{name} failed: {why}")
    from results.gpu.frame.summary import summary

    text = summary(options.out, failed, source)
    _say(text)
    try:
        (options.out / "summary.txt").write_text(
            text + "\n", encoding="utf-8", errors="backslashreplace"
        )
    except OSError as error:
        _say(f"gpu.sh: '{options.out / 'summary.txt'}': {error.strerror}", error=True)
        return 1
    return int(bool(failed))


def _part(
    name: str, seconds: float, most: float, options: argparse.Namespace, source: dict[str, str]
) -> str:
    """Measure one part in `seconds`, and kill it after `most`.

    Returns:
        Why it failed, or nothing.
    """
    start = time.time()
    setting = Setting(
        "cpu" if options.small else "cuda",
        options.small,
        start + seconds,
        str(options.out.absolute()),
        None if options.data is None else str(Path(options.data).absolute()),
        source,
    )
    environment = setting.environment()
    if options.small:
        # All is tiny.
        environment |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "results.gpu.frame.part", name]
    while True:
        status, said = process.run(command, environment, start + most - time.time())
        lines = [line for line in said.splitlines() if line.strip()]
        if status != AGAIN or setting.left() < RESTART:
            break
        _say(f"{name}: {lines[-1] if lines else ''}; another process goes on")
    _say(f"{name}: {time.time() - start:.0f} s of {seconds:.0f}")
    if status == 0:
        for line in lines:
            if line.startswith(f"{name}: "):  # what a part says itself: that it had no time for all
                _say(line)
        return ""
    _say(said, error=True)
    if status is None:
        return f"killed, not having ended {most - seconds:.0f} s after its {seconds:.0f} s"
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return lines[-1] if lines else f"status {status}"


if __name__ == "__main__":
    for each in (sys.stdout, sys.stderr):
        if isinstance(each, io.TextIOWrapper):
            each.reconfigure(errors="backslashreplace")  # a name of a folder may be any bytes
    sys.exit(main())
