"""A mask in a terminal: scores of masked updates and their bytes, in 80 columns."""

from zoo.pages.data import Data
from zoo.pages.numbers import number_of
from zoo.pages.terminal import table
from zoo.studies.mask.tables import score, terminal_tables, trained_sizes
from zoo.studies.verdicts import LEVEL


def printed(mask: Data) -> str:
    """Return the groups of a mask, one by one."""
    return "\n\n".join(describe(group, mask) for group in mask["groups"])


def describe(group: Data, report: Data) -> str:
    """Return scores of a group of runs, and bytes by the first order, in 80 columns."""
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
