"""Tensors in safetensors files, and folders that are written whole or not at all."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.errors import UserError


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ModuleNotFoundError:
        raise UserError("this needs safetensors, which is not installed: pip install safetensors") from None
    return safetensors


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file and its metadata; such a file cannot hold code.

    Raises:
        UserError: if it is truncated or no such file.
    """
    library = _safetensors()
    try:
        with library.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (library.SafetensorError, OSError):
        raise UserError(f"'{path}' is truncated or no safetensors file: use another one") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, 4 bytes a float32; tensors may share memory, and are then written twice."""
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    _safetensors().torch.save_file(copies, path, {"format": "pt", **(metadata or {})})


def read_json(path: Path) -> dict[str, Any]:
    """A mapping from a JSON file.

    Raises:
        UserError: if it is none.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"'{path}' is damaged or no JSON file: use another one") from None
    if not isinstance(values, dict):
        raise UserError(f"'{path}' holds no mapping: use another one")
    return values


def size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, which gets its name when everything is in it and is gone after an error.

    Raises:
        UserError: if something is there already, or it cannot be made.
    """
    if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"'{path}' is there already, and is not overwritten: give another --output")
    there = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    part = there / f".{path.name}.{os.getpid()}"
    try:
        part.mkdir()
    except OSError as error:
        raise UserError(f"cannot write '{path}': '{there}': {error.strerror}; give another --output") from None
    try:
        yield part
        path.parent.mkdir(parents=True, exist_ok=True)
        part.replace(path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
