"""What a layer costs beside a dense one, or peft's: time and bytes, in turn, on the same inputs."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo.layers.convert import convert
from zoo.layers.costs import checkpoint_bytes, layer_cost
from zoo.parameterizations import WeightParameterization
from zoo.studies.bench import timing
from zoo.studies.bench.floor import Case, Rates, floor
from zoo.studies.bench.rivals import peft_layer, rival
from zoo.studies.bench.timing import Call, alternate, quartiles, ratio

PRECISIONS = ("float32", "bfloat16")
"""The second is autocast: parameters and inputs in float32, products in bfloat16."""
PASSES = {"forward": 0.25, "forward_backward": 0.4, "step": 0.1, "evaluation": 0.25}
"""What is timed, each with its share of the seconds.

A forward pass that keeps what its backward pass needs; both; an AdamW step of the layer's
parameters; and a forward pass in evaluation mode without gradients.
"""
ROUNDS = 3
"""At least, however long they take. What takes long varies little."""
SMALL_LR = 1e-6
"""Of the optimizer: thousands of steps along one gradient stay small."""


class Spec(NamedTuple):
    """A parameterization with its arguments."""

    cls: type[WeightParameterization]
    arguments: dict[str, Any]

    @property
    def label(self) -> str:
        """Class and arguments, a ratio as it is: `DCT 0.5`, `LoRA rank=8`."""
        words = (str(v) if key == "ratio" else f"{key}={v}" for key, v in self.arguments.items())
        return " ".join([self.cls.__name__, *words])


class Contender(NamedTuple):
    """A layer that is measured, and its optimizer."""

    name: str
    library: str
    """`torch` for the dense layer, `zoo` or `peft`."""
    spec: Spec | None
    layer: nn.Module
    optimizer: torch.optim.Optimizer
    rival: str | None = None
    """The name of peft's layer that it is compared with, if there is one."""

    @property
    def trainable(self) -> int:
        """Parameters that are trained."""
        return sum(p.numel() for p in self.layer.parameters() if p.requires_grad)


# ---- Layers --------------------------------------------------------------------------------------


def contenders(
    specs: Sequence[Spec],
    shape: tuple[int, int],
    update: bool,
    against: Sequence[str],
    device: torch.device,
    recompute: bool = False,
) -> Iterator[Contender | str]:
    """Make the layers of one shape, or a line for each parameterization that cannot have it.

    Args:
        specs: the parameterizations.
        shape: (m, n) of W.
        update: whether W is added to a frozen weight; the dense layer is then fully fine-tuned.
        against: `dense`, `peft` or both.
        device: where they are.
        recompute: build W again in backward in place of keeping it.
    """
    if "dense" in against:
        yield contender("dense", "torch", None, linear(shape, device))
    peers: dict[str, Contender | None] = {}
    for spec in specs:
        factory = partial(spec.cls, **spec.arguments)
        try:
            model = convert(
                nn.ModuleDict({"layer": linear(shape, device)}),
                factory,
                ["layer"],
                start="update" if update else "random",
                recompute=recompute,
            )
        except ValueError as error:
            yield str(error).removeprefix("layer: ")
            continue
        layer = contender(
            spec.label, "zoo", spec, frozen_bias(model.get_submodule("layer"), update)
        )
        if "peft" not in against:
            yield layer
            continue
        found = rival(layer.layer)  # type: ignore[arg-type]
        is_new = found.name not in peers
        if is_new:
            try:
                peft = peft_layer(found, shape, device)
                peers[found.name] = contender(found.name, "peft", None, peft)
            except ValueError as error:
                peers[found.name] = None
                yield f"{found.name}: {error}"
        peer = peers[found.name]
        yield layer._replace(rival=peer and peer.name)
        if peer is not None and is_new:
            yield peer


def linear(shape: tuple[int, int], device: torch.device) -> nn.Linear:
    """Make a dense layer with a bias; drawn on the CPU, so that it is the same everywhere."""
    return nn.Linear(shape[1], shape[0]).to(device)


def frozen_bias(layer: nn.Module, update: bool) -> nn.Module:
    """Return the layer, its bias frozen if W is an update, as peft's is."""
    if update:
        layer.bias.requires_grad_(False)  # type: ignore[union-attr, operator]
    return layer


def contender(name: str, library: str, spec: Spec | None, layer: nn.Module) -> Contender:
    """Put AdamW beside a layer, over what it trains."""
    trained = [p for p in layer.parameters() if p.requires_grad]
    return Contender(
        name, library, spec, layer, torch.optim.AdamW(trained, lr=SMALL_LR, fused=True)
    )


# ---- A case --------------------------------------------------------------------------------------


def passes(each: Contender, case: Case, device: torch.device) -> dict[str, Call]:
    """Make the calls that are timed, by pass; and `clear`, which drops all gradients."""
    m, n = case.shape
    generator = torch.Generator().manual_seed(0)
    lower = case.precision == "bfloat16"
    # As inside of a network.
    x = torch.randn(case.tokens, n, generator=generator).to(device).requires_grad_()
    grad = torch.randn(case.tokens, m, generator=generator).to(
        device, torch.bfloat16 if lower else torch.float32
    )
    layer, optimizer = each.layer, each.optimizer

    def forward() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=lower):
            return layer(x)

    def clear() -> None:
        x.grad = None
        optimizer.zero_grad()

    def forward_backward() -> None:
        clear()
        forward().backward(grad)

    def evaluation() -> None:
        with torch.no_grad():
            forward()

    return {
        "forward": forward,
        "forward_backward": forward_backward,
        "step": optimizer.step,
        "evaluation": evaluation,
        "clear": clear,
    }


def measure(
    layers: Sequence[Contender], case: Case, seconds: float, rates: Rates, against: Sequence[str]
) -> list[dict[str, Any]]:
    """Measure a row for each layer: times in turn, ratios, bytes and the floor.

    Args:
        layers: of the case's shape, the dense one among them if it is compared with.
        case: what they are measured on.
        seconds: of a row, about.
        rates: of the machine.
        against: `dense`, `peft` or both.
    """
    calls = {each.name: passes(each, case, rates.device) for each in layers}
    times: dict[str, dict[str, list[float]]] = {}
    for name, share in PASSES.items():
        for each in layers:
            each.layer.train(name != "evaluation")
            if name == "step":
                calls[each.name]["forward_backward"]()
        times[name] = alternate(
            {layer: call[name] for layer, call in calls.items()},
            share * seconds,
            least=ROUNDS,
            device=rates.device,
            clock=rates.clock,
        )
    rows = []
    for each in layers:
        each.layer.train()
        rivals = {"dense": "dense", "peft": each.rival} if each.library == "zoo" else {}
        rows.append(
            {
                "name": each.name,
                "library": each.library,
                "parameterization": each.spec.cls.__name__ if each.spec else None,
                "arguments": each.spec.arguments if each.spec else {},
                "shape": list(case.shape),
                "tokens": case.tokens,
                "precision": case.precision,
                "trainable": each.trainable,
                "flops": flops(each, case.tokens),
                "ms": {
                    key: {
                        **quartiles([1e3 * t for t in took[each.name]])._asdict(),
                        "rounds": len(took[each.name]),
                    }
                    for key, took in times.items()
                },
                "ratio": {
                    key: {
                        "to": other,
                        **{
                            p: ratio(took[each.name], took[other])._asdict()
                            for p, took in times.items()
                        },
                    }
                    for key, other in rivals.items()
                    if key in against and other
                },
                "bytes": bytes_of(each, calls[each.name], rates.device),
                "floor": floor(each.layer, case, rates),
            }
        )
    return rows


def flops(each: Contender, tokens: int) -> dict[str, float] | None:
    """Return FLOPs a token, forward and in training, with those that build W; None for peft's."""
    if each.library == "peft":
        return None
    cost = layer_cost(each.layer, tokens)
    return {"forward": 2 * cost.forward / tokens, "training": 2 * cost.training / tokens}


def bytes_of(each: Contender, calls: Mapping[str, Call], device: torch.device) -> dict[str, Any]:
    """Count bytes held between steps, kept for backward, at a step's peak, and of a checkpoint.

    The peak is beyond parameters, moments and buffers, so that the gradients are in it: a step
    begins without.
    """

    def step() -> None:
        calls["forward_backward"]()
        calls["step"]()

    step()  # or gradients and moments would be new
    held = timing.held_bytes(each.layer, each.optimizer)
    calls["clear"]()
    return {
        "peak": timing.peak_memory(step, device),
        "kept": timing.kept_for_backward(calls["forward"], each.layer),
        "held": {**held._asdict(), "total": held.total},
        "checkpoint": checkpoint_bytes(each.layer),
    }
