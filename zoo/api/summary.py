"""What of a network is trained, layer by layer and in all."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import fill
from typing import Any

from torch import nn

from zoo.api.arguments import check_network, finite, numbers_by_name
from zoo.api.record import find_record
from zoo.api.targets import find_tensors
from zoo.errors import UserError
from zoo.layers.adapters import classes_in_use, in_use
from zoo.layers.convert import counts, zoo_layers
from zoo.layers.names import kind
from zoo.training.optimizers import parameter_groups


@dataclass(frozen=True, repr=False)
class Summary:
    """What of a network is parameterized, and how much of it is trained.

    Args:
        layers: for each parameterized layer a mapping with its layer, shape, parameterization,
            weights, and coefficients (of the adapters in use, trained or not).
        trainable: how many numbers are trained, coefficients and all else.
        coefficients: how many there are of the adapters in use, trained or not.
        total: how many weights the dense network has.
        besides: names of the parameters that are trained as they are.
        adapters: weights of the adapters in use, by name.
    """

    layers: list[dict[str, Any]]
    trainable: int
    coefficients: int
    total: int
    besides: list[str]
    adapters: Mapping[str, float]

    def line(self) -> str:
        """Return the counts as one sentence."""
        share = self.trainable / self.total if self.total else 0.0
        ends = dict.fromkeys(kind(name.rpartition(".")[0] or name) for name in self.besides)
        also = f", with {', '.join(ends)}" if ends else ""
        return (
            f"{len(self.layers)} layers, {self.coefficients:,} coefficients; "
            f"{self.trainable:,} of {self.total:,} weights are trained ({share:.2%}){also}"
        )

    def __repr__(self) -> str:
        """Return a table of the layers, those alike in one row, and the counts."""
        from zoo.pages.terminal import WIDTH, aligned

        rows: dict[tuple[str, ...], list[int]] = {}
        for layer in self.layers:
            shape = " x ".join(map(str, layer["shape"]))
            key = kind(layer["layer"]), shape, layer["parameterization"] or "none in use"
            counted = rows.setdefault(key, [0, 0])
            counted[0] += 1
            counted[1] += layer["coefficients"]
        header = ["layer", "shape", "parameterization", "layers", "coefficients"]
        cells = [[*key, str(n), f"{count:,}"] for key, (n, count) in rows.items()]
        return "\n".join([*aligned([header, *cells], left=3), "", fill(self.line(), WIDTH)])


def summary(model: nn.Module) -> Summary:
    """Count what of a network is parameterized and what is trained.

        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 2))
        >>> print(zoo.summary(zoo.adapt(net, zoo.DCT, ratio=0.25)))
        layer  shape  parameterization  layers  coefficients
        0      8 x 8  DCT                    1            16
        1      2 x 8  DCT                    1             4
        <BLANKLINE>
        2 layers, 20 coefficients; 20 of 90 weights are trained (22.22%)

    Args:
        model: a network that `zoo.adapt` or `zoo.parameterize` has changed, or any other.
    """
    record = find_record(model)
    found, layers = counts(model), zoo_layers(model)
    inside = tuple(f"{name}.parameterization." for name in layers)
    besides = [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and not name.startswith(inside)
    ]
    rows: list[dict[str, Any]] = [
        {
            "layer": name,
            "shape": list(layer.parameterization.shape),
            "parameterization": classes_in_use(layer.parameterization),
            "weights": math.prod(layer.parameterization.shape),
            "coefficients": sum(
                p.numel() for each in in_use(layer.parameterization) for p in each.parameters()
            ),
        }
        for name, layer in layers.items()
    ]
    once = {
        id(layer.parameterization): row["coefficients"]  # tied layers share them
        for layer, row in zip(layers.values(), rows, strict=True)
    }
    return Summary(
        layers=rows,
        trainable=found["trainable"],
        coefficients=sum(once.values()),
        total=found["total"],
        besides=besides if record is None or record.start == "update" else [],
        adapters={} if record is None else dict(record.weights),
    )


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained, by name.

    >>> list(zoo.trainable(zoo.adapt(torch.nn.Linear(8, 8), zoo.LoRA, rank=2)))
    ['parameterization.lora_A', 'parameterization.lora_B']
    """
    check_network(model)
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def param_groups(
    model: nn.Module, lr: float, weight_decay: float = 0.0, rates: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Group what is trained for an optimizer, each group with its learning rate and decay.

    A coefficient's rate is `lr` times the `lr_mult` of its map, so that one `lr` moves W about as
    far in every parameterization; biases, norms and embeddings do not decay.

        >>> net = zoo.adapt(torch.nn.Linear(8, 8), zoo.DCT, ratio=0.25)
        >>> optimizer = torch.optim.AdamW(zoo.param_groups(net, lr=1e-3, weight_decay=0.1))

    Args:
        model: the network.
        lr: the rate of a dense weight.
        weight_decay: lambda of AdamW's W <- W (1 - lr lambda).
        rates: other rates of what globs of module or parameter names match, such as
            `{"classifier": 1e-3}`.

    Raises:
        UserError: if nothing is trained, or a glob matches nothing.
    """
    if not trainable(model):
        raise UserError(
            "nothing of this network is trained: load the adapter with trainable=True, or name one "
            "with zoo.use"
        )
    lr, weight_decay = finite("lr", lr), finite("weight_decay", weight_decay)
    own: dict[nn.Parameter, float] = {}
    parameters = dict(model.named_parameters())
    for pattern, rate in numbers_by_name("rates", rates or {}).items():
        found = find_tensors(model, pattern, "rates", coefficients=True)
        names = [name for name in found if name in parameters]
        own |= {parameters[name]: rate for name in names}
    groups = parameter_groups(model, lr, weight_decay, own)
    return [{key: value for key, value in group.items() if key != "muon"} for group in groups]
