"""Tensors of checkpoints of any kind, by name, each read when it is asked for."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from zoo.errors import UserError
from zoo.files.access import read_json
from zoo.files.tensors import read_shapes, read_tensors
from zoo.training.checkpoint_files import read_file

STATES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
"""Files of a plain checkpoint, of which a folder has one; an index names those of the tensors."""
PLAIN = (
    "give a run, a folder with model.safetensors or pytorch_model.bin, or a file with a state dict"
)


class Stored(NamedTuple):
    """A tensor of a checkpoint, read when asked for."""

    shape: tuple[int, ...]
    load: Callable[[], Tensor]


def is_zoo(file: Path) -> bool:
    """Say whether a file is a checkpoint or adapter of zoo's."""
    if file.suffix == ".safetensors":
        return "zoo" in read_tensors(file, ())[1]
    content = read_file(file)
    return isinstance(content, dict) and "zoo_task" in content


def plain_tensors(path: Path) -> dict[str, Stored]:
    """Return every floating-point tensor of a checkpoint that is not zoo's.

    Args:
        path: a folder with one of `STATES`, or a file of safetensors or of torch.save, which holds
            a state dict as it is, as `state_dict` or as `model`.

    Raises:
        UserError: if there is none, or it is damaged.
    """
    files = state_files(path)
    if not files:
        raise UserError(f"no checkpoint in {str(path)!r}: {PLAIN}")
    found: dict[str, Stored] = {}
    for file in files:
        if file.suffix == ".safetensors":
            found |= {
                name: Stored(shape, partial(_load, file, name))
                for name, shape in read_shapes(file).items()
            }
        else:
            found |= in_memory(_state(file))
    return found


def in_memory(tensors: Mapping[str, Tensor]) -> dict[str, Stored]:
    """Return tensors that are read already as if they were stored."""
    return {name: Stored(tuple(tensor.shape), tensor.detach) for name, tensor in tensors.items()}


def _load(file: Path, name: str) -> Tensor:
    return read_tensors(file, [name])[0][name]


def _state(file: Path) -> dict[str, Tensor]:
    """Return the floating-point tensors of a file of torch.save."""
    content = read_file(file)
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = content.items() if isinstance(content, dict) else ()
    state = {str(name): t for name, t in tensors if isinstance(t, Tensor) and t.is_floating_point()}
    if not state:
        raise UserError(f"'{file}' holds no state dict: {PLAIN}")
    return state


def state_files(path: Path) -> list[Path]:
    """Return the files with the tensors of a plain checkpoint, if a path is of one."""
    if path.is_file():
        return [path]
    first = next((path / name for name in STATES if (path / name).is_file()), None)
    if first is None or first.suffix != ".json":
        return [first] if first else []
    names = read_json(first).get("weight_map")
    if (
        not isinstance(names, dict)
        or not names
        or not all(isinstance(name, str) for name in names.values())
    ):
        raise UserError(f"'{first}' has no weight_map: use another checkpoint")
    if outside := [
        name for name in names.values() if name in ("", ".", "..") or Path(name).name != name
    ]:
        raise UserError(
            f"'{first}' names {outside[0]!r}, which is no file beside it: use another checkpoint"
        )
    files = [path / name for name in dict.fromkeys(names.values())]
    if lacking := [file.name for file in files if not file.is_file()]:
        raise UserError(f"'{first}' names {lacking[0]}, which is not there: use a whole checkpoint")
    return files


def aligned(old: dict[str, Stored], after: dict[str, Stored]) -> dict[str, Stored]:
    """Return tensors with a first part more or less in their names, as `bert.` of `bert.encoder`.

    Of all ways the one is taken by which most names are those of the other checkpoint.
    """
    firsts = dict.fromkeys(f"{name.partition('.')[0]}." for name in (*after, *old))
    longer = [{f"{first}{name}": stored for name, stored in old.items()} for first in firsts]
    shorter = [
        {name.removeprefix(first): stored for name, stored in old.items()} for first in firsts
    ]
    return max(old, *longer, *shorter, key=lambda names: len(names.keys() & after.keys()))
