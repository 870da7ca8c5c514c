"""`zoo.mask`: how far updates of runs, or of a network in memory, can be cut down, for Python."""

import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike

from zoo.errors import as_arguments
from zoo.files.trust import Trust
from zoo.studies.mask.evaluating import Better, Score, masked
from zoo.studies.mask.result import Masked
from zoo.studies.options import listed
from zoo.studies.sources import Subjects, call_in_words

BUDGETS = (1, 2, 5, 10, 25, 50, 75, 100)
ORDERS = ("magnitude", "frequency", "random")


def mask(
    model: Subjects,
    score: Score | None = None,
    *,
    better: Better | None = None,
    metric: str = "score",
    budgets: float | str | Sequence[float] = BUDGETS,
    order: str | Sequence[str] = ORDERS,
    draws: int = 3,
    transform: str | Sequence[str] = "dct",
    backbone: str | PathLike[str] | None = None,
    data: Mapping[str, object] | None = None,
    trust: str | Sequence[str] = (),
    out: str | PathLike[str] | None = None,
    save: bool = False,
    force: bool = False,
) -> Masked:
    """Keep a share of an update's coefficients, and say what is left: score, energy and bytes.

    It is what `zoo mask` does. Runs are scored by their own task on its validation data; a network
    in memory by `score`, or without one by the share of the update's energy that is kept.

        >>> import torch, zoo
        >>> net = zoo.adapt(torch.nn.Sequential(torch.nn.Linear(8, 8)), zoo.DCT, ratio=0.5)
        >>> with torch.no_grad():  # in place of training
        ...     for p in net.parameters():
        ...         if p.requires_grad:
        ...             _ = p.normal_()
        >>> x = torch.randn(32, 8)
        >>> y = net(x).detach()
        >>> def loss(net):
        ...     return torch.nn.functional.mse_loss(net(x), y)
        >>> left = zoo.mask(net, loss, better="lower", budgets=[10, 50], order="magnitude")
        >>> left.masks[["budget", "kept"]].values.tolist()
        [[10.0, 6.0], [50.0, 32.0]]
        >>> bool(left.masks.value[0] > left.masks.value[1])
        True

    Args:
        model: a network with layers that zoo parameterized, or a path as the command takes it: a
            run's folder, a checkpoint, an adapter. A list of several; or a mapping from what each
            is called, where a list under one name is one group, as of seeds.
        score: takes the network, in eval mode and without gradients, and returns a number. The
            network is the one that was given, with other weights for the time of the call, so that
            the function may as well use what holds it, as a Trainer. It is then what it was.
        better: which scores are, `higher` or `lower`; goes with `score`.
        metric: what the score is called.
        budgets: shares that are kept, in percent in (0, 100].
        order: which are kept: the largest (`magnitude`), those of the lowest frequencies
            (`frequency`), some at random (`random`).
        draws: of random masks.
        transform: some of dct, fourier, hadamard, haar, random and hartley.
        backbone: where a run's pretrained network is now, if it was moved.
        data: settings of a run's data, if that was moved: `{"data_dir": "glue"}`.
        trust: modules or classes of your own that runs may name.
        out: a new folder for mask.json, mask.html and figures; of runs the same one again goes on
            after an interruption.
        save: write each masked run to `out` too, as a file that is taken like a run.
        force: replace an earlier report in `out`.

    Returns:
        The tables as data frames, and figures; a notebook shows it as the command's page.

    Raises:
        UserError: for an argument out of range, a network without layers of zoo's, a path that is
            nothing, an update that is 0 or not finite, a score that is no finite number, or a
            folder that holds something.
    """
    given = {key: value for key, value in locals().items() if key != "model"}
    with as_arguments(), _undisturbed():
        return masked(
            model,
            score=score,
            better=better,
            metric=metric,
            budgets=budgets,
            order=order,
            draws=draws,
            transform=transform,
            backbone=backbone,
            data=[f"--data.{key}={value}" for key, value in (data or {}).items()],
            trust=Trust(tuple(listed(trust)) if trust else ()),
            out=out,
            save=save,
            force=force,
            command=call_in_words(mask, model, given),
        )


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Have Python warn as before, after what silences a task's own evaluation."""
    of_threads = threading.excepthook
    try:
        with warnings.catch_warnings():
            yield
    finally:
        threading.excepthook = of_threads
