"""What a run is: its data, its method and the conditions of its training, as it writes them itself.

Runs are compared by this record, whole: what no two of one comparison may differ in stands in
`data` and `conditions`, and what makes a row of it in `method`. Neither the seed nor the learning
rate is in it, which tell the runs of a method apart. A checkpoint holds it too, so that training
goes on, and is scored, on no other data without a word.
"""

import hashlib
import json
import math
import re
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo import path_today
from zoo.errors import UserError, option
from zoo.files.flat import Flat, as_json, flatten
from zoo.training.changing import settings_of

if TYPE_CHECKING:
    from zoo.training.module import ZooData, ZooModule

KEY = "zoo_run"
"""The name of the record in a checkpoint."""
PARTS = ("data", "method", "conditions")
WHOLE = 2**28
"""How many numbers of a network are hashed at most; of a larger one as many, evenly spaced."""
LIMITS = {"limit_train_batches": 1.0, "limit_val_batches": 1.0, "overfit_batches": 0.0}
"""Settings of the trainer that leave data out, each with the value that leaves out none."""
UNTIL = "_until_"
"""What stands between a setting and the step from which a run went on with another."""
OF_SCORING = ("steps", "planned_steps", "trainer.limit_val_batches", "validation_batch")
"""Conditions that say nothing of the steps before, whose plan is compared by itself."""


def path_of(cls: type) -> str:
    """Return the path by which a class is imported."""
    return f"{cls.__module__}.{cls.__qualname__}"


# ---- Written by the run --------------------------------------------------------------------------


def record(module: "ZooModule") -> dict[str, Any]:
    """Return what a checkpoint keeps of its run: identity, batch, and what to call it.

    Args:
        module: in a trainer, with data that is set up.
    """
    data = module.zoo_data()
    return as_json(
        {
            "identity": identity(module),
            "batch": batch(module) if data is not None else None,
            "data_name": data.name if data is not None else None,
            "network": module.network_name(),
            "lr": module.optimizer_config.lr,
        }
    )


def identity(module: "ZooModule") -> dict[str, Flat]:
    """Return `{data, method, conditions}` of a run as it stands, with settings by dotted name.

    Args:
        module: in a trainer, with data that is set up.
    """
    trainer: Any = module.trainer
    method: Flat = {}
    conditions: Flat = {"model": path_of(type(module))}
    silent = ("seed", "optimizer", "targets", *module.neutral, *module.sources, *module.from_data)
    for key, value in flatten(
        {key: value for key, value in module.hparams.items() if key[0] != "_"}
    ).items():
        if not any(key == name or key.startswith(f"{name}.") for name in silent):
            part = method if key.partition(".")[0] in module.of_method else conditions
            part[f"model.{key}"] = value
    optimizer = module.optimizer_config.settings()
    method["model.optimizer"] = optimizer.pop("name")
    method |= {f"model.optimizer.{key}": value for key, value in optimizer.items() if key != "lr"}
    method["model.targets"] = module.targets
    if module.started_from is not None:
        method["started_from"] = module.started_from
    if trainer.gradient_clip_val is not None:
        method["trainer.gradient_clip_val"] = trainer.gradient_clip_val
        method["trainer.gradient_clip_algorithm"] = trainer.gradient_clip_algorithm
    method |= settings_of(trainer.callbacks)
    conditions |= {f"model.{key}": value for key, value in module.network_identity().items()}
    conditions |= {"steps": trainer.global_step, "precision": str(trainer.precision)}
    if (planned := planned_steps(module)) not in (None, trainer.global_step):
        conditions["planned_steps"] = planned
    limited = [
        key
        for key, value in LIMITS.items()
        if getattr(trainer, key) != value or type(getattr(trainer, key)) is not type(value)
    ]
    conditions |= {f"trainer.{key}": getattr(trainer, key) for key in limited}
    data, found = module.zoo_data(), {}
    if data is not None:
        found = flatten(data.identity() if module.trained_on is None else module.trained_on)
        given = {
            key: value
            for key, value in data.given.items()
            if key not in (*data.sources, *data.neutral)
        }
        conditions |= {**(flatten(given, "data") if given else {}), "data": path_of(type(data))}
    taken = batch(module)
    whole = {"global_batch": global_batch(taken)} if taken["size"] else taken
    for name, size, other in (
        ("train_batch", taken["size"], "limit_val_batches"),
        ("validation_batch", evaluation_size(data), "limit_train_batches"),
    ):
        if {*limited} - {
            other
        } and size:  # limits count batches, and so their size says what was trained on or scored
            conditions[name] = size * taken["processes"]
    method, conditions = (
        method | module.before.get("method", {}),
        conditions | module.before.get("conditions", {}),
    )
    return as_json({"data": found, "method": method, "conditions": conditions | whole})  # type: ignore[no-any-return]


def batch(module: "ZooModule") -> dict[str, Any]:
    """Return what makes the batch of a step: `size` of a process, `processes` and `accumulate`.

    The size is None if it is not known. `numbered` says whether batches come from a `StepLoader`:
    then those of a step are the same for every way to make one global batch without accumulating.
    """
    trainer: Any = module.trainer
    data = module.zoo_data()
    size = getattr(data, "batch_size", None)
    return {
        "size": size if type(size) is int and size > 0 else None,
        "processes": trainer.world_size,
        "accumulate": trainer.accumulate_grad_batches,
        "numbered": data is not None and data.batches is not None,
    }


def evaluation_size(data: "ZooData | None") -> int | None:
    """Return the examples of a process in a step of validation, if the data says how many."""
    size = getattr(data, "eval_batch_size", getattr(data, "batch_size", None))
    return size if type(size) is int and size > 0 else None


def planned_steps(module: "ZooModule") -> int | None:
    """Return the steps that the schedule of a fit was made for; None if that is not known."""
    trainer: Any = module.trainer
    if trainer.train_dataloader is None:
        return None
    steps = trainer.estimated_stepping_batches
    return steps if 0 < steps < math.inf else None


def before(module: "ZooModule", known: Mapping[str, Any] | None) -> dict[str, Flat]:
    """Return what was another in training until now, by part of the identity.

    So a run that goes on with other settings is told from one that had them from its first step.

    Args:
        module: in a trainer, that has the checkpoint's step.
        known: the `record` in the checkpoint; None of one that an older zoo wrote.
    """
    step = module.trainer.global_step
    if known is None:
        return {"conditions": {f"identity{UNTIL}{step}": "unknown"}}
    here, found = identity(module), {}
    for part in ("method", "conditions"):
        then = {key: path_today(value) for key, value in known["identity"][part].items()}
        now = here[part]
        names = [key for key in {**then, **now} if UNTIL not in key and key not in OF_SCORING]
        found[part] = {key: value for key, value in then.items() if UNTIL in key} | {
            f"{key}{UNTIL}{step}": then.get(key) for key in names if then.get(key) != now.get(key)
        }
    plans = [
        each.get("planned_steps", each.get("steps"))
        for each in (known["identity"]["conditions"], here["conditions"])
    ]
    if plans[0] != plans[1]:
        found["conditions"][f"planned_steps{UNTIL}{step}"] = plans[0]
    if known.get("lr") not in (None, module.optimizer_config.lr):
        found["method"][f"model.optimizer.lr{UNTIL}{step}"] = known["lr"]
    return found


def global_batch(taken: Mapping[str, Any]) -> int | None:
    """Return the examples of a step over all processes, as `batch` has them, if known."""
    return taken["size"] * taken["processes"] * taken["accumulate"] if taken["size"] else None


def digest(*tensors: Tensor) -> str:
    """Return the sha256 of what tensors hold, in their order."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def digest_of_weights(tensors: Iterable[Tensor]) -> str:
    """Return the sha256 of weights in bfloat16, whatever their names, order and dtype.

    So a network is the same one in a folder and in a cache, in float32 and in bfloat16. 25 million
    weights take 0.06 s.
    """
    weights = list(tensors)
    step = max(1, math.ceil(sum(t.numel() for t in weights) / WHOLE))
    each = []
    for tensor in weights:
        numbers = tensor.detach().flatten()[::step].to("cpu", torch.bfloat16).contiguous()
        about = hashlib.sha256(str(tuple(tensor.shape)).encode())
        about.update(numbers.view(torch.uint8).numpy().data)
        each.append(about.digest())
    return hashlib.sha256(b"".join(sorted(each))).hexdigest()


# ---- Read again ----------------------------------------------------------------------------------


def is_identity(value: Any) -> bool:
    """Say whether a value from a file is what `identity` gives."""
    parts = [value.get(part) for part in PARTS] if isinstance(value, dict) else [None]
    return all(isinstance(part, dict) and _is_plain(part) for part in parts)


def is_record(value: Any) -> bool:
    """Say whether a value from a file is what `record` gives."""
    if not isinstance(value, dict) or not is_identity(value.get("identity")):
        return False
    taken = value.get("batch")
    if taken is not None:
        if (
            not isinstance(taken, dict)
            or taken.get("size") is not None
            and not _is_size(taken["size"])
        ):
            return False
        if not all(_is_size(taken.get(key)) for key in ("processes", "accumulate")):
            return False
    if not isinstance(value.get("lr"), int | float | None):
        return False
    return all(
        value.get(key) is None or isinstance(value[key], str) for key in ("data_name", "network")
    )


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 < value < 2**40


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def check_network(module: "ZooModule", known: Mapping[str, Any] | None) -> None:
    """Refuse a checkpoint of another frozen network than its coefficients are put into.

    Raises:
        UserError: naming the option that gives it.
    """
    conditions = known["identity"]["conditions"] if known else {}
    for key, value in module.network_identity().items():
        theirs = conditions.get(f"model.{key}", value)
        if theirs != value:
            raise UserError(
                f"the checkpoint was trained on another network: its {key} is {_short(theirs)}, "
                f"here {_short(value)}; give the original"
                f"{_options('model', [f'model.{name}' for name in module.sources])}"
            )


def check_data(module: "ZooModule", known: Mapping[str, Any]) -> None:
    """Hold data and batch of a run against those of the checkpoint that it starts from.

    Training goes on with the same data and the same global batch. Looking takes other data where
    the user has named it (`ZooData.named`), and says so.

    Args:
        module: in a trainer, with data that is set up.
        known: the `record` in the checkpoint.

    Raises:
        UserError: naming what differs, and the remedy.
    """
    trainer, data = module.trainer, module.zoo_data()
    if data is None:
        return
    fit = trainer.state.fn == "fit"
    try:
        here = as_json(flatten(data.identity()))
    except Exception:
        if fit:
            raise
        here = {}  # a task of the user's own may not know it before its training data is read
    theirs = known["identity"]["data"]
    changed = [
        key
        for key in theirs
        if theirs[key] is not None
        and here.get(key) is not None
        and json.dumps(here[key], sort_keys=True) != json.dumps(theirs[key], sort_keys=True)
    ]
    if changed:
        what = (
            f"{changed[0]} was {_short(theirs[changed[0]])}, and is {_short(here[changed[0]])} here"
        )
        places = [name for name in data.places() if name in data.given]
        own, linked = (
            [f"data.{name}" for name in places if name not in module.sources],
            [f"model.{name}" for name in places if name in module.sources],
        )
        if fit:
            raise UserError(
                f"this is other data than the run was trained on: {what}; going on takes the "
                f"original{_options('data', [*own, *linked])}, other data a new run"
            )
        if not data.named:
            raise UserError(
                f"the run's settings lead to other data than it was trained on: {what}; name the "
                f"data to look at{_options('data', own)}"
            )
        if trainer.is_global_zero:
            print(
                f"zoo: note: this is other data than the run was trained on: {what}",
                file=sys.stderr,
            )
    if fit and known.get("batch"):
        _check_batch(known["batch"], batch(module), max(1, trainer.num_nodes))


def _check_batch(then: Mapping[str, Any], now: Mapping[str, Any], nodes: int) -> None:
    """Raise UserError for batches that are not those that the run would have gone on with."""
    factors = ("size", "processes", "accumulate")
    if all(then[key] == now[key] for key in factors):
        return
    whole, here = global_batch(then), global_batch(now)
    numbered = bool(then.get("numbered")) and whole is not None and here is not None
    if numbered and whole == here and then["accumulate"] == now["accumulate"]:
        return
    accumulate = then["accumulate"]
    extra = (
        []
        if accumulate == now["accumulate"]
        else [f"--trainer.accumulate_grad_batches {accumulate}"]
    )
    remedies = []
    if numbered:
        assert whole is not None
        if whole % (now["size"] * accumulate * nodes) == 0:
            devices = whole // (now["size"] * accumulate * nodes)
            remedies.append(f"--trainer.devices {devices}" * (devices * nodes != now["processes"]))
        if whole % (now["processes"] * accumulate) == 0:
            size = whole // (now["processes"] * accumulate)
            remedies.append(f"--data.batch_size {size}" * (size != now["size"]))
    if not numbered or not remedies:
        devices = then["processes"] // nodes
        both = [
            f"--trainer.devices {devices}" * (then["processes"] != now["processes"]),
            f"--data.batch_size {then['size']}"
            * (then["size"] != now["size"] and then["size"] is not None),
        ]
        remedies = [" ".join(filter(None, both))]
    ways = ", or ".join(
        " ".join([way, *extra]).strip() for way in dict.fromkeys(remedies) if way or extra
    )
    was, are = _product(then), _product(now)
    raise UserError(
        f"the run was trained on global batches of {was}, and goes on with the same ones alone, "
        f"got {are}: give {ways}"
    )


def _product(taken: Mapping[str, Any]) -> str:
    """Return a batch as `8 (4 x 2 processes)`."""
    parts = [
        str(taken["size"] or "?"),
        f"{taken['processes']} process{'es' * (taken['processes'] != 1)}",
    ]
    parts += [f"{taken['accumulate']} accumulated"] * (taken["accumulate"] != 1)
    return f"{global_batch(taken) or 'unknown size'} ({' x '.join(parts)})"


def _options(group: str, names: Iterable[str]) -> str:
    """Return `, as --data.corpus or --data.data_dir`."""
    return ", as " + (" or ".join(map(option, names)) or f"an option of --{group}")


def _short(value: object) -> str:
    is_hash = isinstance(value, str) and re.fullmatch(r"[0-9a-f]{32}|[0-9a-f]{64}", value)
    return f"{value[:12]}..." if is_hash else ascii(value)[:40]  # type: ignore[index]
