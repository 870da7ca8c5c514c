"""Tensors in safetensors files, and folders that are written whole or not at all."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.errors import UserError

ADAPTER = "adapter.safetensors"
"""A run in one file, as `zoo export --to safetensors` writes it."""


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ModuleNotFoundError:
        raise UserError("this needs safetensors, which is not installed: pip install safetensors") from None
    return safetensors


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    library = _safetensors()
    try:
        with library.safe_open(path, framework="pt") as file:
            yield file
    except (library.SafetensorError, OSError):
        raise UserError(f"'{path}' is truncated or no safetensors file: use another one") from None


def read_tensors(path: Path, names: Iterable[str] | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, all or those of some names, and its metadata; it cannot hold code.

    Raises:
        UserError: if it is truncated or no such file.
    """
    with _opened(path) as file:
        wanted = file.keys() if names is None else names
        return {name: file.get_tensor(name) for name in wanted}, file.metadata() or {}


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the floating-point tensors of a safetensors file, none of which is read.

    Raises:
        UserError: if it is truncated or no such file.
    """
    with _opened(path) as file:
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {name: tuple(part.get_shape()) for name, part in parts.items() if "F" in part.get_dtype()}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, 4 bytes a float32; tensors may share memory, and are then written twice."""
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    _safetensors().torch.save_file(copies, path, {"format": "pt", **(metadata or {})})
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)  # as any new file, where safetensors lets the owner alone read it


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


def check_writable(folder: Path, option: str, what: str = "") -> None:
    """Refuse a folder that cannot be made or written, without making it.

    Args:
        folder: that will hold something.
        option: that names it.
        what: will be in it, as in `runs to `.

    Raises:
        UserError: naming the folder or file above it that is in the way.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "may not be written" if there.is_dir() else "is no folder"
        raise UserError(f"cannot write {what}'{folder}': '{there}' {why}; give another {option}")


def check_new(
    path: Path, option: str = "--output", ours: Callable[[Path], bool] | None = None, force: bool = False
) -> None:
    """Refuse a folder that is there already, unless it is empty.

    Args:
        path: the folder.
        option: that gives another.
        ours: whether a file, by its path in the folder, was written by the command that is to write again.
        force: replace it, if all files in it are such.

    Raises:
        UserError: if something would be overwritten, or the folder cannot be made.
    """
    if os.path.lexists(path):
        inside = path.rglob("*") if path.is_dir() else None
        files = None if inside is None else sorted(file.relative_to(path) for file in inside if not file.is_dir())
        other = next((file for file in files or () if ours is None or not ours(file)), None)
        if files is None or (other and not (force and ours)):
            raise UserError(f"'{path}' is there already, and is not overwritten: give another {option}")
        if other:
            raise UserError(f"'{path}' holds '{other}' too, which --force does not replace: give another {option}")
        if files and not force:
            raise UserError(f"'{path}' holds an earlier report: give another {option}, or replace it with --force")
    there = _first_parent(path)
    if not os.access(there, os.W_OK | os.X_OK) or not there.is_dir():
        why = os.strerror(errno.EACCES if there.is_dir() else errno.ENOTDIR)
        raise UserError(f"cannot write '{path}': '{there}': {why}; give another {option}")


def _first_parent(path: Path) -> Path:
    """The folder above that is there."""
    return next(parent for parent in path.absolute().parents if os.path.lexists(parent))


def _remove_left(there: Path, name: str) -> None:
    """Parts of a folder of this name, of processes that were killed; not what one was about to replace."""
    for part in there.glob(f".{escape(name)}.*"):
        pid = part.name.removeprefix(f".{name}.")
        if pid.isdigit() and not Path("/proc", pid).exists() and Path("/proc/self").exists():
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def new_folder(
    path: Path, option: str = "--output", ours: Callable[[Path], bool] | None = None, force: bool = False
) -> Iterator[Path]:
    """A folder to write into, which gets its name when everything is in it and is gone after an error.

    Takes and raises what `check_new` does. What is replaced is there until then.
    """
    check_new(path, option, ours, force)
    there = _first_parent(path)
    _remove_left(there, path.name)
    part = there / f".{path.name}.{os.getpid()}"
    try:
        part.mkdir()
    except OSError as error:
        raise UserError(f"cannot write '{path}': '{there}': {error.strerror}; give another {option}") from None
    try:
        yield part
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() and any(path.iterdir()):
            old = part.with_name(f"{part.name}.old")
            path.replace(old)
            part.replace(path)
            shutil.rmtree(old)
        else:
            part.replace(path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
