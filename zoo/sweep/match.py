"""Methods of unlike size on equal terms: as many tokens or training FLOPs for each.

With `match: flops` a sweep file's first method is trained for its `trainer.max_steps`, and every
other one for as many steps as take the same FLOPs, of linear layers, as `zoo.layers.costs` counts
them; with `match: tokens` for as many as see the same rows. Widths then compare at equal compute.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from zoo.errors import UserError
from zoo.sweep.plan import Method, Sweep, planned_steps

if TYPE_CHECKING:
    from zoo.cli.fit.lightning_cli import ZooCLI

STEPS = "trainer.max_steps"


def matched(plan: Sweep, built: Callable[[Method], "ZooCLI"]) -> Sweep:
    """Give every method as many steps as make it equal to the first one.

    Args:
        plan: with what is to be equal.
        built: builds the task, data and trainer of a method.

    Raises:
        UserError: if a method's steps are not said, the search decides them, or what is to be
            equal is not known of a task.
    """
    if plan.match is None:
        return plan
    wanted, methods = None, []
    for method in plan.methods:
        steps = planned_steps(method.files, method.options)
        if not steps or any(STEPS in point for point in method.points):
            raise UserError(
                f"match: {plan.match} sets {STEPS}, and {method.name} has none or searches it: "
                f"give it in options, as {STEPS}: 1000, and no other end"
            )
        taken = step_cost(built(method), plan.match)
        wanted = steps * taken if wanted is None else wanted
        options = {**method.options, STEPS: max(1, round(wanted / taken))}
        methods.append(replace(method, options=options))
    return replace(plan, methods=tuple(methods))


def step_cost(cli: "ZooCLI", match: str) -> int:
    """Return the rows of a step, or the FLOPs of linear layers that training on them takes.

    Raises:
        UserError: if a batch of the data does not say how many rows it is.
    """
    from zoo.layers.costs import as_trained, network_cost

    trainer: Any = cli.trainer
    cli.datamodule.trainer = trainer  # as a fit sets it
    cli.datamodule.setup("fit")
    batch = next(iter(cli.datamodule.train_dataloader()))
    rows = cli.model.batch_rows(batch)
    if rows < 1:
        raise UserError(
            f"match: {match} needs the rows of a batch, and {type(cli.model).__name__}.batch_rows "
            "does not know them"
        )
    batches = trainer.accumulate_grad_batches * trainer.world_size
    if match == "tokens":
        return rows * batches
    with as_trained(cli.model.net, trainer.precision):
        cost = network_cost(cli.model.net, rows)
    return 2 * cost.training * batches
