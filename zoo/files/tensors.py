"""Tensors in safetensors files: they hold numbers and text, never code."""

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.errors import UserError
from zoo.files.access import opened, replacing

DIGEST = "sha256"
"""The entry of a file's metadata that tells whether it is as it was written."""


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ModuleNotFoundError:
        raise UserError(
            "this needs safetensors, which is not installed: pip install safetensors"
        ) from None
    return safetensors


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    library = _safetensors()
    with opened(path):  # the library would wait for a pipe
        pass
    try:
        with library.safe_open(path, framework="pt") as file:
            yield file
    except (library.SafetensorError, OSError):
        raise UserError(f"'{path}' is truncated or no safetensors file: use another one") from None


def read_tensors(
    path: Path, names: Iterable[str] | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors of a safetensors file, all or those of some names, and its metadata.

    Where the metadata has a sha256 (`write_tensors`) and all tensors are asked for, it is compared.

    Raises:
        UserError: if the file is truncated, damaged or no such file.
    """
    with _opened(path) as file:
        wanted = file.keys() if names is None else names
        tensors, metadata = (
            {name: file.get_tensor(name) for name in wanted},
            dict(file.metadata() or {}),
        )
    digest = metadata.pop(DIGEST, None)
    if names is None and digest is not None and digest != _digest(path, metadata):
        raise UserError(
            f"'{path}' is damaged: its sha256 is not the one that it was written with; use another "
            "copy"
        )
    return tensors, metadata


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the shapes of the floating-point tensors of a safetensors file, and none of these.

    Raises:
        UserError: if it is truncated or no such file.
    """
    with _opened(path) as file:
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {
            name: tuple(part.get_shape()) for name, part in parts.items() if "F" in part.get_dtype()
        }


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file, whole or not at all; equal tensors and metadata give equal bytes.

    Tensors may share memory, and are then written twice. The metadata is written in order of its
    keys, which the library's own is not, together with the sha256 of all that the file holds.
    """
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    content = _safetensors().torch.save(copies)
    header, start = _header(content)
    data = memoryview(content)[start:]
    about = {"format": "pt", **(metadata or {})}
    about[DIGEST] = _hash(header, about, data)
    text = json.dumps(
        {"__metadata__": dict(sorted(about.items())), **header}, ensure_ascii=False
    ).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of eight bytes
    with replacing(path) as part, part.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.write(data)


def stored_once(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Leave out tensors that are in one place of memory with another.

    Returns:
        The rest; and, by the name of each that was left out, the name that its place has there.
    """
    places: dict[object, str] = {}
    names = {
        name: places.setdefault((t.data_ptr(), t.shape, t.stride(), t.dtype), name)
        for name, t in tensors.items()
    }
    shared = {name: first for name, first in names.items() if name != first}
    return {name: t for name, t in tensors.items() if name not in shared}, shared


def under_all_names(tensors: Mapping[str, Tensor], shared: Any) -> dict[str, Tensor]:
    """Undo `stored_once`.

    Args:
        tensors: by name.
        shared: names that were left out, as a file has them.

    Raises:
        ValueError: if they are none.
    """
    try:
        return {**tensors, **{name: tensors[first] for name, first in shared.items()}}
    except (AttributeError, KeyError, TypeError):
        raise ValueError("no names of tensors that are left out") from None


def _header(content: bytes | memoryview) -> tuple[dict[str, Any], int]:
    """Read what a file says of its tensors, and where their data begins.

    Eight bytes are the length of the JSON that follows.
    """
    start = 8 + struct.unpack_from("<Q", content)[0]
    header = json.loads(bytes(content[8:start]))
    header.pop("__metadata__", None)
    return header, start


def _hash(header: Mapping[str, Any], metadata: Mapping[str, str], data: bytes | memoryview) -> str:
    digest = hashlib.sha256(json.dumps([header, metadata], sort_keys=True).encode())
    digest.update(data)
    return digest.hexdigest()


def _digest(path: Path, metadata: Mapping[str, str]) -> str:
    with opened(path) as file:
        content = memoryview(file.read())
    header, start = _header(content)
    return _hash(header, metadata, content[start:])
