"""Buffers that are rebuilt from seeds, which DDP need not send to other processes."""

import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from zoo.parameterizations import WeightParameterization

NOT_SENT = "_ddp_params_and_buffers_to_ignore"
"""The attribute of a model that has the names of what DDP leaves alone."""


class FixedBuffers:
    """Names the buffers that are rebuilt from seeds, and so equal on every rank.

    DDP looks for names to ignore in the model that it wraps; buffers it would otherwise broadcast
    at each forward pass. The model has this object and is not held by it: a cycle would keep the
    memory of a model that is deleted until garbage is collected.

    Args:
        model: a converted model.
        more: names that are to be ignored besides.
    """

    def __init__(self, model: nn.Module, more: Iterable[str] = ()) -> None:
        self._model, self.more = weakref.ref(model), tuple(more)

    def __iter__(self) -> Iterator[str]:
        yield from self.more
        model = self._model()
        for name, module in model.named_modules() if model is not None else ():
            if isinstance(module, WeightParameterization):
                yield from (f"{name}.{buffer}".lstrip(".") for buffer, _ in module.named_buffers())

    def __deepcopy__(self, memo: dict[int, Any]) -> "FixedBuffers":
        """Name the buffers of the model's copy, which is known before what it has is copied."""
        model = self._model()
        return self if model is None else FixedBuffers(memo.get(id(model), model), self.more)

    def __reduce__(self) -> tuple[Any, ...]:
        return FixedBuffers, (self._model(), self.more)


def spare_buffers(model: nn.Module) -> None:
    """Have DDP send no buffer that is rebuilt from a seed, besides those that it sends none of."""
    before = vars(model).get(NOT_SENT, ())
    if not isinstance(before, FixedBuffers):
        vars(model)[NOT_SENT] = FixedBuffers(model, before)


def send_buffers(model: nn.Module) -> None:
    """Have DDP send all buffers again, but those that it sent none of before `spare_buffers`."""
    found = vars(model).get(NOT_SENT)
    if isinstance(found, FixedBuffers):
        del vars(model)[NOT_SENT]
        if found.more:
            vars(model)[NOT_SENT] = list(found.more)
