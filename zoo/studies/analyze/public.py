"""`zoo.analyze`: what is in the updates of runs, or of a network in memory, for Python."""

import time
from collections.abc import Sequence
from os import PathLike

from zoo.errors import UserError, as_arguments, option
from zoo.files.trust import Trust
from zoo.studies.analyze.result import Analysis
from zoo.studies.folder import check_out, facts
from zoo.studies.options import listed, need_extra, words
from zoo.studies.progress import Bar
from zoo.studies.sources import Subject, Subjects, call_in_words, entries, read_all

LEAST = 5
"""Draws of a null that give a standard deviation."""


def analyze(
    model: Subjects,
    *,
    before: Subject | None = None,
    layers: str | Sequence[str] | None = None,
    null: int = 20,
    transform: str | Sequence[str] = "dct",
    backbone: str | PathLike[str] | None = None,
    trust: str | Sequence[str] = (),
    out: str | PathLike[str] | None = None,
    force: bool = False,
) -> Analysis:
    """Analyse what training changed: ranks, spectra and verdicts, beside the rotation null.

    It is what `zoo analyze` does, for paths and for networks in memory, which stay as they are.

        >>> import torch, zoo
        >>> net = torch.nn.Sequential(torch.nn.Linear(16, 12), torch.nn.Linear(12, 8))
        >>> net = zoo.adapt(net, zoo.DCT, ratio=0.5, targets="all")
        >>> with torch.no_grad():  # in place of training
        ...     for p in net.parameters():
        ...         if p.requires_grad:
        ...             _ = p.normal_()
        >>> found = zoo.analyze(net, null=5)
        >>> found.matrices[["layer", "rows", "columns"]].values.tolist()
        [['0', 12, 16], ['1', 8, 12]]

    Args:
        model: a network with layers that zoo parameterized, or with `before` any network; or a path
            as the command takes it: a run's folder, a checkpoint, an adapter. A list of several; or
            a mapping from what each is called, where a list under one name is one group, as of
            seeds.
        before: what a single one was before training, a network or a path: dW is the difference.
        layers: globs of layer names, as in `["query", "value"]`; by default all with an update.
        null: draws of each null, at least 5.
        transform: some of dct, fourier, hadamard, haar, random and hartley.
        backbone: where a run's pretrained network is now, if it was moved.
        trust: modules or classes of your own that runs may name.
        out: a new folder for analysis.json, analysis.html and figures.
        force: replace an earlier report in `out`.

    Returns:
        The tables as data frames, and figures; a notebook shows it as the command's page.

    Raises:
        UserError: for an argument out of range, a network without layers of zoo's, a path that is
            nothing, an update that is 0 or not finite, or a folder that holds something.
    """
    given = {key: value for key, value in locals().items() if key != "model"}
    with as_arguments():
        return analysis_of(
            model,
            before=before,
            layers=layers,
            null=null,
            transform=transform,
            backbone=backbone,
            trust=Trust(tuple(listed(trust)) if trust else ()),
            out=out,
            force=force,
            command=call_in_words(analyze, model, given),
        )


def analysis_of(
    given: Subjects,
    *,
    before: Subject | None,
    layers: str | Sequence[str] | None,
    null: int,
    transform: str | Sequence[str],
    backbone: str | PathLike[str] | None,
    trust: Trust,
    out: str | PathLike[str] | None,
    force: bool,
    command: str,
) -> Analysis:
    """Do what `analyze` and the command do, whose arguments it takes.

    `trust` says which classes besides zoo's own the runs may name, and `command` how all was asked
    for, as it stands on top of the page.
    """
    start = time.perf_counter()
    if type(null) is not int or null < LEAST:
        raise UserError(
            f"{option('null')} must be at least {LEAST}, for a standard deviation, got {null!r}"
        )
    subjects = entries(given)
    if before is not None and len(subjects) > 1:
        raise UserError(f"{option('before')} goes with one checkpoint, got {len(subjects)}")
    folder = check_out(out, Analysis.file, force)
    need_extra()
    from zoo.bases import TRANSFORMS
    from zoo.studies import analysis

    transforms = words(option("transform"), transform, list(TRANSFORMS))
    globs = None if layers is None else listed(layers)
    if globs is not None and not all(globs):
        raise UserError(
            f"{option('layers')} takes globs with commas between, as in query,value, got {layers!r}"
        )
    bar = Bar("draws")
    try:
        sources = read_all(
            subjects,
            before=entries(before)[0].what if before is not None else None,
            backbone=None if backbone is None else str(backbone),
            layers=globs,
            trust=trust,
        )
        done = bar.expect(null * sum(len(source.updates) for source in sources))
        found = analysis.analyze(sources, transforms, null, done=done)
    finally:
        bar.close()
    result = Analysis({**facts(command, start), **found})
    if folder is not None:
        result.write(folder)
    return result
