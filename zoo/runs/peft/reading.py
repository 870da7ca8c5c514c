"""Adapters read from a folder or a file: in peft's formats, and loralib's.

Nothing in a file is executed: a config is JSON within bounds, tensors come from safetensors or from
torch's format with `weights_only=True`, each no larger than what its file holds of it.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from zoo.errors import UserError
from zoo.files.access import read_json
from zoo.files.paths import ADAPTER
from zoo.files.tensors import read_tensors
from zoo.files.trust import NOBODY, Trust
from zoo.runs import adapter_config, adapter_folder
from zoo.runs.peft import (
    adalora,
    c3a,
    fourierft,
    hira,
    hra,
    loha,
    lokr,
    lora,
    loralib,
    miss,
    oft,
    randlora,
    shira,
    tokens,
    vera,
)
from zoo.runs.peft.adapter import (
    BINARY,
    CONFIG,
    PREFIX,
    TENSORS,
    Adapter,
    Update,
    by_layer,
    finite,
    same,
)
from zoo.runs.peft.formats import Format, Reader
from zoo.runs.peft.settings import damaged
from zoo.training.checkpoint_files import read_file

EXPECTED = f"give a folder with {CONFIG}"
FORMATS: dict[str, Format] = {
    "ADALORA": adalora,
    "C3A": c3a,
    "FOURIERFT": fourierft,
    "HIRA": hira,
    "HRA": hra,
    "LOHA": loha,
    "LOKR": lokr,
    "MISS": miss,
    "OFT": oft,
    "RANDLORA": randlora,
    "SHIRA": shira,
    "VERA": vera,
}
"""Modules by `peft_type`, of updates that are no factors of low rank alone."""
READERS: dict[str, Reader] = {**FORMATS, "LORA": lora}


def find(path: Path) -> Path | None:
    """Return the folder of an adapter that a path stands for, peft's or one that zoo.save wrote.

    It is the path itself, the folder of its tensors, or the only one right inside.

    Raises:
        UserError: if there are several inside.
    """
    if ours := adapter_folder.find_alone(path):
        return ours
    if path.name in (TENSORS, BINARY, CONFIG) and path.is_file():
        path = path.parent
    if (path / CONFIG).is_file():
        return path
    search = path.is_dir() and not _is_run(path)  # a run has its own exports inside
    inside = sorted(each.parent for each in path.glob(f"*/{CONFIG}")) if search else []
    if len(inside) > 1:
        names = ", ".join(f"'{each}'" for each in inside[:4])
        raise UserError(f"'{path}' has {len(inside)} adapters inside: give one of {names}")
    return inside[0] if inside else None


def read(
    path: Path,
    alpha: float | None = None,
    enabled: Sequence[bool] | None = None,
    trust: Trust = NOBODY,
) -> Adapter:
    """Read an adapter that peft or zoo wrote, or a file of loralib's.

    Args:
        path: the adapter's folder, the folder around that, or a file of loralib's.
        alpha: what a file of loralib's was trained with, which it does not say itself.
        enabled: which parts of its merged layers were trained, likewise.
        trust: which classes besides zoo's own an adapter of zoo's may name.

    Raises:
        UserError: if there is no adapter, a damaged one, or one whose update is of another kind.
    """
    folder = find(path)
    if folder is None:
        if path.is_file() and path.name not in (TENSORS, BINARY):
            return checked(f"'{path}'", loralib.read(path, _tensors(path), alpha, enabled))
        raise UserError(_nothing(path))
    for option, value in (("--alpha", alpha), ("--enable_lora", enabled)):
        if value is not None:
            raise UserError(
                f"{option} is for a file of loralib's; '{folder}' has a {CONFIG}, which says it: "
                f"drop {option}"
            )
    if (folder / adapter_config.CONFIG).is_file():
        stored = adapter_folder.read(folder, trust=trust)
        return checked(stored.where, adapter_folder.as_adapter(stored))
    file = next((folder / name for name in (TENSORS, BINARY) if (folder / name).is_file()), None)
    if file is None:
        raise UserError(
            f"'{folder}' is no peft adapter: it has no {TENSORS} and no {BINARY}; {EXPECTED} and "
            "one"
        )
    config = read_json(folder / CONFIG)
    where = f"adapter '{folder}'"
    reader = READERS.get(config["peft_type"]) if isinstance(config.get("peft_type"), str) else None
    reason = reader.unsupported(config) if reader else f"peft_type {config.get('peft_type')!r}"
    if reason or reader is None:
        readable = ", ".join(READERS)
        raise UserError(
            f"{where} has {reason}, which zoo cannot read (it reads {readable}): merge it with "
            "peft instead"
        )
    named = _peft_names(where, _tensors(file))
    changed, rest = tokens.read(where, config, named)
    found = reader.read(where, config, rest)
    saved, bases = _apart_from_bases(found.others, trained_bias(config))
    changed |= found.changed
    return checked(where, Adapter(config, found.updates, saved, bases, changed))


def sizes(path: Path) -> tuple[int, int]:
    """Return the bytes in float32 of an adapter's updates, and of what else it holds."""
    adapter = read(path)
    parts = [tensor for update in adapter.updates.values() for tensor in update.tensors()]
    trained, other = (
        4 * sum(tensor.numel() for tensor in each) for each in (parts, adapter.saved.values())
    )
    return trained, other


def trained_bias(config: Mapping[str, object]) -> bool:
    """Return whether biases of the backbone are trained: all of them, or those of the layers.

    Raises:
        UserError: for a setting that is neither.
    """
    bias = config.get("bias", "none")
    if not isinstance(bias, str) or not (bias in ("none", "all") or bias.endswith("_only")):
        raise damaged("bias", bias)
    return bias != "none"


def _apart_from_bases(
    tensors: Mapping[str, Tensor], biases: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return what was trained as it is, and what lies below an update, by the backbone's names."""
    layers, saved = by_layer(tensors, r"(.+)\.base_layer\.(weight|bias)")
    bases: dict[str, Tensor] = {}
    for layer, parts in layers.items():
        for part, tensor in parts.items():
            trained = part == "bias" and biases
            (saved if trained else bases)[f"{layer}.{part}"] = tensor
    return saved, bases


def checked(where: str, adapter: Adapter) -> Adapter:
    """Return an adapter that is seen to have layers, and numbers in them.

    Raises:
        UserError: if it has not.
    """
    if not adapter.updates:
        kind = adapter.config.get("peft_type", "loralib")
        raise UserError(f"{where} has no layers of {kind}: use another one")
    whole: dict[str, Update | Tensor] = {**adapter.updates, **adapter.saved}
    for name, value in whole.items():
        if not (value.isfinite().all() if isinstance(value, Tensor) else finite(value)):
            raise UserError(f"{where}: {name} holds NaN or infinite values: use another one")
    return adapter


def _tensors(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        tensors, metadata = read_tensors(file)
        if "zoo" in metadata:
            raise UserError(_ours(file))
        return tensors
    content = read_file(file)
    if isinstance(content, Mapping) and "zoo_task" in content:
        raise UserError(_ours(file))
    for key in ("model_state_dict", "state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()
    ):
        raise UserError(f"'{file}' holds no tensors by name: use another one")
    return dict(content)


def _peft_names(where: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by the backbone's names, without what peft puts around these.

    The module that peft keeps beside the copy that it trains is dropped. With `bias: all` the bias
    of the copy is there twice.
    """
    by_name: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if ".original_module." in key:
            continue
        name = re.sub(r"\.modules_to_save(\.default)?\.", ".", key.removeprefix(PREFIX))
        first = by_name.setdefault(name, tensor)
        if first is not tensor and not same(first, tensor):
            raise UserError(f"{where} has {name} twice, otherwise: use another one")
    return by_name


def _is_run(path: Path) -> bool:
    return (path / ADAPTER).is_file() or (path / "checkpoints").is_dir()


def _ours(path: Path) -> str:
    return (
        f"'{path}' is a run or adapter of zoo's, which needs no import: "
        "every command takes it as it is"
    )


def _nothing(path: Path) -> str:
    """Say why there is no adapter at a path."""
    if path.name in (TENSORS, BINARY) and path.is_file():
        return f"'{path.parent}' is no peft adapter: it has no {CONFIG}; {EXPECTED}"
    if not path.exists():
        return f"no adapter '{path}': {EXPECTED}"
    if _is_run(path):
        return _ours(path)
    return f"'{path}' is no peft adapter: it has no {CONFIG}; {EXPECTED}"
