"""What `zoo coordinates` prints, within 80 columns."""

from collections.abc import Iterator, Sequence
from typing import Any

from zoo.studies.coordinates.rebuild import PATHS
from zoo.studies.coordinates.sizes import BLOCKS, FLAT, LAYERS, LOGITS, MEASURES
from zoo.studies.terminal import columns

LEFT = max(len(measure.label) for measure in MEASURES)
CELL = len("-0.00 shrinks")
"""Characters of a table's first column, and of an exponent."""


def describe(report: dict[str, Any]) -> str:
    """Exponents along width and depth, and rebuild errors, within 80 columns."""
    at = report["at"]
    lines = [
        f"{report['task']} on {report['data']}",
        f"{report['optimizer']['name']}, lr {report['lr']:g}; {report['steps']} steps, seeds: {report['seeds']}; "
        f"ratio {report['ratio']:g}",
    ]
    for along, sizes, other in (
        ("width", report["widths"], f"{at['depth']} blocks"),
        ("depth", report["depths"], f"width {at['width']}"),
    ):
        if len(sizes) > 1:
            lines += ["", f"exponents in {along}, {sizes[0]} to {sizes[-1]}, at {other}"]
            for names in parts(report["parameterizations"]):
                lines += exponents(report, along, names)
    lines += [
        "",
        "sizes are root-mean-squares over entries, of W whatever its coefficients; an",
        f"exponent is the slope of log size, flat within {FLAT:g} of 0; gradients are those at",
        "the start; the stream is what blocks put out",
    ]
    if report["rebuild"]:
        lines += ["", "relative error of a rebuilt matrix", *errors_of(report["rebuild"])]
    return "\n".join(lines)


def parts(names: Sequence[str]) -> Iterator[list[str]]:
    """As many names at once as columns of a table have room."""
    part: list[str] = []
    for name in names:
        if part and LEFT + sum(max(CELL, len(each)) + 2 for each in [*part, name]) > 80:
            yield part
            part = []
        part = [*part, name]
    yield part


def exponents(report: dict[str, Any], along: str, names: Sequence[str]) -> list[str]:
    """A line for each measure."""
    found = {
        (row["parameterization"], row["measure"]): row
        for row in report["slopes"]
        if row["along"] == along and row["group"] in (LAYERS, BLOCKS, LOGITS)
    }
    rows: list[tuple[str, ...]] = [("", *names)]
    for measure in MEASURES:
        cells = [found[name, measure.label] for name in names]
        rows.append(
            (
                measure.label,
                *(
                    "-" if cell["slope"] is None else f"{cell['slope']:+.2f} {cell['reading']:>7}"
                    for cell in cells
                ),
            )
        )
    return columns(rows, 1)


def errors_of(rebuilt: list[dict[str, Any]]) -> list[str]:
    """A line for each matrix."""
    rows: list[tuple[str, ...]] = [("", "size", "float32", "bf16 W", "bf16 module", "bf16 bases")]
    for row in rebuilt:
        cells = ("-" if row[path] is None else f"{row[path]:.2e}" for path in PATHS)
        rows.append((row["parameterization"], str(row["size"]), *cells))
    return columns(rows, 1)
