"""An analysis in a terminal: ranks, measures beside their nulls, and verdicts, in 80 columns."""

import re
import textwrap

from zoo.pages.data import Data
from zoo.pages.terminal import table
from zoo.studies.analyze.tables import terminal_tables

LEGEND = """k90: share of the coefficients, largest first, that holds 90 % of the energy.
low 25 %: share of the energy in the lowest quarter of the frequencies.
null: the same singular values in random directions; z, p: the distance to it."""


def printed(analysis: Data) -> str:
    """Return the runs one by one, groups of several, and what the words mean."""
    parts = [describe(run) for run in analysis["runs"]]
    parts += [
        "\n\n".join([f"{group['group']}: {len(group['runs'])} runs together", *verdicts(group)])
        for group in analysis["groups"]
        if len(group["runs"]) > 1
    ]
    return "\n\n".join([*parts, LEGEND])


def describe(run: Data) -> str:
    """Return ranks, two measures by transform and kind of layer, and verdicts, in 80 columns."""
    head = [f"{run['name']}: {run['what']} ({run['group']})"]
    head += [f"note: {note}" for note in run["notes"]]
    tables = ("\n".join(table(each)) for each in terminal_tables(run))
    return "\n\n".join(["\n".join(head), *tables, *verdicts(run)])


def verdicts(report: Data) -> list[str]:
    """Return a paragraph for each transform, of a run or a group of runs."""
    paragraphs = [
        f"{transform}: {verdict['words']}" for transform, verdict in report["verdicts"].items()
    ]
    kept = [
        re.sub(r" (%|[=<] )", lambda sign: sign[0].replace(" ", "\xa0"), text)
        for text in paragraphs
    ]
    return [textwrap.fill(text, 80).replace("\xa0", " ") for text in kept]
