"""Whether what a weight is built from is what it was: a check of a fraction of a microsecond."""

from typing import Any

from torch import Tensor, nn

from zoo.parameterizations import WeightParameterization


class Watch:
    """The parameters of a module and the revisions of its maps, to be asked later whether they are unchanged.

    A parameter counts as changed where autograd's version counter says so, where it lies elsewhere
    in memory, or where it is another one.

    Args:
        module: with all that is in it, but for
        skip: parameters of its own that do not matter, by name.

    Raises:
        ValueError: if a parameter has no version (one made in inference mode), or is not plainly
            the module's own: of a subclass, as sharded ones are, or put there by
            `torch.func.functional_call`.
    """

    def __init__(self, module: nn.Module, skip: tuple[str, ...] = ()) -> None:
        self._watched: list[tuple[dict[str, Any], str, nn.Parameter, int, int]] = []
        self._aliases: list[
            Tensor
        ] = []  # hold the memory, so that no other tensor can come to lie at an address
        self._revisions: list[tuple[WeightParameterization, int]] = []
        for part in module.modules():
            if isinstance(part, WeightParameterization):
                self._revisions.append((part, part.revision))
            for name, p in part._parameters.items():
                if p is None or (part is module and name in skip):
                    continue
                if type(p) is not nn.Parameter or p.is_inference():
                    raise ValueError(f"{name} cannot be watched")
                self._watched.append((part._parameters, name, p, p._version, p.data_ptr()))
                self._aliases.append(p.detach())

    def unchanged(self) -> bool:
        """Whether all are what they were."""
        try:
            for slots, name, p, version, address in self._watched:
                if slots[name] is not p or p._version != version or p.data_ptr() != address:
                    return False
            for part, revision in self._revisions:
                if part.revision != revision:
                    return False
        except KeyError:  # it goes by another name now
            return False
        return True
