"""`zoo analyze`: what is in the updates of runs, beside the rotation null.

Updates are those of runs, of peft adapters or of pairs of checkpoints.
"""

from typing import Annotated

from zoo.cli.arguments import call
from zoo.files.trust import NOBODY, Trust
from zoo.pages.texts import lines
from zoo.studies.analyze.public import analysis_of
from zoo.studies.folder import written


def main(argv: list[str]) -> int:
    """Print the analysis, and write it if asked to."""
    print(call(analyze, argv, argv=argv[1:]))
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
    found = analysis_of(
        runs,
        before=before,
        layers=layers,
        null=null,
        transform=transform,
        backbone=backbone,
        trust=trust,
        out=out,
        force=force,
        command=" ".join(["zoo", "analyze", *argv]),
    )
    return f"{found}{lines(written(out, found.file))}"
