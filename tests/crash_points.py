"""Kills commands before each of their file-system events, and checks that they then finish as if
never interrupted.

    python tests/crash_points.py [--every K] [--kinds] [--only fit,trial,export,report] [--jobs 2]

An event is a file made or emptied, a write, an fsync, or a name that is made, changed or removed,
in the command's folder or in that of temporary files. A command is first run whole, which gives its
result and its events, 1 to N. Then, for each k, it is run in a fresh copy of the folder and dies by
SIGKILL before event k, or in the middle of it, half of the bytes written. The same command again
(after a fit that left a checkpoint, the one that goes on) must succeed with an equal result,
without a traceback, and leave no temporary file; where the killed one's result is whole already, it
may refuse to write over it. Commands run in forks of a process that has imported everything and
computed nothing, as threads do not survive a fork: each takes a second or less.
"""

import _pyio
import argparse
import atexit
import builtins
import importlib
import io
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import chdir
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import IO, Any

from report_runs import write_sweep
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tiny import save_backbone, save_glue

from zoo.__main__ import main as zoo
from zoo.sweep import read, trials

NAMES = {
    "os.rename": (1, 3),
    "os.remove": (0, 1),
    "os.mkdir": (0, 2),
    "os.rmdir": (0, 1),
    "os.link": (1, 3),
    "os.symlink": (1, 2),
    "os.truncate": (0, None),
}
"""Audit events that change names or sizes.

Each has the places of the path, and of the folder it is relative to, in its arguments.
"""
RUN = Path("runs/run")
FIT = (
    "fit --config dct_half.yaml --name run --data.corpus text.txt --data.batch_size 4 "
    "--data.block_size 16 "
    "--model.width 16 --model.layers 2 --model.heads 2 "
    "--trainer.limit_val_batches 5 --trainer.max_steps 30 "
    "--trainer.val_check_interval 10 --checkpoint.every_n_steps 5 --stable_rank.every_n_steps 10 "
    "--trainer.precision 32-true"
)
TUNE = (
    "fit --config glue_rte.yaml --config lora_8.yaml --name run --model.backbone bert "
    "--data.data_dir glue "
    "--data.batch_size 8 --data.max_length 32 --trainer.precision 32-true --trainer.max_epochs 1 "
    "--model.optimizer.lr 0.05"
)
REPORT = "report runs --out report"
IMPORTS = {
    "": ["zoo.cli.fit.command"],
    "export": ["transformers.models.bert.modeling_bert"],
    "report": [
        "matplotlib.pyplot",
        "zoo.studies.report.comparison",
        "zoo.studies.report.figures",
        "zoo.studies.report.page",
    ],
}
"""What commands import late, by what their names begin with."""


class Tripwire:
    """Lists this process's events below `top` in a file elsewhere; dies before the `last`, or amid
    a `torn` write.
    """

    def __init__(self, top: Path, trace: Path, last: int = 0, torn: bool = False) -> None:
        self.top, self.last, self.torn, self.count = f"{top}/", last, torn, 0
        self.lock = threading.RLock()  # TensorBoard writes in a thread of its own
        self.trace = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self.open, self.write, self.fsync = io.open, os.write, os.fsync
        builtins.open = io.open = self._open
        os.write, os.fsync = (
            self._write,
            lambda number: (self._event("fsync", number), self.fsync(number))[1],
        )
        sys.addaudithook(self._audit)

    def _audit(self, name: str, args: tuple[Any, ...]) -> None:
        if name == "open" and args[2] & (os.O_TRUNC | os.O_CREAT):
            if args[2] & os.O_TRUNC or not os.path.lexists(args[0]):
                self._event(name, args[0])
        elif name in NAMES:
            path, folder = NAMES[name]
            place = locate(args[path], args[folder] if folder else -1)
            if name == "os.rename" or os.path.lexists(place) != (
                name in ("os.mkdir", "os.link", "os.symlink")
            ):
                self._event(name, place)  # else it will fail

    def _event(self, name: str, path: Any, folder: int = -1) -> bool:
        """Die here if this is the last event; whether to die in the middle of it."""
        place = locate(path, folder)
        if not place.startswith(self.top):
            return False
        with self.lock:
            self.count += 1
            self.write(
                self.trace, f"{name.removeprefix('os.')} {place.removeprefix(self.top)}\n".encode()
            )
            if self.count == self.last and not (self.torn and name == "write"):
                os.kill(os.getpid(), signal.SIGKILL)
            return self.count == self.last

    def _open(self, file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        """Python's own implementation, which calls `os.write`, for what is written."""
        ours = set(mode) & set("wax+") and locate(file).startswith(self.top)
        return (_pyio.open if ours else self.open)(file, mode, *args, **options)

    def _write(self, number: int, content: Any) -> int:
        if self._event("write", number):
            self.write(number, memoryview(content)[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return self.write(number, content)


def locate(path: Any, folder: int = -1) -> str:
    """Where a path, perhaps of an open folder, or an open file is."""
    if isinstance(path, int):
        return os.readlink(f"/proc/self/fd/{path}")
    base = os.readlink(f"/proc/self/fd/{folder}") if folder >= 0 else os.getcwd()
    return os.path.abspath(os.path.join(base, os.fsdecode(path)))


@dataclass(frozen=True)
class Case:
    """A command to be killed, `first`, the one `again` after that, and the `result` that must be
    equal.

    They run in a folder that `start` has filled, or begun to fill before it died at its event
    `cut`.
    """

    name: str
    start: Callable[[], Any]
    first: Callable[[], int]
    again: Callable[[], int]
    result: Callable[[], dict[str, Any]]
    stride: int = 1
    cut: int = 0


def run(
    command: Callable[[], Any], folder: Path, last: int = 0, torn: bool = False
) -> tuple[int, list[str], str]:
    """Run a command in `folder`/top/place, to its end or to an event: status (or minus signal),
    events, and output.
    """
    trace, output = folder / "trace", folder / "output"
    if (process := os.fork()) == 0:
        status = 1
        try:
            signal.alarm(180)  # a command that hangs
            # What is to be done at the end of this process is nothing of the command's.
            atexit._clear()
            os.chdir(folder / "top" / "place")
            os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "top" / "tmp")
            sys.stdout = sys.stderr = output.open("w", buffering=1)
            os.dup2(sys.stdout.fileno(), 1)
            os.dup2(sys.stdout.fileno(), 2)
            Tripwire(folder / "top", trace, last, torn)
            status = int(command() or 0)
            atexit._run_exitfuncs()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return status, trace.read_text().splitlines(), output.read_text(errors="replace").strip()


def attempt(
    case: Case, template: Path, expected: dict[str, Any], number: int, torn: bool
) -> tuple[str, list[str]]:
    """Kill a command at one event in a copy of a folder, and run it again: the event, and what is
    wrong then.
    """
    with tempfile.TemporaryDirectory(dir=template.parent) as name:
        folder = Path(name)
        shutil.copytree(template / "top", folder / "top", symlinks=True)
        status, events, said = run(case.first, folder, number, torn)
        if status != -signal.SIGKILL:  # two threads may have a few events more or less
            return f"after {events[-1]}", [] if status == 0 else [
                f"it failed by itself: {said[-200:]}"
            ]
        when = "in" if torn and events[-1].startswith("write") else "before"
        event = f"{when} {events[-1]} (event {number})"
        whole = not differences(case, folder, expected)
        status, _, said = run(case.again, folder)
        wrong = differences(case, folder, expected) + [
            f"left: {path}" for path in left(folder / "top")
        ]
        if "Traceback" in said or status not in (0, 2 if whole else 0):
            wrong.insert(0, f"exit status {status}: {said[-200:].splitlines()[-1:]}")
        return event, wrong


def differences(case: Case, folder: Path, expected: dict[str, Any]) -> list[str]:
    """The names of what is not as the uninterrupted command left it."""
    with chdir(folder / "top" / "place"):
        try:
            found = case.result()
        except Exception as error:  # whatever reading a result makes of the lack of one
            return [f"no result ({type(error).__name__}: {error})"]
    return sorted(key for key in {**expected, **found} if found.get(key) != expected.get(key))


def left(top: Path) -> list[str]:
    """Temporary files; not those in a run that died before its first checkpoint, and stays as it
    was.
    """
    given_up = {path for path in top.rglob("version_*") if path != newest(path.parent)}
    found = [
        path
        for path in top.rglob("*")
        if path.suffix in (".part", ".old", ".tmp") or path.parent == top / "tmp"
    ]
    return sorted(str(path.relative_to(top)) for path in found if not given_up & set(path.parents))


def newest(runs: Path) -> Path:
    """The last version of a run."""
    return max(runs.glob("version_*"), key=lambda path: int(path.name.removeprefix("version_")))


# ---- The commands --------------------------------------------------------------------------------


def fill(*lines: str) -> None:
    """A folder in which these commands have run, with what they need: a small text, or a backbone
    and its data.
    """
    Path("text.txt").write_text(
        "the quick brown fox jumps over the lazy dog, and runs away.\n" * 67
    )
    if TUNE in lines:
        save_backbone("bert", Path("bert"))
        save_glue(Path("glue"))
    assert not any(zoo(line.split()) for line in lines)


def runs(earlier: bool) -> None:
    """A folder with runs of three methods, as fits leave them, and perhaps an earlier report of two
    of them.
    """
    losses = {"Dense": [1.50, 1.51, 1.52], "DCT": [1.51, 1.53, 1.52], "LoRA": [1.61, 1.60, 1.63]}
    for name, values in losses.items():
        if earlier and name == "LoRA":
            zoo(REPORT.split())
        write_sweep(
            Path("runs"),
            {name: values},
            events={"val/loss": [(step, 4 - step / 200) for step in (0, 400)]},
        )


def resume(line: str) -> int:
    """Go on with a fit, or start it again if there is nothing to go on from."""
    folder = RUN / "version_0"
    there = (folder / "checkpoints" / "last.ckpt").is_file()
    return zoo(["fit", "--ckpt_path", str(folder)] if there else line.split())


def fitted(runs: Path = RUN) -> dict[str, Any]:
    """What a fit left: all that is trained, the optimizer's moments, the summary, names of files,
    and curves.
    """
    import torch
    from torch.utils._pytree import tree_map_only

    def load(name: str) -> dict[str, Any]:
        content = torch.load(folder / "checkpoints" / name, weights_only=True)
        return tree_map_only(
            torch.Tensor, lambda x: (str(x.dtype), tuple(x.shape), x.numpy().tobytes()), content
        )

    folder = newest(runs)
    last, summary = load("last.ckpt"), json.loads((folder / "summary.json").read_text())
    values = [
        (value, event.step)
        for path in folder.glob("events.out.tfevents.*")
        for event in LegacyEventFileLoader(str(path)).Load()
        for value in event.summary.value
    ]
    return {
        "last.ckpt": last["state_dict"],
        "best.ckpt": load("best.ckpt")["state_dict"],
        "moments": load(f"last.resume_{last['global_step']}.pt")["optimizer_states"],
        **{
            key: summary[key]
            for key in ("loss", "best", "best_step", "metrics", "stable_rank", "steps")
        },
        # Which holds nothing when nobody lives.
        "names of files": {
            str(p.relative_to(folder))
            for p in folder.rglob("*")
            if "tfevents" not in p.name and p.name != ".lock"
        },
        "curves": {
            (v.tag, step, v.simple_value)
            for v, step in values
            if v.tag.startswith(("val/", "stable_", "k90"))
        },
    }


def trial() -> Any:
    """The only one of a small sweep."""
    words = FIT.replace("--", "").split()[5:]
    options = dict(zip(words[::2], words[1::2], strict=True))
    raw = {
        "config": "dct_half.yaml",
        "options": options,
        "grid": {"model.parameterization": ["DCT"]},
        "seeds": [1],
    }
    sweep = read.parse(raw, Path())
    return sweep.reported(sweep.methods[0], {})[0]


def fit_here(words: list[str], file: IO[bytes], *_: Any) -> tuple[int, str]:
    """A trial's fit in this process, which has imported what another would import again."""
    file.write(f"$ zoo {' '.join(words)}\n".encode())
    file.flush()
    return zoo(words), ""


def trial_again() -> int:
    """The trial as a sweep runs it; if it had a checkpoint, it must go on from there."""
    trials._fit = fit_here
    (out := Path("sweep")).mkdir(exist_ok=True)
    had = (trials.folder(out, trial()) / "checkpoints" / "last.ckpt").is_file()
    print(why := trials.run(out, trial(), ".", 1))
    started = re.findall(r"^\$ zoo fit (\S+)", trials.log(out, trial()).read_text(), re.MULTILINE)
    if had and started not in ([], ["--ckpt_path"]):
        print(
            why
            := f"its checkpoint was lost, as it was started with {' and then with '.join(started)}"
        )
    return int(why is not None)


def tree(folder: Path) -> dict[str, Any]:
    """Files by name; of those that have a date in them, the end."""
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    dated = (".html", ".svg", "report.json")
    return {
        name: content[-8:] if name.endswith(dated) else content for name, content in found.items()
    }


def cases() -> list[Case]:
    """All commands."""
    fits = {
        "30 steps": ("", 1),
        "uneven": (" --checkpoint.every_n_steps 7", 5),
        "2 epochs": (" --trainer.max_steps -1 --trainer.max_epochs 2 --data.batch_size 8", 5),
        "accumulating": (" --trainer.accumulate_grad_batches 2", 5),
    }
    found = [
        Case(
            f"fit {name}",
            fill,
            partial(zoo, (FIT + more).split()),
            partial(resume, FIT + more),
            fitted,
            stride,
        )
        for name, (more, stride) in fits.items()
    ]
    again = partial(resume, FIT)
    found.append(Case("fit killed before", partial(fill, FIT), again, again, fitted, 5, cut=400))
    first = partial(zoo, trial().words("sweep"))
    found.append(
        Case("trial", fill, first, trial_again, partial(fitted, Path("sweep") / trial().name), 40)
    )
    for line, name in ((FIT, "trained"), (TUNE, "tuned")):
        for to in ("safetensors", "dense", "peft")[: 2 + (line is TUNE)]:
            export = partial(zoo, ["export", f"{RUN}/version_0", "--to", to])
            exported = partial(tree, RUN / "version_0" / f"export-{to}")
            found.append(Case(f"export {to} {name}", partial(fill, line), export, export, exported))
    for line in (REPORT, f"{REPORT} --force"):
        report = partial(zoo, line.split())
        found.append(
            Case(
                line,
                partial(runs, line != REPORT),
                report,
                report,
                partial(tree, Path("report")),
                3,
            )
        )
    return found


def points(events: list[str], stride: int, kinds: bool) -> list[tuple[int, bool]]:
    """Where to die: the event's number, and whether in the middle of it; or only at the last of all
    alike.
    """
    every = [
        (i, torn)
        for i, event in enumerate(events, 1)
        for torn in [False, True][: 1 + event.startswith("write")]
    ]
    names = [
        re.sub(r"\d+", "0", re.sub(r"(tmp/|tfevents|figures/)\S+", r"\1", event))
        for event in events
    ]
    last = {(names[i - 1], torn): (i, torn) for i, torn in every}
    return (sorted(last.values()) if kinds else every)[::-stride][::-1]


def attempts(
    case: Case, pool: ProcessPoolExecutor, every: int, kinds: bool
) -> Iterator[tuple[str, list[str]]]:
    """Fill the folder of a command, run it whole, and then kill it at each point."""
    with tempfile.TemporaryDirectory() as top:
        template, whole = Path(top).resolve() / "template", Path(top).resolve() / "whole"
        for name in ("place", "tmp"):
            (template / "top" / name).mkdir(parents=True)
        status, _, said = pool.submit(run, case.start, template, case.cut).result()
        assert status == (-signal.SIGKILL if case.cut else 0), said
        shutil.copytree(template, whole)
        status, events, said = pool.submit(run, case.first, whole).result()
        assert status == 0, said
        with chdir(whole / "top" / "place"):
            expected = case.result()
        numbers, torn = zip(
            *points(events, every if kinds else every * case.stride, kinds), strict=True
        )
        yield from pool.map(partial(attempt, case, template, expected), numbers, torn)


def main() -> int:
    """Kill and go on, and print a table; exit status 1 if anything does not."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--every", type=int, default=1, metavar="K", help="each K-th point only, and the last"
    )
    parser.add_argument(
        "--kinds", action="store_true", help="only the last of points alike but for a number"
    )
    parser.add_argument(
        "--only", default="fit,trial,export,report", metavar="NAMES", help="what names begin with"
    )
    parser.add_argument("--jobs", type=int, default=2, help="commands at a time")
    options = parser.parse_args()
    # Before torch comes.
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    chosen = [case for case in cases() if case.name.startswith(tuple(options.only.split(",")))]
    for begin, modules in IMPORTS.items():
        if any(case.name.startswith(begin) for case in chosen):
            list(map(importlib.import_module, modules))
    sys.modules["torch"].set_num_threads(1)
    tried = good = 0
    print(f"{'command':<36} points  go on  but for curves  others", flush=True)
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("fork")) as pool:
        for case in chosen:
            found = list(attempts(case, pool, options.every, options.kinds))
            bad = [(event, wrong) for event, wrong in found if wrong]
            curves = sum(wrong == ["curves"] for _, wrong in bad)
            tried, good = tried + len(found), good + len(found) - len(bad)
            print(
                f"{case.name:<36} {len(found):>6} {len(found) - len(bad):>6} {curves:>15} "
                f"{len(bad) - curves:>7}"
            )
            for event, wrong in bad:
                print(f"  {event}: {'; '.join(wrong)}", flush=True)
    print(f"{good} of {tried} crash points go on")
    return int(good < tried)


if __name__ == "__main__":
    sys.exit(main())
