"""How far an update compresses: keep a share of its coefficients, rebuild, and evaluate.

A mask is chosen for each matrix by itself, of the same share in all. The network is evaluated with
the weights W0 + masked dW, and the reference, all coefficients, is evaluated in the same way.
Shares are of the coefficients of the transform, of which a padded Hadamard plane has more than the
matrix has entries.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from zoo.bases import transform
from zoo.bases.masks import Kept, Order, keep, restore
from zoo.bases.seeds import stream_seed
from zoo.errors import UserError
from zoo.layers.convert import zoo_layers
from zoo.runs.source import Source
from zoo.studies.journal import Evaluations
from zoo.studies.mask.masked_files import MaskedFiles
from zoo.studies.mask.masked_network import MaskedNetwork
from zoo.studies.statistics import grouped, holm, mean_sd, paired
from zoo.training.metrics import less_is_better
from zoo.training.module import ZooModule


@dataclass(frozen=True)
class Plan:
    """Which masks to try.

    Args:
        transforms: names of `zoo.bases.TRANSFORMS`.
        orders: of `zoo.bases.masks.ORDERS`.
        budgets: shares of the coefficients in percent, in (0, 100].
        draws: of random masks.
    """

    transforms: Sequence[str]
    orders: Sequence[Order]
    budgets: Sequence[float]
    draws: int

    def masks(self) -> Iterator[tuple[str, Order, float, int]]:
        """Yield (transform, order, budget, how many draws) of each mask."""
        for name in self.transforms:
            for order in self.orders:
                for budget in self.budgets:
                    yield (
                        name,
                        order,
                        budget,
                        self.draws if order == "random" and budget < 100 else 1,
                    )

    def evaluations(self) -> int:
        """Count one run's, at most: the reference, and every mask that leaves something out."""
        return 1 + sum(draws for _, _, budget, draws in self.masks() if budget < 100)


class Scored(NamedTuple):
    """What values of a network's masks are."""

    metric: str
    better: str
    """Which values are: `higher` or `lower`."""
    sizes: Mapping[str, int]
    """Bytes of the coefficients, `trained`, and of what else is trained, `other`, as stored."""
    mark: str = ""
    """What evaluations of it begin with in a journal."""
    by: Literal["task", "function", "energy"] = "task"
    """What gives them: the run's task, a function of the user's, or the energy that is kept."""


def mask_run(
    source: Source,
    model: ZooModule,
    evaluate: Callable[[], float],
    plan: Plan,
    journal: Evaluations,
    done: Callable[[], object] = lambda: None,
    files: MaskedFiles | None = None,
) -> dict[str, Any]:
    """Evaluate a run under every mask of a plan.

    Args:
        source: the run's updates.
        model: the run's task; what it holds is changed.
        evaluate: the metric of `model` as it is.
        plan: the masks.
        journal: of evaluations.
        done: called after each evaluation.
        files: writes each masked run, with the first draw of random masks.

    Returns:
        One of `runs` in mask.json.

    Raises:
        UserError: if the metric is not finite with all coefficients.
    """
    metric = source.metric or model.monitor.removeprefix("val/")
    sizes, mark = _sizes(model), f"{_fingerprint(model)} {metric}"
    model.net.float()  # a frozen backbone may be in bfloat16, which would round W0 + dW
    run = mask_network(
        source,
        model.net,
        evaluate,
        plan,
        Scored(metric, better(model), sizes, mark),
        journal,
        done,
        files,
    )
    return run | {
        "reported": {"val/score": source.score, "val/loss": source.loss}.get(model.monitor)
    }


def mask_network(
    source: Source,
    network: nn.Module,
    evaluate: Callable[[], float],
    plan: Plan,
    scored: Scored,
    journal: Evaluations,
    done: Callable[[], object] = lambda: None,
    files: MaskedFiles | None = None,
) -> dict[str, Any]:
    """Evaluate a network under every mask of a plan; its layers are then what they were.

    Args:
        source: its updates.
        network: with their layers.
        evaluate: the metric of `network` as it is.
        plan: the masks.
        scored: what the metric is, and what the network takes on disk.
        journal: of evaluations.
        done: called after each evaluation.
        files: writes each masked run, with the first draw of random masks.

    Returns:
        One of `runs` in mask.json.

    Raises:
        UserError: if the metric is not finite with all coefficients.
    """
    updates = {name: update.matrix() for name, update in source.updates.items()}
    with MaskedNetwork(network, source) as masked:
        masked.set_(updates)
        unmasked = evaluate()
        if not math.isfinite(unmasked):
            raise UserError(
                f"{source.path!r}: the {scored.metric} of the run is {unmasked}: use a checkpoint "
                "from before that"
            )
        journal.reference(scored.mark, unmasked)
        done()

        def measure(kept: Mapping[str, Kept]) -> float:
            masked.set_({layer: restore(each) for layer, each in kept.items()})
            return evaluate()

        def value(key: str, kept: Mapping[str, Kept]) -> float:
            found = journal(f"{scored.mark} {key}", partial(measure, kept))
            done()
            return found

        points = _points(source, updates, plan, value, unmasked, files)
    dense = sum(4 * update.numel() for update in updates.values())
    return _described(source, scored.metric, scored.better, unmasked, points) | {
        "scored_by": scored.by,
        "reported": None,
        "bytes": {"dense": dense, **scored.sizes},
    }


def mask_updates(source: Source, plan: Plan, trained: int, other: int) -> dict[str, Any]:
    """Mask updates that no network is at hand for, as an adapter's without its backbone.

    In place of a score stands the energy, the share of |dW|^2 of all layers that a mask keeps; it
    is 1 with all coefficients.

    Args:
        source: the updates.
        plan: the masks.
        trained: bytes of the updates as they are stored.
        other: bytes of what else is stored.

    Returns:
        One of `runs` in mask.json.
    """
    updates = {name: update.matrix() for name, update in source.updates.items()}
    whole = sum(float(update.square().sum()) for update in updates.values())

    def energy(key: str, masked: Mapping[str, Kept]) -> float:
        return sum(float(each.values.square().sum()) for each in masked.values()) / whole

    points = _points(source, updates, plan, energy, 1.0, None)
    dense = sum(4 * update.numel() for update in updates.values())
    return _described(source, "energy", "higher", 1.0, points) | {
        "scored_by": "energy",
        "reported": None,
        "bytes": {"dense": dense, "trained": trained, "other": other},
    }


def _described(
    source: Source, metric: str, better: str, unmasked: float, points: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        **source.about(),
        "what": source.what,
        "notes": list(source.notes),
        "metric": metric,
        "better": better,
        "unmasked": unmasked,
        "points": points,
    }


def _points(
    source: Source,
    updates: Mapping[str, Tensor],
    plan: Plan,
    scored: Callable[[str, Mapping[str, Kept]], float],
    unmasked: float,
    files: MaskedFiles | None,
) -> list[dict[str, Any]]:
    """Return what every mask of a plan leaves of some updates, and its score.

    Args:
        source: the updates.
        updates: their matrices, by layer.
        plan: the masks.
        scored: gives the value of a mask, which goes by a name.
        unmasked: the value of all coefficients.
        files: writes each masked run, with the first draw of random masks.
    """
    energy = sum(float(update.square().sum()) for update in updates.values())
    points = []
    planes: dict[str, Tensor] = {}
    transformed = None
    for name, order, budget, draws in plan.masks():
        if name != transformed:
            t, transformed = transform(name), name
            planes = {layer: t.forward(update) for layer, update in updates.items()}
        values = []
        for draw in range(draws):
            kept = {
                layer: keep(
                    plane,
                    source.updates[layer].shape,
                    name,
                    order,
                    budget / 100,
                    stream_seed(draw, layer),
                )
                for layer, plane in planes.items()
            }
            if draw == 0:
                first = kept
            if budget == 100:
                values.append(unmasked)
            else:
                values.append(scored(f"{name} {order} {budget!r} {draw}", kept))
        point = {
            "transform": name,
            "order": order,
            "budget": budget,
            "kept": sum(len(k.values) for k in first.values()),
            "energy": sum(float(k.values.square().sum()) for k in first.values()) / energy,
            "value": sum(values) / draws,
            "values": values,
            "bytes": {
                "values": sum(4 * len(k.values) for k in first.values()),
                "places": sum(len(k.places.data) for k in first.values()),
                "encoding": "+".join(sorted({k.places.encoding for k in first.values()})),
                "file": files.write(f"{name}-{order}-{budget:g}", first) if files else None,
            },
        }
        points.append(point)
    return points


def better(model: ZooModule) -> str:
    """Return which values of the metric are better, `higher` or `lower`."""
    return (
        "lower" if less_is_better(model.monitor, getattr(model, "monitor_mode", None)) else "higher"
    )


def _sizes(model: ZooModule) -> dict[str, int]:
    """Count bytes of the coefficients, and of what else is trained, as they are stored."""
    sizes = {name: t.numel() * t.element_size() for name, t in model.trained_state().items()}
    coefficients = sum(size for name, size in sizes.items() if ".parameterization." in name)
    return {"trained": coefficients, "other": sum(sizes.values()) - coefficients}


def stored_sizes(network: nn.Module) -> dict[str, int]:
    """Count the same of a network in memory: of its maps, and of what else is to be trained."""
    maps = {layer.parameterization for layer in zoo_layers(network).values()}
    coefficients = {p for space in maps for p in space.parameters()}
    others = {p for p in network.parameters() if p.requires_grad} - coefficients
    return {
        name: sum(p.numel() * p.element_size() for p in some)
        for name, some in (("trained", coefficients), ("other", others))
    }


def _fingerprint(model: ZooModule) -> str:
    """Hash all that the network holds, the backbone included."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.net.state_dict().items()):
        digest.update(
            name.encode()
            + tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()[:16]


# ---- Groups --------------------------------------------------------------------------------------


def groups(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Average runs that differ only in their seed, and test each mask against the unmasked model.

    The tests are Student's, paired. The p-values of a group are corrected (Holm) for the number of
    its masks.
    """
    averaged = []
    for same in grouped(runs, "group").values():
        unmasked = [run["unmasked"] for run in same]
        points = []
        for i, point in enumerate(same[0]["points"]):
            values = [run["points"][i]["value"] for run in same]
            test = paired(values, unmasked)
            keys = {key: point[key] for key in ("transform", "order", "budget")}
            points.append({**keys, **mean_sd(values), **test._asdict(), "p_holm": None})
        tested = [point for point in points if point["p"] is not None]
        for point, p in zip(tested, holm([point["p"] for point in tested]), strict=True):
            point["p_holm"] = p
        fields = ("group", "task", "model", "parameterization", "metric", "better")
        averaged.append(
            {
                **{field: same[0][field] for field in fields},
                "runs": [run["name"] for run in same],
                "n": len(same),
                "unmasked": mean_sd(unmasked),
                "points": points,
            }
        )
    return averaged
