"""`zoo analyze`: what is in the updates of runs, peft adapters or pairs of checkpoints, beside the rotation null."""

import os
import re
import textwrap
import time
from typing import Any

from zoo.cli.arguments import parse
from zoo.errors import UserError
from zoo.files.trust import NOBODY, Trust
from zoo.pages.texts import lines as printable_lines
from zoo.studies.terminal import (
    SHARED,
    Bar,
    check_out,
    columns,
    facts,
    is_ours,
    need_extra,
    read_all,
    words,
)

OPTIONS: dict[str, dict[str, Any]] = {
    "runs": {
        "nargs": "+",
        "metavar": "RUN_OR_ADAPTER",
        "help": "a run's folder, a checkpoint, an adapter.safetensors "
        "or a peft adapter; with --before any checkpoint",
    },
    "--before": {
        "default": None,
        "metavar": "CHECKPOINT",
        "help": "what it was before training: dW is the difference",
    },
    "--layers": {
        "default": None,
        "metavar": "GLOBS",
        "help": "as in query,value; by default all that have an update",
    },
    "--null": {
        "type": int,
        "default": 20,
        "metavar": "N",
        "help": "draws of each null; by default 20",
    },
    **SHARED,
    "--out": {
        "default": None,
        "metavar": "DIR",
        "help": "a new folder for analysis.json, analysis.html and figures",
    },
}

LEGEND = """k90: share of the coefficients, largest first, that holds 90 % of the energy.
low 25 %: share of the energy in the lowest quarter of the frequencies.
null: the same singular values in random directions; z, p: the distance to it."""
PAIRS = {
    "energies": "sigma^2, coefficients^2",
    "k90_stable_rank": "k90, stable rank",
    "k90_effective_rank": "k90, effective rank",
    "k90_block": "k90, block",
}


def main(argv: list[str]) -> int:
    """Print the analysis, and write it if asked to."""
    options = vars(parse("analyze", __doc__ or "", argv, OPTIONS)) | {"trust": Trust.of(argv)}
    print(printable_lines(analyze(argv=argv[1:], **options)))
    return 0


def analyze(
    runs: list[str],
    before: str | None,
    transform: str,
    null: int,
    layers: str | None,
    backbone: str | None,
    out: str | None,
    force: bool,
    argv: list[str],
    trust: Trust = NOBODY,
) -> str:
    """Analyse and write; what is to be printed.

    Raises:
        UserError: for an option out of range, a folder that holds something, or nothing to analyse.
    """
    start = time.perf_counter()
    if null < 5:
        raise UserError(f"--null must be at least 5, for a standard deviation, got {null}")
    if before is not None and len(runs) > 1:
        raise UserError(f"--before goes with one checkpoint, got {len(runs)}")
    folder = check_out(out, "analysis", force)
    need_extra()
    from zoo.bases.frequencies import TRANSFORMS
    from zoo.files.access import new_folder
    from zoo.studies.analyze import analysis

    transforms = words("--transform", transform, list(TRANSFORMS))
    globs = [glob.strip() for glob in layers.split(",")] if layers is not None else None
    if globs is not None and not all(globs):
        raise UserError(
            f"--layers takes globs with commas between, as in query,value, got {layers!r}"
        )
    bar = Bar("draws")
    try:
        sources = read_all(runs, before=before, backbone=backbone, layers=globs, trust=trust)
        done = bar.expect(null * sum(len(source.updates) for source in sources))
        found = analysis.analyze(sources, transforms, null, done=done)
    finally:
        bar.close()
    found = {**facts("analyze", argv, start), **found}
    lines = [describe(run) for run in found["runs"]]
    lines += [
        "\n\n".join([f"{group['group']}: {len(group['runs'])} runs together", *verdicts(group)])
        for group in found["groups"]
        if len(group["runs"]) > 1
    ]
    lines.append(LEGEND)
    if folder is not None:
        from zoo.pages.page import write_report
        from zoo.studies.analyze.figures import analysis_figures
        from zoo.studies.analyze.page import analysis_page

        with new_folder(folder, "--out", is_ours(folder, "analysis"), force=True) as part:
            write_report(part, "analysis", found, analysis_figures(found), analysis_page)
        lines.append(f"written to  {folder}\nlook        {folder / 'analysis.html'}")
    return "\n\n".join(lines)


def describe(run: dict[str, Any]) -> str:
    """Ranks, two measures by transform and kind of layer, and verdicts, within 80 columns."""
    average, kinds = run["averages"]["run"]["all"], run["averages"]["kind"]
    prefix = os.path.commonprefix(list(kinds)).rpartition(".")[0] if len(kinds) > 1 else ""
    several = kinds.items() if len(kinds) > 1 else ()
    sets = {"all": average, **{short(name.removeprefix(f"{prefix}.")): a for name, a in several}}
    lines = [
        f"{run['name']}: {run['what']} ({run['group']})",
        *(f"note: {note}" for note in run["notes"]),
        "",
    ]
    rows: list[tuple[str, ...]] = [("", "matrices", "stable rank", "effective", "numerical")]
    for name, a in sets.items():
        ranks = (
            f"{a['stable_rank']:.2f}",
            f"{a['effective_rank']:.2f}",
            f"{a['numerical_rank']:.1f}",
        )
        rows.append((name, str(a["matrices"]), *ranks))
    lines += [*columns(rows, 1), ""]
    rows = [("", "k90", "null", "z", "p", "low 25 %", "null", "z", "p")]
    for transform in average["spectra"]:
        for name, a in sets.items():
            k90, low = (
                beside_null(a["spectra"][transform][measure]) for measure in ("k90", "low_25")
            )
            rows.append((transform if name == "all" else f"  {name}", *k90, *low))
    lines += columns(rows, 1)
    rows = [("", "correlation of", "Pearson", "null", "Spearman", "null")]
    for transform, pairs in run["correlation"].items():
        for i, (pair, found) in enumerate(pairs.items()):
            pearson, spearman = found["pearson"], found["spearman"]
            others = (
                decimals(each) for each in (pearson["null"], spearman["value"], spearman["null"])
            )
            rows.append((transform if i == 0 else "", PAIRS[pair], interval(pearson), *others))
    return "\n".join([*lines, "", *columns(rows, 2)]) + "\n\n" + "\n\n".join(verdicts(run))


def interval(found: dict[str, Any]) -> str:
    """A correlation and its bootstrap interval."""
    bounds = (
        "" if found["low"] is None else f" [{decimals(found['low'])}, {decimals(found['high'])}]"
    )
    return decimals(found["value"]) + bounds


def decimals(value: float | None) -> str:
    """A number as it stands in the table; a dash if there is none."""
    return "-" if value is None else f"{value:.2f}"


def verdicts(found: dict[str, Any]) -> list[str]:
    """A paragraph for each transform, of a run or a group of runs."""
    paragraphs = [
        f"{transform}: {verdict['words']}" for transform, verdict in found["verdicts"].items()
    ]
    kept = [
        re.sub(r" (%|[=<] )", lambda sign: sign[0].replace(" ", "\xa0"), text)
        for text in paragraphs
    ]
    return [textwrap.fill(text, 80).replace("\xa0", " ") for text in kept]


def beside_null(found: dict[str, Any]) -> tuple[str, str, str, str]:
    """Value, null, z and p as they stand in the table."""
    z, p = found["z"], found["p"]
    return (
        f"{found['value']:.3f}",
        f"{found['null']:.3f}",
        "" if z is None else f"{z:+.1f}",
        "<.0001" if p < 1e-4 else f"{p:.4f}".removeprefix("0"),
    )


def short(name: str) -> str:
    """The end of a name that is too long for the table."""
    return name if len(name) <= 18 else f"..{name[-16:]}"
