"""What `zoo bench` prints, within 80 columns."""

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from zoo.studies.terminal import columns

HEADS = {
    "forward_backward": "fwd + bwd",
    "forward": "forward",
    "evaluation": "eval",
    "step": "AdamW",
}
NAME = 21
"""Characters of a name that stands in its row; a longer one has a line of its own."""
WIDTH = 80
Row = dict[str, Any]


def table(rows: Sequence[Row]) -> str:
    """Times of one shape in one precision as ratios, and its bytes."""
    m, n = rows[0]["shape"]
    return "\n".join([f"{m} x {n}, {rows[0]['precision']}", *times(rows), "", *sizes(rows)])


def times(rows: Sequence[Row]) -> list[str]:
    """For each number of tokens and each reference: its milliseconds, and below them the ratios to it."""
    cells: list[tuple[str, ...]] = [("", *HEADS.values(), "floor")]
    lines: dict[int, list[str]] = {}  # what stands before the i-th row
    for tokens in dict.fromkeys(row["tokens"] for row in rows):
        own = [row for row in rows if row["tokens"] == tokens]
        lines[len(cells)] = [f"{tokens} token{'s' * (tokens > 1)}"]
        for reference in (row for row in own if row["library"] != "zoo"):
            took = (f"{number(reference['ms'][key]['median'])} ms" for key in HEADS)
            before = _name(lines, cells, reference["name"])
            cells.append((before, *took, _floors(reference)))
            for row, ratios in _compared(own, reference["name"]):
                before = _name(lines, cells, f"  {row['name']}")
                cells.append((before, *(spread(ratios[key]) for key in HEADS), _floors(row)))
    return [line for i, row in enumerate(columns(cells, 1)) for line in (*lines.get(i, ()), row)]


def _name(lines: dict[int, list[str]], cells: list[tuple[str, ...]], name: str) -> str:
    """The name for the next row's first cell, or, if it is too long, for a line before it."""
    if len(name) <= NAME:
        return name
    lines.setdefault(len(cells), []).append(name[:WIDTH])
    return ""


def _compared(rows: Sequence[Row], reference: str) -> Iterator[tuple[Row, Row]]:
    """Rows with a ratio to this reference, and that ratio."""
    for row in rows:
        yield from ((row, ratios) for ratios in row["ratio"].values() if ratios["to"] == reference)


def _floors(row: Row) -> str:
    """How many times the floor a forward and backward pass takes."""
    return number(row["ms"]["forward_backward"]["median"] / row["floor"]["ms"])


def sizes(rows: Sequence[Row]) -> list[str]:
    """Millions of bytes, at the most tokens that were measured."""
    tokens = max(row["tokens"] for row in rows)
    lines = [f"MB at {tokens} token{'s' * (tokens > 1)}"]
    cells: list[tuple[str, ...]] = [("", "trainable", "held", "kept", "peak", "checkpoint")]
    for row in (row for row in rows if row["tokens"] == tokens):
        size = row["bytes"]
        found = (size["held"]["total"], size["kept"], size["peak"], size["checkpoint"])
        cells.append(
            (row["name"], f"{row['trainable']:,}", *(f"{count / 1e6:,.2f}" for count in found))
        )
    return [*lines, *columns(cells, 1)]


def legend(rows: Sequence[Row]) -> str:
    """What the columns mean."""
    rates = {
        row["precision"]: row["floor"]["operations"] / row["floor"]["arithmetic_ms"] / 1e6
        for row in rows
    }
    shown = " and ".join(f"{rate:,.0f} GFLOP/s in {precision}" for precision, rate in rates.items())
    return "\n".join(
        [
            *_item(
                "ratio",
                "to the line in ms above it: median over neighbours in time, +- half the distance of the "
                "quartiles",
            ),
            *_item(
                "fwd",
                "forward in training; + bwd: and backward, to the input too; eval: forward in evaluation mode "
                "without gradients; AdamW: its step",
            ),
            *_item(
                "floor",
                "fwd + bwd beside the least time of a dense layer's products, or of moving what this layer "
                f"must read and write; measured here: {shown}",
            ),
            *_item("held", "parameters, gradients, AdamW's moments and buffers"),
            *_item("kept", "for the backward pass, the input among it"),
            *_item("peak", "of a training step, beyond parameters, moments and buffers"),
        ]
    )


def _item(name: str, text: str) -> list[str]:
    return textwrap.wrap(
        f"{name:<7}{text}", WIDTH, subsequent_indent=" " * 7, break_on_hyphens=False
    )


def spread(found: Row) -> str:
    """A median, and half the distance of its quartiles, with as many decimals: 1.08 +-0.02, .063 +-.013."""
    decimals = _decimals(found["median"])
    both = (
        f"{value:.{decimals}f}" for value in (found["median"], (found["high"] - found["low"]) / 2)
    )
    return " +-".join(text.removeprefix("0") if decimals == 3 else text for text in both)


def number(value: float) -> str:
    """Three digits or so: 0.012, 1.08, 13.4, 742."""
    return f"{value:.{_decimals(value)}f}"


def _decimals(value: float) -> int:
    return next((digits for least, digits in ((100, 0), (10, 1), (0.1, 2)) if value >= least), 3)
