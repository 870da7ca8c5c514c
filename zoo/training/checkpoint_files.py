"""Checkpoints as files: written whole, read without executing anything, refused when damaged.

A checkpoint holds what is trained, 4 bytes a number. What else a run needs to go on, the
optimizer's moments and the curves so far, lies beside it: `last.resume_250.pt` belongs to the
`last.ckpt` of step 250, and says of which one.
"""

import hashlib
import json
import math
import os
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from glob import escape
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from packaging.version import InvalidVersion, Version
from torch import Tensor

from zoo.bases.masks import unpack
from zoo.errors import UserError
from zoo.files.access import opened, replacing
from zoo.files.plain import DEEPEST, MOST, parse_json
from zoo.files.tensors import read_tensors, under_all_names
from zoo.training.identity import KEY, is_record

RESUME = ("optimizer_states", "lr_schedulers", "callbacks", "loops")
"""Parts of a checkpoint that only going on needs."""
START = "zoo_start"
"""Marks a checkpoint that no training has written, such as an imported adapter.

A new run starts from its weights.
"""
HANDED_OVER = ".temp.ckpt"
"""What Lightning calls the weights that a process it has spawned gives back."""
OF = "zoo_of"
"""The key, in the file beside, of the digest of the checkpoint that it belongs to."""


class CheckpointFiles(TorchCheckpointIO):
    """Writes and reads a checkpoint with what going on needs in a file of its own.

    That file is written first and carries the step, so that a run killed in between still has a
    pair that belongs together; one of an older step is removed last.

    Args:
        resume: whether going on is what a checkpoint is read for.
    """

    def __init__(self, resume: bool = True) -> None:
        self.resume = resume

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write both, each whole or not at all; one file if there is no optimizer's state."""
        path, rest = Path(path), {key: checkpoint[key] for key in RESUME if key in checkpoint}
        path.parent.mkdir(parents=True, exist_ok=True)
        if "optimizer_states" not in rest:
            write_file(path, checkpoint)
            return
        kept = {key: value for key, value in checkpoint.items() if key not in rest}
        beside = resume_file(path, checkpoint["global_step"])
        write_file(beside, {**rest, OF: digest(kept)})
        write_file(path, kept)
        for old in path.parent.glob(f"{escape(path.stem)}.resume_*.pt"):
            if old != beside:
                old.unlink()

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read both as one; or what a launcher of processes hands over, which is no checkpoint."""
        return load(Path(path), self.resume, strict=False)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a file, and the folder that a launcher of processes has made for it alone."""
        super().remove_checkpoint(path)
        if Path(path).name == HANDED_OVER:
            with suppress(OSError):
                Path(path).parent.rmdir()


def resume_file(path: Path, step: int) -> Path:
    """Return the path of the file beside a checkpoint of a step."""
    return path.with_name(f"{path.stem}.resume_{step}.pt")


def write_file(path: Path, content: Any) -> None:
    """Write what torch.save makes of plain data, whole or not at all.

    Raises:
        OSError: naming the file; what was there is there still.
        KeyboardInterrupt: also where torch makes another error of it, as it ends its archive.
    """
    with replacing(path) as part, part.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise


def digest(checkpoint: Mapping[str, Any]) -> str:
    """Hash what tells a checkpoint from others: its tensors, task, settings and step."""
    found = hashlib.sha256()
    about = [
        checkpoint.get(key)
        for key in ("zoo_task", "hyper_parameters", "zoo_fingerprints", "global_step")
    ]
    found.update(json.dumps(about, sort_keys=True, default=str).encode())
    for name, tensor in sorted(checkpoint["state_dict"].items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


# ---- Reading -------------------------------------------------------------------------------------


def load(path: Path, resume: bool = True, strict: bool = True) -> dict[str, Any]:
    """Read a checkpoint or adapter as plain data, on the CPU; nothing in the file is executed.

    Args:
        path: of the file.
        resume: whether to read what going on needs, too, from the file beside it.
        strict: whether anything but a checkpoint is refused.

    Returns:
        Lightning's mapping. Of a masked adapter, matrices that are still to be restored are under
        `masked`.

    Raises:
        UserError: if a file is damaged, holds anything but data, or is no checkpoint; or if the one
            beside belongs to another checkpoint.
    """
    if path.suffix == ".safetensors":
        checkpoint = _read_adapter(path)
        check_structure(path, checkpoint)
        return checkpoint
    checkpoint = read_file(path)
    if (
        not strict
        and isinstance(checkpoint, dict)
        and not {"state_dict", "global_step"} & set(checkpoint)
    ):
        return checkpoint
    check_structure(path, checkpoint)
    beside = resume_file(path, checkpoint["global_step"])
    if not resume or not beside.is_file():
        return checkpoint
    rest = read_file(beside)
    _check_rest(beside, rest)
    if rest.pop(OF, None) not in (None, digest(checkpoint)):
        raise UserError(
            f"'{beside}' belongs to another checkpoint than '{path}': give a run as it was written"
        )
    return checkpoint | rest


def _read_adapter(path: Path) -> dict[str, Any]:
    tensors, metadata = read_tensors(path)
    try:
        about = parse_json(metadata["zoo"])
        tensors = under_all_names(tensors, about.pop("shared"))
        tensors, masked = unpack(tensors, about.pop("masked", {}))
        known = {key: value for key, value in about.items() if value is not None}
        return {
            **known,
            "state_dict": tensors,
            "masked": masked,
            "config": metadata.get("config", ""),
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(
            f"'{path}' is no adapter of zoo's; make one of peft's a run with zoo import {path}"
        ) from None


def read_file(path: Path) -> Any:
    """Read what a file of torch.save holds, on the CPU; nothing in it is executed.

    Every record of the archive is held against its checksum, and no tensor is larger than what the
    file has of it.

    Raises:
        UserError: if it is damaged, or holds anything but data.
    """
    try:
        with opened(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an unusual pickle protocol: what follows says more
            size = _check_archive(path, file)
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
        _check_tensors(content, size)
        return content
    except UserError:
        raise
    except UnpicklingError as error:
        with opened(path) as file:
            # Of a pickle, or of torch's archive of one: a text has no code.
            pickled = file.read(1) in (b"\x80", b"P")
        if pickled and ("Unsupported" in str(error) or "GLOBAL" in str(error)):
            held = f"checkpoint '{path}' holds code, not only weights"
            raise UserError(f"{held}: refused, nothing was executed; use another one") from None
        raise UserError(
            f"checkpoint '{path}' is damaged or no checkpoint: use another one"
        ) from None
    except Exception:  # whatever unpickling makes of bytes that are no pickle
        raise UserError(
            f"checkpoint '{path}' is truncated or no checkpoint: use another one"
        ) from None


def _check_archive(path: Path, file: BinaryIO) -> int:
    """Read an archive against its checksums, which torch does not; the bytes of the file."""
    size = file.seek(0, 2)
    file.seek(0)
    if file.read(2) != b"PK":  # what torch wrote before 1.6, without checksums
        return size
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        stored = all(record.compress_type == zipfile.ZIP_STORED for record in records)
        if not stored or sum(record.file_size for record in records) > size:
            raise UserError(f"checkpoint '{path}' is packed as torch packs none: use another one")
        if (wrong := archive.testzip()) is not None:
            raise UserError(
                f"checkpoint '{path}' is damaged: the checksum of {wrong} is wrong; use another "
                "copy"
            )
    return size


def _check_tensors(content: Any, size: int) -> None:
    """Refuse data that is deep or endless, and tensors of more numbers than the file holds.

    Raises:
        ValueError: for such.
    """
    todo, seen, storages = [(content, 1)], 0, {}
    while todo:
        item, depth = todo.pop()
        seen += 1
        if seen > MOST or depth > DEEPEST:
            raise ValueError("nested too deeply or too long")
        if isinstance(item, dict):
            todo += [(each, depth + 1) for pair in item.items() for each in pair]
        elif isinstance(item, list | tuple | set):
            todo += [(each, depth + 1) for each in item]
        elif isinstance(item, Tensor):
            if item.layout != torch.strided or item.is_quantized or item.device.type != "cpu":
                raise ValueError("no plain tensor")
            storage = item.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
            if item.numel() * item.element_size() > storage.nbytes():
                raise ValueError("a tensor that repeats its numbers")
    if sum(storages.values()) > size:
        raise ValueError("more numbers than the file has")


def check_structure(path: Path, checkpoint: Any) -> None:
    """Refuse what is no checkpoint of zoo's, or has a part of another kind than that of one.

    Raises:
        UserError: naming the part.
    """
    for key in ("state_dict", "global_step", "pytorch-lightning_version"):
        if not isinstance(checkpoint, dict) or key not in checkpoint:
            raise UserError(f"'{path}' is no zoo checkpoint: it has no {key}; use another one")
    state, version = checkpoint["state_dict"], checkpoint["pytorch-lightning_version"]
    if not _maps(state, Tensor):
        raise UserError(f"'{path}' is no zoo checkpoint: its state_dict is none; use another one")
    right = {
        "global_step": _counts(checkpoint["global_step"]),
        "epoch": _counts(checkpoint.get("epoch", 0)),
        "hyper_parameters": _maps(checkpoint.get("hyper_parameters", {}), object),
        "zoo_task": isinstance(checkpoint.get("zoo_task", ""), str),
        "zoo_fingerprints": _maps(checkpoint.get("zoo_fingerprints", {}), str),
        "zoo_projected": _are_sizes(checkpoint.get("zoo_projected", {})),
        KEY: KEY not in checkpoint or is_record(checkpoint[KEY]),
    }
    try:
        right["pytorch-lightning_version"] = (
            isinstance(version, str) and Version(version) is not None
        )
    except InvalidVersion:
        right["pytorch-lightning_version"] = False
    _refuse(path, right)


def _check_rest(path: Path, rest: Any) -> None:
    if not _maps(rest, object):
        raise UserError(f"'{path}' is damaged: it holds no mapping; give a run as it was written")
    states = rest.get("optimizer_states")
    _refuse(
        path,
        {
            "optimizer_states": isinstance(states, list)
            and all(
                _maps(state, dict | list) and {"state", "param_groups"} <= set(state)
                for state in states
            ),
            "lr_schedulers": isinstance(rest.get("lr_schedulers"), list),
            "callbacks": _maps(rest.get("callbacks"), object),
            "loops": _maps(rest.get("loops"), dict) and _is_progress(rest["loops"]),
            OF: isinstance(rest.get(OF, ""), str),
        },
    )


def _refuse(path: Path, right: Mapping[str, bool]) -> None:
    if wrong := next((key for key, fine in right.items() if not fine), None):
        raise UserError(f"'{path}' is damaged: its {wrong} is none; use another copy")


def _is_progress(value: Any) -> bool:
    """Tell whether numbers say how far loops have come; loaders have states of other kinds."""
    if isinstance(value, dict):
        return all(key == "combined_loader" or _is_progress(each) for key, each in value.items())
    if isinstance(value, list):
        return all(map(_is_progress, value))
    return (
        value is None
        or isinstance(value, bool | float)
        or type(value) is int
        and abs(value) < 2**53
    )


def _are_sizes(value: Any) -> bool:
    return _maps(value, float) and all(0 <= size < math.inf for size in value.values())


def _counts(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _maps(value: Any, kind: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(k, str) and isinstance(v, kind) for k, v in value.items()
    )


def run_folder(path: Path) -> Path | None:
    """Find the run's folder that a checkpoint is in, as its path has it or where a link leads."""
    for place in (Path(os.path.abspath(path)), path.resolve()):
        folder = place.parent.parent
        if (folder / "config.yaml").is_file():
            return folder
    return None
