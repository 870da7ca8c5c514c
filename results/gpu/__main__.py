"""`bash results/gpu.sh`: measure zoo on this machine's GPU, in the order of worth, within minutes."""

import argparse
import csv
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from results.gpu import PARTS
from results.gpu.frame import wheels
from results.gpu.frame.setting import Setting

ROOT = Path(__file__).parent.parent.parent
LAST = 10.0
"""Seconds kept for the last table."""
GRACE = 15.0
"""Seconds after its time at which a part that has not ended is killed."""


def main(words: Sequence[str] | None = None) -> int:
    """Measure; 0 if every part ended well, 1 if one failed, 2 for a mistake of the user's."""
    options = _parser().parse_args(words)
    end = time.time() + 60 * options.minutes
    try:
        _check(options)
        with tempfile.TemporaryDirectory() as site:
            _complete(options.wheels, Path(site))
            source = _source(options)
            _check_device(options)
            _open(options.out, source)
            return _measure(options, source, end)
    except Mistake as mistake:
        print(f"gpu.sh: {mistake}", file=sys.stderr)
        return 2


class Mistake(Exception):
    """What a user has to mend, in one line."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpu.sh", description="Measure zoo on the GPU of this machine; run again, it goes on.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"parts: {', '.join(PARTS)}\nwheels, where torch, lightning, torchmetrics, transformers, peft, "
               f"tensorboard, einops and triton\nare installed and no more: {wheels.DOWNLOAD}",
    )
    parser.add_argument("--data", type=Path, metavar="FOLDER", default=os.environ.get("ZOO_DATA"),
                        help="that holds tinyshakespeare/input.txt; by default $ZOO_DATA")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="of wheels for what is not installed")
    parser.add_argument("--out", type=Path, metavar="FOLDER", default=Path("gpu"), help="of the tables; by default gpu")
    parser.add_argument("--minutes", type=float, default=9.0, help="that it may take; by default 9")
    parser.add_argument("--only", metavar="PARTS", default=",".join(PARTS), help="some parts, as kernels,layers")
    parser.add_argument("--small", action="store_true", help="rehearse it all on the CPU, in two minutes")
    return parser


def _check(options: argparse.Namespace) -> None:
    """What can be said before torch is imported."""
    options.only = [name.strip() for name in options.only.split(",") if name.strip()]
    if unknown := [name for name in options.only if name not in PARTS]:
        raise Mistake(f"--only has no part '{unknown[0]}': there are {', '.join(PARTS)}")
    if not options.only:
        raise Mistake(f"--only names no part: there are {', '.join(PARTS)}")
    if not 0 < options.minutes < 1e4:
        raise Mistake(f"--minutes must be above 0, got {options.minutes}")
    for name in ("data", "wheels"):
        folder = getattr(options, name)
        if folder is not None and not Path(folder).is_dir():
            raise Mistake(f"--{name} '{folder}' is no folder")
    corpus = None if options.data is None else Path(options.data) / "tinyshakespeare" / "input.txt"
    if corpus is not None and not corpus.is_file():
        raise Mistake(f"--data '{options.data}' has no tinyshakespeare/input.txt")
    if corpus is None and not options.small and "characters" in options.only:
        raise Mistake("the part characters needs --data FOLDER, one that holds tinyshakespeare/input.txt")


def _complete(folder: Path | None, site: Path) -> None:
    """Add what this machine lacks to the path of this process and of those that it starts."""
    for _ in range(5):  # a wheel may ask for another
        lacking = wheels.missing(wheels.needed(), site)
        if not lacking:
            return
        if folder is None:
            names = " ".join(f"'{each}'" for each in lacking)
            raise Mistake(f"not installed here: {names}; install them, or give --wheels FOLDER, as --help says")
        try:
            wheels.install(lacking, folder, site)
        except (OSError, ValueError) as error:
            raise Mistake(str(error)) from None
        if str(site) not in sys.path:
            sys.path.insert(0, str(site))
            os.environ["PYTHONPATH"] = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", str(ROOT))])
    raise Mistake(f"the wheels of '{folder}' do not fit each other: {', '.join(map(str, lacking))} is still missing")


def _check_device(options: argparse.Namespace) -> None:
    """That there is a GPU with memory enough."""
    import torch

    if options.small:
        return
    if torch.version.cuda is None:
        raise Mistake(f"torch {torch.__version__} has no CUDA: install one that has, or give --small")
    if not torch.cuda.is_available():
        raise Mistake("no GPU is at hand: give --small to rehearse on the CPU")
    free, needed = torch.cuda.mem_get_info()[0], max(PARTS[name].memory for name in options.only)
    if free < needed:
        most = [name for name in options.only if PARTS[name].memory > free]
        raise Mistake(f"{free / 1e9:.0f} GB of the GPU are free, {needed / 1e9:.0f} are needed: "
                      f"leave {', '.join(most)} out of --only")


def _source(options: argparse.Namespace) -> dict[str, str]:
    """The columns that tell where a row comes from."""
    import torch

    from zoo.provenance import device_name

    device = device_name(torch.device("cpu" if options.small else "cuda" if torch.cuda.is_available() else "cpu"))
    command = "bash results/gpu.sh" + " --small" * options.small
    return {"command": command, "commit": _commit(), "device": f"{device}, torch {torch.__version__}",
            "date": datetime.now(UTC).date().isoformat()}


def _open(out: Path, source: dict[str, str]) -> None:
    """The folder of the tables, whose rows must be of this commit and device if there are some."""
    for path in sorted(out.glob("*.csv")) if out.is_dir() else []:
        for row in csv.DictReader(path.read_text(encoding="utf-8", errors="replace").splitlines()):
            for name in ("command", "commit", "device"):
                if row.get(name) is not None and row[name] != source[name]:
                    raise Mistake(f"--out '{out}' has rows of another {name}, '{row[name]}': give another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Mistake(f"--out '{out}': {error.strerror}") from None


def _commit() -> str:
    """The commit; where there is no git, the hash of the sources, since a copy may travel without its history."""
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return found.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        digest = hashlib.sha256()
        for folder in ("zoo", "tasks", "results/gpu"):
            for path in sorted((ROOT / folder).rglob("*.py")):
                digest.update(path.read_bytes())
        return f"sources {digest.hexdigest()[:7]}"


def _measure(options: argparse.Namespace, source: dict[str, str], end: float) -> int:
    """Each part in its process, and then the last table."""
    failed = {}
    for place, name in enumerate(options.only):
        shares = [PARTS[each].seconds for each in options.only[place:]]
        seconds = (end - time.time() - LAST) * shares[0] / sum(shares)
        if place == 0:
            print(f"{source['device']}, commit {source['commit']}; tables in {options.out}", flush=True)
        if seconds < 1:
            failed[name] = "no time was left"
        else:
            failed[name] = _part(name, seconds, options, source)
        if failed[name]:
            print(f"{name} failed: {failed[name]}", flush=True)
    from results.gpu.frame.summary import summary

    text = summary(options.out, {name: why for name, why in failed.items() if why})
    (options.out / "summary.txt").write_text(text, encoding="utf-8")
    print(text)
    return int(any(failed.values()))


def _part(name: str, seconds: float, options: argparse.Namespace, source: dict[str, str]) -> str:
    """Measure one part.

    Returns:
        Why it failed, or nothing.
    """
    start = time.time()
    setting = Setting(
        "cpu" if options.small else "cuda", options.small, start + seconds, str(options.out.absolute()),
        None if options.data is None else str(Path(options.data).absolute()), source,
    )
    environment = setting.environment()
    if options.small:
        environment |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}  # all is tiny
    command = [sys.executable, "-m", "results.gpu.frame.part", name]
    try:
        ended = subprocess.run(command, env=environment, timeout=seconds + GRACE, stderr=subprocess.PIPE, text=True)
    except subprocess.TimeoutExpired:
        return f"killed, not having ended {GRACE:.0f} s after its {seconds:.0f} s"
    print(f"{name}: {time.time() - start:.0f} s of {seconds:.0f}", flush=True)
    if ended.returncode == 0:
        return ""
    print(ended.stderr, file=sys.stderr, flush=True)
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"status {ended.returncode}"


if __name__ == "__main__":
    sys.exit(main())
