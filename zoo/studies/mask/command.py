"""`zoo mask`: keep a share of an update's coefficients, rebuild the network, and evaluate it.

It is evaluated on its validation data. Options of the data are those of `zoo fit`, as in
--data.data_dir FOLDER, for data that was moved.
"""

from typing import Annotated

from zoo.cli.arguments import call
from zoo.files.trust import NOBODY, Trust
from zoo.pages.texts import lines
from zoo.studies.folder import written
from zoo.studies.mask.evaluating import masked
from zoo.studies.options import split

DEFAULT_BUDGETS, DEFAULT_ORDERS = "1,2,5,10,25,50,75,100", "magnitude,frequency,random"


def main(argv: list[str]) -> int:
    """Print the scores, and write them if asked to."""
    own, data = split(argv[1:], ("--data.",))
    print(call(mask, argv, own=own, data=data, argv=argv[1:]))
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
    found = masked(
        runs,
        budgets=budgets,
        order=order,
        draws=draws,
        transform=transform,
        backbone=backbone,
        data=data,
        trust=trust,
        out=out,
        save=save,
        force=force,
        command=" ".join(["zoo", "mask", *argv]),
    )
    return f"{found}{lines(written(out, found.file))}"
