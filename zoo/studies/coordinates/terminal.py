"""What `zoo coordinates` prints, within 80 columns."""

from typing import Any

from zoo.pages.terminal import table
from zoo.studies.coordinates.sizes import FLAT
from zoo.studies.coordinates.tables import SHORT, errors_table, terminal_tables


def describe(report: dict[str, Any]) -> str:
    """Return exponents along width and depth, and rebuild errors, within 80 columns."""
    at = report["at"]
    lines = [
        f"{report['task']} on {report['data']}",
        f"{report['optimizer']['name']}, lr {report['lr']:g}; {report['steps']} steps, "
        f"seeds: {report['seeds']}; ratio {report['ratio']:g}",
    ]
    for along, sizes, other in (
        ("width", report["widths"], f"{at['depth']} blocks"),
        ("depth", report["depths"], f"width {at['width']}"),
    ):
        if len(sizes) > 1:
            lines += ["", f"exponents in {along}, {sizes[0]} to {sizes[-1]}, at {other}"]
            for part in terminal_tables(report, along):
                lines += table(part)
    lines += [
        "",
        "sizes are root-mean-squares over entries, of W whatever its coefficients; an",
        f"exponent is the slope of log size, flat within {FLAT:g} of 0; gradients are those at",
        "the start; the stream is what blocks put out",
    ]
    if report["rebuild"]:
        lines += ["", "relative error of a rebuilt matrix", *table(errors_table(report, SHORT))]
    return "\n".join(lines)
