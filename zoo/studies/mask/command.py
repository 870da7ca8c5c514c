"""`zoo mask`: keep a share of an update's coefficients, rebuild the network, and evaluate it.

It is evaluated on its validation data. Options of the data are those of `zoo fit`, as in
--data.data_dir FOLDER, for data that was moved.
"""

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from zoo.cli.arguments import call
from zoo.errors import UserError
from zoo.files.trust import NOBODY, Trust
from zoo.pages.texts import lines as printable_lines
from zoo.studies.folder import check_out, facts, is_ours
from zoo.studies.journal import JOURNAL
from zoo.studies.options import need_extra, split, words
from zoo.studies.progress import Bar

if TYPE_CHECKING:
    from zoo.training.module import ZooModule

DEFAULT_BUDGETS, DEFAULT_ORDERS = "1,2,5,10,25,50,75,100", "magnitude,frequency,random"


def main(argv: list[str]) -> int:
    """Print the scores, and write them if asked to."""
    own, data = split(argv[1:], ("--data.",))
    print(printable_lines(call(mask, argv, own=own, data=data, argv=argv[1:])))
    return 0


def mask(
    runs: Annotated[list[str], "RUN"],
    *,
    budgets: Annotated[str, "PERCENTS"] = DEFAULT_BUDGETS,
    order: Annotated[str, "NAMES"] = DEFAULT_ORDERS,
    draws: Annotated[int, "N"] = 3,
    transform: Annotated[str, "NAMES"] = "dct",
    backbone: Annotated[str | None, "FOLDER"] = None,
    force: bool = False,
    trust: Trust = NOBODY,
    out: Annotated[str | None, "DIR"] = None,
    save: bool = False,
    data: list[str],
    argv: list[str],
) -> str:
    """Evaluate masked runs, and write a report if asked to; returns what is to be printed.

    Args:
        runs: a run's folder, a checkpoint in one, or an adapter.safetensors; or the folder of a
            peft adapter, of which the energy that is kept stands for the score.
        budgets: kept, in (0, 100]; by default 1,2,5,10,25,50,75,100.
        order: which are kept: the largest, those of the lowest frequencies, some at random; by
            default magnitude,frequency,random.
        draws: of random masks; by default 3.
        transform: some of dct,fourier,hadamard,haar,random; by default dct.
        backbone: where the pretrained network is now, if moved.
        force: replace an earlier report in --out.
        trust: which classes besides zoo's own the runs may name.
        out: a new folder for mask.json, mask.html and figures; the same one again goes on after an
            interruption.
        save: write each masked run to --out too, as a file taken like a run.
        data: options of the data, as `zoo fit` takes them.
        argv: the words of the command line after `zoo mask`.

    Raises:
        UserError: for an option out of range, a folder that holds something, or a run that cannot
            be evaluated.
    """
    start = time.perf_counter()
    shares = percents(budgets)
    if draws < 1:
        raise UserError(f"--draws must be at least 1, got {draws}")
    if save and out is None:
        raise UserError("--save writes into a folder: give one as --out")
    folder = check_out(out, "mask", force)
    need_extra(*["safetensors"] * save)
    from zoo.bases import TRANSFORMS, masks

    transforms = words("--transform", transform, list(TRANSFORMS))
    wanted = words("--order", order, masks.ORDERS)
    orders = [each for each in masks.ORDERS if each in wanted]
    from zoo.files.access import new_folder
    from zoo.runs import checkpoints, peft
    from zoo.studies.journal import Journal
    from zoo.studies.mask import masking
    from zoo.studies.mask.masked_files import MaskedFiles
    from zoo.studies.sources import read_all

    plan = masking.Plan(transforms, orders, shares, draws)
    adapters = {run for run in runs if peft.find(Path(run)) is not None}
    if adapters and save:
        raise UserError(
            f"--save writes masked runs, and {min(adapters)!r} is an adapter of peft's: drop "
            f"--save, or make it a run with zoo import {min(adapters)}"
        )
    for run in runs:
        if run not in adapters:  # or a plain checkpoint would be read
            checkpoints.load(checkpoints.resolve(run), resume=False)
    sources = read_all(runs, backbone=backbone, trust=trust)
    journal = Journal(folder / JOURNAL if folder else None)
    bar = Bar("evaluations")
    done = bar.expect((len(sources) - len(adapters)) * plan.evaluations())
    with (
        new_folder(folder, "--out", is_ours(folder, "mask"), force=True)
        if folder
        else nullcontext() as part
    ):
        try:
            masked, saved = [], []
            for source in sources:
                if source.path in adapters:
                    masked.append(
                        masking.mask_updates(source, plan, *peft.sizes(Path(source.path)))
                    )
                    continue
                model, evaluate = opened(source.path, backbone, data, trust)
                files = MaskedFiles(part / "masked", source, model) if part and save else None
                masked.append(masking.mask_run(source, model, evaluate, plan, journal, done, files))
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
        report = {
            **facts("mask", argv, start),
            "transforms": transforms,
            "orders": orders,
            "budgets": shares,
            "draws": draws,
            "runs": masked,
            "groups": masking.groups(masked),
        }
        lines = [describe(group, report) for group in report["groups"]]
        if part is not None:
            from zoo.pages.page import write_report
            from zoo.studies.mask.figures import mask_figures
            from zoo.studies.mask.page import mask_page

            write_report(part, "mask", report, mask_figures(report), mask_page, saved)
            lines.append(f"written to  {folder}\nlook        {folder}/mask.html")
    return "\n\n".join(lines)


def opened(
    path: str, backbone: str | None, data: list[str], trust: Trust = NOBODY
) -> tuple["ZooModule", Callable[[], float]]:
    """Return a run's task, and what evaluates it as it is."""
    from zoo.cli.open_run import open_run

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


def percents(text: str) -> list[float]:
    """Return budgets, ascending, each once.

    Raises:
        UserError: naming one that is no number in (0, 100].
    """
    shares = set()
    for word in text.split(","):
        try:
            value = float(word)
        except ValueError:
            value = -1.0
        if not 0 < value <= 100:
            raise UserError(
                f"--budgets takes percents in (0, 100], as in 1,10,100, got {word.strip()!r}"
            )
        shares.add(value)
    return sorted(shares)


def describe(group: dict[str, Any], report: dict[str, Any]) -> str:
    """Return scores of a group of runs, and bytes by the first order, in 80 columns."""
    from zoo.pages.numbers import number_of
    from zoo.pages.terminal import table
    from zoo.studies.mask.tables import score, terminal_tables, trained_sizes
    from zoo.studies.verdicts import LEVEL

    same = [run for run in report["runs"] if run["group"] == group["group"]]
    n, unmasked = group["n"], score(group["unmasked"]["mean"], group["unmasked"]["sd"])
    lines = [group["group"], f"{group['metric']} of {number_of(n, 'run')}, unmasked {unmasked}"]
    lines += [
        f"note: {run['name']} is {run['unmasked']:.4f} in float32, and was {run['reported']:.4f} "
        "as it trained"
        for run in same
        if run["reported"] is not None and abs(run["unmasked"] - run["reported"]) > 5e-5
    ]
    lines += [f"note: {run['name']} {note}" for run in same for note in run["notes"]]
    for shown in terminal_tables(group, report):
        lines += ["", *table(shown)]
    size = trained_sizes(group, report)
    lines += [
        "",
        f"bytes  of values and their places, by {report['orders'][0]}; dense {size.dense:,.0f},",
        f"       as trained {size.trained:,.0f}, the head and what else is trained "
        f"{size.other:,.0f}",
    ]
    if n > 1:
        lines.append(f"*      differs from unmasked: paired t-test, Holm-corrected p < {LEVEL}")
    return "\n".join(lines)
