"""What zoo costs on a GPU, measured by one command: `bash results/gpu.sh`.

`PARTS` says what is measured, in the order of its worth. Each part is a module of its name with a
function `measure(setting, table)`, which runs in a process of its own, so that an error which
poisons the device ends one part and not the next; its rows go into a table of its name.
"""

from typing import NamedTuple


class Part(NamedTuple):
    """One thing that is measured."""

    seconds: float  # of nine minutes; what a part leaves goes to those after it
    memory: int  # bytes of the device that it needs
    case: tuple[str, ...]  # columns that say what a row is of
    measured: tuple[str, ...]  # columns that say what was found


GB = 10**9
PARTS = {
    "kernels": Part(
        70,
        4 * GB,
        ("kernel", "case", "dtype"),
        ("error", "tolerance", "agrees", "seconds", "note"),
    ),
    "blocks": Part(
        110,
        8 * GB,
        ("rows", "columns", "share", "block", "tokens"),
        (
            "dense_ms",
            "default_ms",
            "best_ms",
            "floor_ms",
            "dense_floor_ms",
            "floor_share",
            "ratio",
            "goal",
            "met",
            "default_tiles",
            "best_tiles",
            "variants",
            "capability",
            "note",
        ),
    ),
    "layers": Part(
        90,
        12 * GB,
        ("shape", "tokens", "start", "layer", "run"),
        (
            "trained",
            "forward_ms",
            "forward_floor_ms",
            "forward_to_dense",
            "forward_to_dense_quartiles",
            "both_ms",
            "both_floor_ms",
            "both_to_dense",
            "both_to_dense_quartiles",
            "forward_to_peft",
            "forward_to_peft_quartiles",
            "both_to_peft",
            "both_to_peft_quartiles",
            "peak_gb",
            "eager_to_compiled",
            "compile_seconds",
            "note",
        ),
    ),
    "thresholds": Part(
        60,
        12 * GB,
        (
            "threshold",
            "first",
            "second",
            "shape",
            "tokens",
            "share",
            "block",
            "dtype",
            "launch",
            "on",
        ),
        ("size", "first_ms", "second_ms", "ratio", "low", "high", "floor_ms", "note"),
    ),
    "step": Part(
        60,
        40 * GB,
        ("layers", "loop", "recompute"),
        (
            "trainable",
            "step_ms",
            "floor_ms",
            "tokens_per_second",
            "share_of_peak",
            "peak_gb",
            "compile_seconds",
            "note",
        ),
    ),
    "characters": Part(
        130,
        8 * GB,
        ("method", "seed", "steps"),
        (
            "trainable",
            "rate",
            "shipped_rate",
            "loss",
            "best_loss",
            "best_step",
            "stable_rank",
            "step_ms",
            "floor_ms",
            "tokens_per_second",
            "loop",
            "agreement",
            "note",
        ),
    ),
    "generate": Part(
        25,
        8 * GB,
        ("layers", "way", "window", "loop"),
        ("by_kernel", "token_ms", "floor_ms", "tokens_per_second", "note"),
    ),
}
