"""What `zoo bench` prints, within 80 columns."""

from collections.abc import Sequence
from typing import Any

from zoo.pages.numbers import engineering, human_bytes, number_of
from zoo.pages.terminal import aligned, hanging

HEADS = {
    "forward_backward": "fwd + bwd",
    "forward": "forward",
    "evaluation": "eval",
    "step": "AdamW",
}
Row = dict[str, Any]


def table(rows: Sequence[Row]) -> str:
    """Return times of one shape in one precision as ratios, and its bytes."""
    m, n = rows[0]["shape"]
    parts = [f"{m} x {n}, {rows[0]['precision']}", *times(rows), "", *sizes(rows), "", *costs(rows)]
    return "\n".join(parts)


def times(rows: Sequence[Row]) -> list[str]:
    """Return each reference's milliseconds at each number of tokens, and the ratios to it below."""
    lines = [["", *HEADS.values(), "floor"]]
    for tokens in dict.fromkeys(row["tokens"] for row in rows):
        lines.append([number_of(tokens, "token"), *[""] * (len(HEADS) + 1)])
        measured = [row for row in rows if row["tokens"] == tokens]
        for reference in (row for row in measured if row["library"] != "zoo"):
            took = (f"{significant(reference['ms'][key]['median'])} ms" for key in HEADS)
            lines.append([reference["name"], *took, _floors(reference)])
            for row in measured:
                for ratios in row["ratio"].values():
                    if ratios["to"] == reference["name"]:
                        shown = (median_and_half(ratios[key]) for key in HEADS)
                        lines.append([f"  {row['name']}", *shown, _floors(row)])
    return aligned(lines)


def _floors(row: Row) -> str:
    """Return how many times the floor a forward and backward pass takes."""
    return significant(row["ms"]["forward_backward"]["median"] / row["floor"]["ms"])


def sizes(rows: Sequence[Row]) -> list[str]:
    """Return millions of bytes, at the most tokens that were measured."""
    tokens, shown = _at_most(rows)
    lines = [["", "held", "kept", "peak"]]
    for row in shown:
        size = row["bytes"]
        counts = (size["held"]["total"], size["kept"], size["peak"])
        lines.append([row["name"], *(f"{count / 1e6:,.2f}" for count in counts)])
    return [f"MB at {number_of(tokens, 'token')}", *aligned(lines)]


def costs(rows: Sequence[Row]) -> list[str]:
    """Return trained numbers, bytes of a checkpoint and FLOPs a token, at the most tokens."""
    tokens, shown = _at_most(rows)
    lines = [["", "trained", "checkpoint", "forward", "training"]]
    for row in shown:
        flops = row["flops"] or dict.fromkeys(("forward", "training"))
        counts = (engineering(flops[name]) for name in ("forward", "training"))
        checkpoint = human_bytes(row["bytes"]["checkpoint"])
        lines.append([row["name"], f"{row['trainable']:,}", checkpoint, *counts])
    return [f"FLOPs a token, of {tokens:,}", *aligned(lines)]


def _at_most(rows: Sequence[Row]) -> tuple[int, list[Row]]:
    """Return the most tokens that were measured, and the rows with so many."""
    tokens = max(row["tokens"] for row in rows)
    return tokens, [row for row in rows if row["tokens"] == tokens]


def legend(rows: Sequence[Row]) -> str:
    """Return what the columns mean."""
    rates = {
        row["precision"]: row["floor"]["operations"] / row["floor"]["arithmetic_ms"] / 1e6
        for row in rows
    }
    shown = " and ".join(f"{rate:,.0f} GFLOP/s in {precision}" for precision, rate in rates.items())
    meanings = {
        "ratio": "to the line in ms above it: median over neighbours in time, +- half the distance "
        "of the quartiles",
        "fwd": "forward in training; + bwd: and backward, to the input too; eval: forward in "
        "evaluation mode without gradients; AdamW: its step",
        "floor": "fwd + bwd beside the least time of a dense layer's products, or of moving what "
        f"this layer must read and write; measured here: {shown}",
        "held": "parameters, gradients, AdamW's moments and buffers",
        "kept": "for the backward pass, the input among it",
        "peak": "of a training step, beyond parameters, moments and buffers",
        "FLOPs": "counted by formula, forward and with backward, with those that build W; "
        "checkpoint: of what is trained",
    }
    return "\n".join(hanging(f"{name:<7}{text}", 7) for name, text in meanings.items())


def median_and_half(ratio: Row) -> str:
    """Return a median and half the distance of its quartiles, as in 1.08 +-0.02 and .063 +-.013."""
    decimals = _decimals(ratio["median"])
    both = (
        f"{value:.{decimals}f}" for value in (ratio["median"], (ratio["high"] - ratio["low"]) / 2)
    )
    return " +-".join(text.removeprefix("0") if decimals == 3 else text for text in both)


def significant(value: float) -> str:
    """Return three digits or so: 0.012, 1.08, 13.4, 742."""
    return f"{value:.{_decimals(value)}f}"


def _decimals(value: float) -> int:
    return next((digits for least, digits in ((100, 0), (10, 1), (0.1, 2)) if value >= least), 3)
