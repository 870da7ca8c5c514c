"""A report in a terminal: methods, what they cost, and notes, in 80 columns."""

from zoo.pages.data import Data
from zoo.pages.terminal import hanging, table
from zoo.studies.report.scaling_figure import fits_table
from zoo.studies.report.sentences import notes
from zoo.studies.report.tables import cost_table, terminal_table

MANY = 10
"""Runs that were left out that are named."""
COST = (
    "trained numbers; bytes of a checkpoint, and read to decode a token; FLOPs of linear layers a "
    "token, forward and with backward, and of the whole training"
)
"""What the columns of costs are."""


def printed(report: Data) -> str:
    """Return the comparisons one by one, and what was left out."""
    parts = [describe(comparison, report) for comparison in report["comparisons"]]
    parts += [_scaling(scaling) for scaling in report.get("scalings", ())]
    parts += [_skipped(report["skipped"])] if report["skipped"] else []
    return "\n\n".join(parts)


def describe(comparison: Data, data: Data) -> str:
    """Return a comparison in 80 columns: its settings, methods, search and notes."""
    settings = ", ".join(f"{key} {value}" for key, value in comparison["settings"].items())
    said = [comparison["name"], hanging(settings), ""]
    said += [*table(terminal_table(comparison), gap=1), ""]
    if any(method["tuned_on_reported"] for method in comparison["methods"]):
        said.append(
            hanging("*       the rate is the best of several on the seeds that are reported")
        )
    said.append(hanging(f"search  {comparison['search']['words']}"))
    if comparison["reference"] and any(method["gap"] for method in comparison["methods"]):
        words = (
            f"mean minus {comparison['reference']}'s over the seeds of both, with its paired "
            f"{100 * (1 - data['level']):g} % interval; same: within {data['margin']:g} by TOST at "
            f"{100 * data['level']:g} %"
        )
        said.append(hanging(f"gap     {words}"))
    if (costs := cost_table(comparison)) is not None:
        said += ["", *table(costs, gap=2), "", hanging(f"cost    {COST}")]
    return "\n".join([*said, *(hanging(f"note    {note}") for note in notes(comparison))])


def _scaling(scaling: Data) -> str:
    """Return the exponents of loss in compute over networks of several sizes."""
    count = len({str(point["sizes"]) for point in scaling["points"]})
    said = [hanging(f"loss by compute, over {count} networks: {scaling['name']}")]
    if (fits := fits_table(scaling)) is not None:
        said += [hanging(fits.caption), "", *table(fits)]
    return "\n".join(said)


def _skipped(skipped: list[dict[str, str]]) -> str:
    """Say how many runs were left out, and which."""
    said = [f"left out  {len(skipped)} run{'s' * (len(skipped) > 1)}"]
    said += [f"  {item['path']}: {item['why']}" for item in skipped[:MANY]]
    return "\n".join([*said, *[f"  and {len(skipped) - MANY} more"] * (len(skipped) > MANY)])
