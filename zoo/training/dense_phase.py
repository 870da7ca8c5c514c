"""The first steps of a run from scratch, in which its layers train dense weights.

    y = x W0^T + b                 steps 0 to k - 1, W0 trained
    y = x (W0 + s W)^T + b, W = 0  from step k on, W0 frozen (base `warm`; ReLoRA, arXiv 2307.05695)
    y = x W^T + b, W ~ W0          from step k on, no base (Pufferfish, arXiv 2103.03936)

What waits has no moments in the optimizer, no gradient, and no place in a checkpoint. A phase ends
as the first batch after step k begins, so that what was saved or validated at step k is dense.
"""

import gc
from typing import TYPE_CHECKING, Any, get_args

from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from zoo.errors import UserError
from zoo.layers.anew import end_dense_phases
from zoo.layers.convert import Base, zoo_layers

if TYPE_CHECKING:
    from zoo.training.module import ZooModule


def check(base: Base | None, dense_steps: int) -> None:
    """Refuse settings that are out of range or exclude each other.

    Raises:
        UserError: saying what would work.
    """
    words = get_args(Base)
    if base is not None and base not in words:
        raise UserError(f"base must be {' or '.join(words)}, or null, got {base!r}")
    if type(dense_steps) is not int or dense_steps < 0:
        raise UserError(f"dense_steps must be a whole number of at least 0, got {dense_steps!r}")
    if base == "warm" and not dense_steps:
        raise UserError(
            "base warm is trained densely before it is frozen: give --model.dense_steps, or "
            "--model.base random"
        )
    if base == "random" and dense_steps:
        raise UserError(
            f"base random is frozen from the first step on, got dense_steps {dense_steps}: give "
            "--model.base warm, or drop --model.dense_steps"
        )


def is_dense(module: "ZooModule") -> bool:
    """Say whether a task is in its dense phase."""
    if not module.dense_steps:
        return False
    return any(layer.dense_phase is not None for layer in zoo_layers(module.net).values())


def check_run(module: "ZooModule") -> None:
    """Refuse a run that would end in its dense phase, or a strategy that cannot end it.

    Raises:
        UserError: saying what would work.
    """
    if not is_dense(module):
        return
    steps = module.trainer.estimated_stepping_batches
    if module.dense_steps >= steps:
        raise UserError(
            f"--model.dense_steps must be less than the {steps:,.0f} steps of the run, the others "
            f"train the parameterization, got {module.dense_steps:,}"
        )
    strategy = module.trainer.strategy
    if not isinstance(strategy, SingleDeviceStrategy | DDPStrategy):
        raise UserError(
            f"dense_steps cannot change what is trained under {type(strategy).__name__}: train on "
            "one device or with --trainer.strategy ddp"
        )


def end_in_time(module: "ZooModule") -> None:
    """End the dense phase as the first batch after its last step begins."""
    if module.trainer.global_step < module.dense_steps or not is_dense(module):
        return
    module.projected = end_dense_phases(zoo_layers(module.net), module.seed)
    module.regroup()
    strategy: Any = module.trainer.strategy
    if isinstance(strategy, DDPStrategy):  # its hooks are on what was trained as it was made
        strategy.model = module
        gc.collect()  # what is left of it would still reduce gradients
        strategy.configure_ddp()
