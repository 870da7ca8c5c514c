"""What the command line asks for, and whether this machine can do it: a mistake is one line."""

import argparse
import os
from pathlib import Path
from typing import NoReturn

from results.gpu import PARTS
from results.gpu.frame import wheels

LONGEST = 10_000
"""Minutes that a run may take, a week."""


class Mistake(Exception):
    """What a user has to mend, in one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Mistake(message)


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
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


def check(options: argparse.Namespace) -> None:
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


def check_torch() -> None:
    """Check that torch, which is there, can be imported."""
    try:
        import torch  # noqa: F401
    except (ImportError, OSError) as error:
        raise Mistake(f"torch cannot be imported: {(str(error).splitlines() or [''])[0]}") from None


def check_corpus(options: argparse.Namespace) -> None:
    """Check that the corpus is what it is called."""
    if options.data is None or "characters" not in options.only:
        return
    from tasks.text.corpus import tinyshakespeare
    from zoo.errors import UserError

    try:
        tinyshakespeare(str(options.data))
    except UserError as error:
        raise Mistake(f"--data: {error}") from None


def check_device(options: argparse.Namespace) -> None:
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
