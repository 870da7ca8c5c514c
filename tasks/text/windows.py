"""Windows of a text: drawn by step for training; in validation every id counts once."""

import torch
from torch import Tensor

from zoo.bases.seeds import generator
from zoo.training.data import StepLoader

IGNORE = -100
"""Target of a position that is not scored."""


class WindowLoader(StepLoader):
    """A loader of `steps` batches of windows an epoch, each a function of the seed and its number.

    Yields (inputs, targets), int64 of shape (batch_size, block_size) each; of a step's `batch_size
    * world` windows, rank r takes every world-th from the r-th.
    """

    def __init__(
        self,
        ids: Tensor,
        steps: int,
        batch_size: int,
        block_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        super().__init__(steps)
        self.ids, self.seed = ids, seed
        self.batch_size, self.block_size = batch_size, block_size
        self.rank, self.world = rank, world

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Draw batch number `step`."""
        last = len(self.ids) - self.block_size  # a window of block_size + 1 starts before it
        starts = torch.randint(
            last, (self.batch_size * self.world,), generator=generator(self.seed, "batch", step)
        )
        starts = starts[self.rank :: self.world, None]
        windows = self.ids[starts + torch.arange(self.block_size + 1)].long()  # (batch, block + 1)
        return windows[:, :-1], windows[:, 1:]


def scored_once(
    context: Tensor, ids: Tensor, characters: Tensor, block_size: int, rank: int = 0, world: int = 1
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Cut windows whose targets are every id exactly once.

    Each is (inputs, targets, characters), of (block_size,) each.

    The last id of `context` starts the first window. Positions past the end have target `IGNORE`
    and no characters; windows of nothing else fill up, so that every rank, which takes every
    world-th window, has as many.

    Args:
        context: ids before; at least one.
        ids: to be scored; (ids,).
        characters: that each of them stands for; (ids,).
        block_size: ids per window.
        rank: whose windows.
        world: number of ranks.
    """
    pad = -len(ids) % (block_size * world)
    inputs = torch.cat([context[-1:], ids[:-1], ids.new_zeros(pad)]).long().view(-1, block_size)
    targets = torch.cat([ids.long(), torch.full((pad,), IGNORE)]).view(-1, block_size)
    characters = torch.cat([characters, characters.new_zeros(pad)]).view(-1, block_size)
    return list(zip(inputs, targets, characters, strict=True))[rank::world]


def numbered(
    windows: list[tuple[Tensor, Tensor, Tensor]], rank: int = 0, world: int = 1
) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Add to each window of `scored_once` the places of its targets among all that are scored.

    Places are (block_size,).
    """
    return [
        (*window, torch.arange(len(window[0])) + (rank + i * world) * len(window[0]))
        for i, window in enumerate(windows)
    ]
