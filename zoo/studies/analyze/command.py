"""`zoo analyze`: what is in the updates of runs, beside the rotation null.

Updates are those of runs, of peft adapters or of pairs of checkpoints.
"""

import re
import textwrap
import time
from typing import Annotated, Any

from zoo.cli.arguments import call
from zoo.errors import UserError
from zoo.files.trust import NOBODY, Trust
from zoo.pages.texts import lines as printable_lines
from zoo.studies.folder import check_out, facts, is_ours
from zoo.studies.options import need_extra, words
from zoo.studies.progress import Bar

LEGEND = """k90: share of the coefficients, largest first, that holds 90 % of the energy.
low 25 %: share of the energy in the lowest quarter of the frequencies.
null: the same singular values in random directions; z, p: the distance to it."""


def main(argv: list[str]) -> int:
    """Print the analysis, and write it if asked to."""
    print(printable_lines(call(analyze, argv, argv=argv[1:])))
    return 0


def analyze(
    runs: Annotated[list[str], "RUN_OR_ADAPTER"],
    *,
    before: Annotated[str | None, "CHECKPOINT"] = None,
    layers: Annotated[str | None, "GLOBS"] = None,
    null: Annotated[int, "N"] = 20,
    transform: Annotated[str, "NAMES"] = "dct",
    backbone: Annotated[str | None, "FOLDER"] = None,
    force: bool = False,
    trust: Trust = NOBODY,
    out: Annotated[str | None, "DIR"] = None,
    argv: list[str],
) -> str:
    """Analyse updates, and write a report if asked to; returns what is to be printed.

    Args:
        runs: a run's folder, a checkpoint, an adapter.safetensors or a peft adapter; with --before
            any checkpoint.
        before: what it was before training: dW is the difference.
        layers: as in query,value; by default all that have an update.
        null: draws of each null; by default 20.
        transform: some of dct,fourier,hadamard,haar,random; by default dct.
        backbone: where the pretrained network is now, if moved.
        force: replace an earlier report in --out.
        trust: which classes besides zoo's own the runs may name.
        out: a new folder for analysis.json, analysis.html and figures.
        argv: the words of the command line after `zoo analyze`.

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
    from zoo.bases import TRANSFORMS
    from zoo.files.access import new_folder
    from zoo.studies.analyze import analysis
    from zoo.studies.sources import read_all

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
        report = analysis.analyze(sources, transforms, null, done=done)
    finally:
        bar.close()
    report = {**facts("analyze", argv, start), **report}
    lines = [describe(run) for run in report["runs"]]
    lines += [
        "\n\n".join([f"{group['group']}: {len(group['runs'])} runs together", *verdicts(group)])
        for group in report["groups"]
        if len(group["runs"]) > 1
    ]
    lines.append(LEGEND)
    if folder is not None:
        from zoo.pages.page import write_report
        from zoo.studies.analyze.figures import analysis_figures
        from zoo.studies.analyze.page import analysis_page

        with new_folder(folder, "--out", is_ours(folder, "analysis"), force=True) as part:
            write_report(part, "analysis", report, analysis_figures(report), analysis_page)
        lines.append(f"written to  {folder}\nlook        {folder / 'analysis.html'}")
    return "\n\n".join(lines)


def describe(run: dict[str, Any]) -> str:
    """Return ranks, two measures by transform and kind of layer, and verdicts, in 80 columns."""
    from zoo.pages.terminal import table
    from zoo.studies.analyze.tables import terminal_tables

    head = [f"{run['name']}: {run['what']} ({run['group']})"]
    head += [f"note: {note}" for note in run["notes"]]
    tables = ("\n".join(table(each)) for each in terminal_tables(run))
    return "\n\n".join(["\n".join(head), *tables, *verdicts(run)])


def verdicts(report: dict[str, Any]) -> list[str]:
    """Return a paragraph for each transform, of a run or a group of runs."""
    paragraphs = [
        f"{transform}: {verdict['words']}" for transform, verdict in report["verdicts"].items()
    ]
    kept = [
        re.sub(r" (%|[=<] )", lambda sign: sign[0].replace(" ", "\xa0"), text)
        for text in paragraphs
    ]
    return [textwrap.fill(text, 80).replace("\xa0", " ") for text in kept]
