"""Masks of runs, which their tasks score, and of networks in memory, which a function does."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from zoo.errors import UserError, option
from zoo.files.trust import NOBODY, Trust
from zoo.studies.folder import check_out, facts, is_ours
from zoo.studies.journal import JOURNAL
from zoo.studies.mask.result import Masked
from zoo.studies.options import listed, need_extra, words
from zoo.studies.progress import Bar
from zoo.studies.sources import Subjects, entries, read_all

if TYPE_CHECKING:
    from torch import nn

    from zoo.runs.source import Source
    from zoo.studies.mask.masking import Plan
    from zoo.training.module import ZooModule

Score = Callable[[Any], Any]
"""Takes a network, and returns a number."""
Better = Literal["higher", "lower"]


def masked(
    given: Subjects,
    *,
    score: Score | None = None,
    better: Better | None = None,
    metric: str = "score",
    budgets: float | str | Sequence[float],
    order: str | Sequence[str],
    draws: int,
    transform: str | Sequence[str],
    backbone: str | PathLike[str] | None,
    data: Sequence[str],
    trust: Trust,
    out: str | PathLike[str] | None,
    save: bool,
    force: bool,
    command: str,
) -> Masked:
    """Do what `zoo.mask` and the command do, whose arguments it takes.

    `data` are options as `zoo fit` takes them, `trust` says which classes besides zoo's own the
    runs may name, and `command` how all was asked for, as it stands on top of the page.
    """
    start = time.perf_counter()
    shares = percents(budgets)
    if type(draws) is not int or draws < 1:
        raise UserError(f"{option('draws')} must be at least 1, got {draws!r}")
    if save and out is None:
        raise UserError(f"{option('save')} writes into a folder: give one as {option('out')}")
    subjects = entries(given)
    paths = [entry.what for entry in subjects if isinstance(entry.what, str)]
    check_score(score, better, paths)
    if save and len(paths) < len(subjects):
        raise UserError(
            f"{option('save')} writes masked runs, and a network in memory is none: leave it out"
        )
    folder = check_out(out, Masked.file, force)
    need_extra(*["safetensors"] * save)
    from zoo.bases import TRANSFORMS, masks
    from zoo.files.access import new_folder
    from zoo.runs import checkpoints, peft
    from zoo.studies.journal import Evaluations
    from zoo.studies.mask import masking
    from zoo.studies.mask.masked_files import MaskedFiles

    transforms = words(option("transform"), transform, list(TRANSFORMS))
    wanted = words(option("order"), order, masks.ORDERS)
    orders = [each for each in masks.ORDERS if each in wanted]
    plan = masking.Plan(transforms, orders, shares, draws)
    adapters = {path for path in paths if peft.find(Path(path)) is not None}
    if adapters and save:
        raise UserError(
            f"{option('save')} writes masked runs, and {min(adapters)!r} is an adapter of peft's: "
            f"drop {option('save')}, or make it a run with zoo import {min(adapters)}"
        )
    for path in paths:
        if path not in adapters:  # or a plain checkpoint would be read
            checkpoints.load(checkpoints.resolve(path), resume=False)
    moved = None if backbone is None else str(backbone)
    sources = read_all(subjects, backbone=moved, trust=trust)
    journal = Evaluations(folder / JOURNAL if folder and paths else None)
    bar = Bar("evaluations")
    count = sum(score is not None or each.what in {*paths} - adapters for each in subjects)
    done = bar.expect(count * plan.evaluations())
    with (
        new_folder(folder, option("out"), is_ours(folder, Masked.file), force=True)
        if folder
        else nullcontext() as part
    ):
        runs, saved = [], []
        try:
            for entry, source in zip(subjects, sources, strict=True):
                if not isinstance(entry.what, str):
                    runs.append(_in_memory(entry.what, source, score, better, metric, plan, done))
                elif entry.what in adapters:
                    sizes = peft.sizes(Path(entry.what))
                    runs.append(masking.mask_updates(source, plan, *sizes))
                else:
                    model, evaluate = opened(entry.what, moved, data, trust)
                    files = MaskedFiles(part / "masked", source, model) if part and save else None
                    runs.append(
                        masking.mask_run(source, model, evaluate, plan, journal, done, files)
                    )
                    saved += files.written if files else []
        except KeyboardInterrupt:
            if journal.path is not None and journal.done:
                print(
                    f"zoo: {len(journal.done)} evaluations are kept; the same command goes on",
                    file=sys.stderr,
                )
            raise
        finally:
            bar.close()
        found = {
            "transforms": transforms,
            "orders": orders,
            "budgets": shares,
            "draws": draws,
            "runs": runs,
            "groups": masking.groups(runs),
        }
        result = Masked({**facts(command, start), **found})
        if part is not None:
            result.write_into(part, saved)
    return result


def opened(
    path: str, backbone: str | None, data: Sequence[str], trust: Trust = NOBODY
) -> tuple["ZooModule", Callable[[], float]]:
    """Return a run's task, and what evaluates it as it is."""
    try:
        from zoo.cli.open_run import open_run
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] != "tasks":
            raise
        raise UserError(
            "the package 'tasks' that Python finds here is another one than zoo's, which evaluates "
            "runs: start where it is not found, or run zoo mask"
        ) from error

    model, datamodule, trainer = open_run(path, backbone, data, trust)

    def evaluate() -> float:
        try:
            trainer.validate(model, datamodule=datamodule, verbose=False)
        except SystemExit as stop:  # what Lightning makes of it
            if isinstance(stop.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise
        return trainer.callback_metrics[model.monitor].item()

    return model, evaluate


def _in_memory(
    network: "nn.Module",
    source: "Source",
    score: Score | None,
    better: Better | None,
    metric: str,
    plan: "Plan",
    done: Callable[[], object],
) -> dict[str, Any]:
    """Return what every mask of a plan leaves of a network in memory, which is then as it was."""
    from zoo.studies.journal import Evaluations
    from zoo.studies.mask import masking

    sizes = masking.stored_sizes(network)
    if score is None:
        return masking.mask_updates(source, plan, **sizes)

    def evaluate() -> float:
        return _number(score(network))

    with _evaluating(network):
        scored = masking.Scored(metric, str(better), sizes, by="function")
        return masking.mask_network(
            source, network, evaluate, plan, scored, Evaluations(None), done
        )


@contextmanager
def _evaluating(network: "nn.Module") -> Iterator[None]:
    """Have a network in eval mode, without gradients; then every module is in its own mode."""
    import torch

    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _number(value: Any) -> float:
    """Return what a score is as a number.

    Raises:
        UserError: if it is none, as the dictionary that a Trainer's evaluation returns.
    """
    try:
        number = value.item() if hasattr(value, "item") else value
    except (RuntimeError, ValueError):  # of several numbers
        number = None
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise UserError(
            f"{option('score')} must return one number, got a {type(value).__name__}: return what "
            "is to be compared"
        )
    return float(number)


def check_score(score: object, better: object, paths: Sequence[str]) -> None:
    """Refuse a score of runs, which have their own, and one of which nobody knows what is better.

    Raises:
        UserError: naming the argument.
    """
    if score is None:
        if better is not None:
            raise UserError(f"{option('better')} goes with {option('score')}: give both or none")
        return
    if not callable(score):
        raise UserError(
            f"{option('score')} takes a function of the network, got a {type(score).__name__}"
        )
    if paths:
        raise UserError(
            f"{paths[0]!r} is scored by its own task, and {option('score')} is of networks in "
            "memory: leave it out, or load the network"
        )
    if better not in get_args(Better):
        raise UserError(
            f"which scores are better? give {option('better')} as 'higher' or 'lower', got "
            f"{better!r}"
        )


def percents(given: float | str | Sequence[float]) -> list[float]:
    """Return budgets, ascending, each once.

    Raises:
        UserError: naming one that is no number in (0, 100].
    """
    shares = set()
    for word in listed(given):
        try:
            value = float(word)
        except ValueError:
            value = -1.0
        if not 0 < value <= 100:
            raise UserError(
                f"{option('budgets')} takes percents in (0, 100], as in 1,10,100, got {word!r}"
            )
        shares.add(value)
    if not shares:
        raise UserError(f"{option('budgets')} takes percents in (0, 100], and there is none")
    return sorted(shares)
