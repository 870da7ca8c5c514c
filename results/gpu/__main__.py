"""Measure zoo on the GPU of this machine, in the order of worth: `bash results/gpu.sh`."""

import argparse
import fcntl
import hashlib
import io
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import NoReturn

from results.gpu import PARTS
from results.gpu.frame import process, wheels
from results.gpu.frame.part import AGAIN
from results.gpu.frame.rows import SOURCE, read
from results.gpu.frame.setting import Setting

ROOT = Path(__file__).parent.parent.parent
LAST = 10.0
"""Seconds kept for the last table, half of them against all odds."""
GRACE = 15.0
"""Seconds after its time at which a part that has not ended is killed."""
RESTART = 12.0
"""Seconds that must be left for another process to go on, once an error has poisoned the device."""
LONGEST = 10_000
"""Minutes that a run may take, a week."""
ROOM = 1 << 21
"""Bytes that must be free where the tables are: more than all of them take."""
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
            options = _parser().parse_args(words)
            _check(options)
            with _folder() as site:
                _complete(options.wheels, site)
                _import_torch()
                source = _source(options)
                _check_device(options)
                _check_corpus(options)
                with _open(options.out, source):
                    return _measure(options, source, start + 60 * options.minutes)
    except Mistake as mistake:
        _say(f"gpu.sh: {mistake}", error=True)
        return 2
    except Stopped as stopped:
        _say(f"gpu.sh: stopped by {stopped}; its rows are whole: run it again to go on", error=True)
        return 128 + stopped.number


class Mistake(Exception):
    """What a user has to mend, in one line."""


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


def _say(text: str, error: bool = False) -> None:
    """Print at once, and go on if nobody reads it any more: the tables are what a run is for."""
    stream = sys.stderr if error else sys.stdout
    try:
        print(text, file=stream, flush=True)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # else what is left in it raises again at exit
        os.close(nowhere)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Mistake(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="gpu.sh",
        description="Measure zoo on the GPU of this machine; run again, it goes on.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"parts: {', '.join(PARTS)}\n"
        "wheels, where torch, lightning, torchmetrics, transformers, peft, "
        "tensorboard, einops and triton\n"
        f"are installed and no more: {wheels.DOWNLOAD}",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        default=os.environ.get("ZOO_DATA") or None,
        help="that holds tinyshakespeare/input.txt; by default $ZOO_DATA",
    )
    parser.add_argument(
        "--wheels", type=Path, metavar="FOLDER", help="of wheels for what is not installed"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        default=Path("gpu"),
        help="of the tables; by default gpu",
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="that it may take; by default 9")
    parser.add_argument(
        "--only", metavar="PARTS", default=",".join(PARTS), help="some parts, as kernels,layers"
    )
    parser.add_argument(
        "--small", action="store_true", help="rehearse it all on the CPU, in two minutes"
    )
    return parser


def _check(options: argparse.Namespace) -> None:
    """Check what can be checked before torch is imported."""
    options.only = list(
        dict.fromkeys(name.strip() for name in options.only.split(",") if name.strip())
    )
    if unknown := [name for name in options.only if name not in PARTS]:
        raise Mistake(f"--only has no part '{unknown[0]}': there are {', '.join(PARTS)}")
    if not options.only:
        raise Mistake(f"--only names no part: there are {', '.join(PARTS)}")
    if not 0 < options.minutes <= LONGEST:
        raise Mistake(f"--minutes must be above 0 and at most {LONGEST}, got {options.minutes}")
    for name in ("data", "wheels"):
        folder = getattr(options, name)
        if folder is not None and not Path(folder).is_dir():
            raise Mistake(f"--{name} '{folder}' is no folder")
    corpus = None if options.data is None else Path(options.data) / "tinyshakespeare" / "input.txt"
    if corpus is not None and not corpus.is_file():
        raise Mistake(f"--data '{options.data}' has no tinyshakespeare/input.txt")
    if corpus is None and not options.small and "characters" in options.only:
        raise Mistake(
            "the part characters needs --data FOLDER, one that holds tinyshakespeare/input.txt"
        )


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
                [str(site), os.environ.get("PYTHONPATH", str(ROOT))]
            )
    names = ", ".join(map(str, lacking))
    raise Mistake(f"the wheels of '{folder}' do not fit each other: {names} is still missing")


def _import_torch() -> None:
    """Import torch, which is there; whether it works is another question."""
    try:
        import torch  # noqa: F401
    except (ImportError, OSError) as error:
        raise Mistake(f"torch cannot be imported: {(str(error).splitlines() or [''])[0]}") from None


def _check_corpus(options: argparse.Namespace) -> None:
    """Check that the corpus is what it is called."""
    if options.data is None or "characters" not in options.only:
        return
    from tasks.text.corpus import tinyshakespeare
    from zoo.errors import UserError

    try:
        tinyshakespeare(str(options.data))
    except UserError as error:
        raise Mistake(f"--data: {error}") from None


def _check_device(options: argparse.Namespace) -> None:
    """Check that there is a GPU with enough memory."""
    import torch

    if options.small:
        return
    if torch.version.cuda is None:
        raise Mistake(
            f"torch {torch.__version__} has no CUDA: install one that has, or give --small"
        )
    if not torch.cuda.is_available():
        raise Mistake("no GPU is at hand: give --small to rehearse on the CPU")
    free, needed = torch.cuda.mem_get_info()[0], max(PARTS[name].memory for name in options.only)
    if free < needed:
        most = [name for name in options.only if PARTS[name].memory > free]
        raise Mistake(
            f"{free / 1e9:.0f} GB of the GPU are free, {needed / 1e9:.0f} are needed: "
            f"leave {', '.join(most)} out of --only"
        )


def _source(options: argparse.Namespace) -> dict[str, str]:
    """Return the columns that tell where a row comes from."""
    import torch

    from zoo.provenance import device_name

    device = device_name(
        torch.device("cpu" if options.small else "cuda" if torch.cuda.is_available() else "cpu")
    )
    command = "bash results/gpu.sh" + " --small" * options.small
    return {
        "command": command,
        "commit": _commit(),
        "device": f"{device}, torch {torch.__version__}",
        "date": datetime.now(UTC).date().isoformat(),
    }


@contextmanager
def _open(out: Path, source: dict[str, str]) -> Iterator[None]:
    """Hold the folder of the tables for this run.

    Rows that it has already must be of this commit and device.
    """
    for name, part in PARTS.items():
        try:
            rows = read(out / f"{name}.csv", [*part.case, *part.measured, *SOURCE])
        except ValueError as error:
            raise Mistake(f"--out: {error}: move it away, or give another folder") from None
        for row in rows:
            for column in ("command", "commit", "device"):
                if row[column] != source[column]:
                    raise Mistake(
                        f"--out '{out}' has rows of another {column}, '{row[column]}': "
                        "give another folder"
                    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        number = os.open(out, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Mistake(f"--out '{out}': {error.strerror}") from None
    try:
        if not os.access(out, os.W_OK | os.X_OK):
            raise Mistake(f"--out '{out}' cannot be written: give another folder")
        if shutil.disk_usage(out).free < ROOM:
            raise Mistake(f"--out '{out}' is on a full disk: give another folder")
        try:
            # The folder is locked, since no file of it is more than a table.
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Mistake(
                f"--out '{out}' is being written by another run: give another folder"
            ) from None
        except OSError:
            pass  # no locks on this file system
        yield
    finally:
        os.close(number)


def _commit() -> str:
    """Name the code that is measured: its commit, or a hash where that does not say it all.

    The code of a tree that has changed, or that was copied without its repository, is told from
    another's by the hash.
    """
    from zoo.provenance import commit

    known = commit()
    if known is not None and not known.endswith("+"):
        return known
    digest = hashlib.sha256()
    for folder, pattern in (
        ("zoo", "*.py"),
        ("tasks", "*.py"),
        ("results/gpu", "*.py"),
        ("configs", "*.yaml"),
    ):
        for path in sorted((ROOT / folder).rglob(pattern)):
            digest.update(path.read_bytes())
    return f"{known or ''} sources {digest.hexdigest()[:7]}".lstrip()


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
        environment |= {
            "TRITON_INTERPRET": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        }  # all is tiny
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
