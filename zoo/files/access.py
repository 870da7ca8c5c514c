"""Files from anyone, read within bounds; files and folders that are written whole or not at all."""

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any, BinaryIO

from zoo import errors
from zoo.errors import UserError
from zoo.files.locks import hold
from zoo.files.plain import parse_json, parse_yaml

LARGEST = 64 * 2**20
"""How many bytes a text that is read may have: a summary, a config, an index of tensors."""


class Unusable(UserError):
    """A file that is not what it must be.

    Args:
        name: of the file.
        reason: what is wrong with it, in words that follow the name.
    """

    def __init__(self, name: str | Path, reason: str) -> None:
        super().__init__(f"'{name}' {reason}: use another one")
        self.reason = reason


# ---- Reading -------------------------------------------------------------------------------------


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file, or a link to one, for reading; nothing else is waited for.

    Raises:
        UserError: if it is a pipe, a device or a folder, or cannot be read.
    """
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise Unusable(path, f"cannot be read ({reason})") from None
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise Unusable(path, "is no regular file")
    with os.fdopen(number, "rb") as file:
        yield file


def read_text(path: Path, largest: int = LARGEST) -> str:
    """Read the text of a file in UTF-8.

    Args:
        path: of a regular file.
        largest: how many bytes it may have.

    Raises:
        UserError: if it is none, larger, or not UTF-8.
    """
    try:
        with opened(path) as file:
            content = file.read(largest + 1)
    except OSError as error:
        raise Unusable(path, f"cannot be read ({error.strerror})") from None
    if len(content) > largest:
        raise Unusable(path, f"has more than {largest:,} bytes")
    return _decoded(content, str(path))


def _decoded(content: bytes, name: str) -> str:
    try:
        # Some editors begin a text with a mark that is no part of it.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Unusable(name, "is no UTF-8 text") from None


def read_typed(name: str, largest: int = LARGEST) -> str:
    """Read the text of a file that the command line names: of a pipe or standard input, `-`, too.

    Raises:
        UserError: as `read_text`.
    """
    if name != "-" and not stat.S_ISFIFO(os.stat(name).st_mode):
        return read_text(Path(name), largest)
    shown = "standard input" if name == "-" else name
    with open(0 if name == "-" else name, "rb", closefd=name != "-") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise Unusable(shown, f"has more than {largest:,} bytes")
    return _decoded(content, shown)


def read_json(path: Path) -> dict[str, Any]:
    """Read a mapping from a JSON file.

    Raises:
        UserError: if it is none.
    """
    try:
        return _mapping(path, parse_json(read_text(path)))
    except UserError:
        raise
    except ValueError:
        raise Unusable(path, "is damaged or no JSON file") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping from a YAML file; an empty one is an empty mapping.

    Raises:
        UserError: if it is none.
    """
    try:
        return _mapping(path, parse_yaml(read_text(path)) or {})
    except UserError:
        raise
    except ValueError as error:
        raise Unusable(path, f"is damaged ({error})") from None


def _mapping(path: Path, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Unusable(path, "holds no mapping")
    return value


# ---- Writing a file ------------------------------------------------------------------------------


@contextmanager
def replacing(path: Path, on_disk: bool = True) -> Iterator[Path]:
    """Give a file beside `path` to write into, which takes its name once it is whole.

    A reader, or whoever comes after a crash, finds the old file or the new one. Where `path` is a
    link, the link is replaced: in a run that was handed over it may lead anywhere. What killed
    writers left of it is removed.

    Args:
        path: of the file.
        on_disk: whether to wait for the disk, which can take a tenth of a second; else the file may
            be empty if the machine, and not the process alone, crashes.

    Raises:
        OSError: naming `path`, if it cannot be written; it is then as it was.
    """
    target = path.absolute()
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    number = None
    try:
        remove_left(target)
        part.touch()
        number = hold(part)
        yield part
        if on_disk:
            _sync(part)
        part.replace(target)
        if on_disk:
            _sync(target.parent)
    except Exception as error:
        reason = next(
            (
                each
                for each in (error, error.__cause__, error.__context__)
                if isinstance(each, OSError)
            ),
            None,
        )
        if reason is None:
            raise
        raise OSError(
            reason.errno or errno.EIO, reason.strerror or str(reason), str(path)
        ) from error
    finally:
        part.unlink(missing_ok=True)
        if number is not None:
            os.close(number)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all.

    Raises:
        OSError: naming `path`, if it cannot be written; it is then as it was.
    """
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", newline="")


def _sync(path: Path) -> None:
    """Have the disk hold a file, or the names in a folder."""
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    except OSError as error:
        # These are of a file system that cannot do it.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(number)


def remove_left(target: Path) -> None:
    """Remove parts that nobody writes any more, and put back what a killed writer had set aside."""
    for left in target.parent.glob(f".{escape(target.name)}.*"):
        if (
            not left.name.removeprefix(f".{target.name}.").endswith((".part", ".old"))
            or left.is_symlink()
        ):
            continue
        number = hold(left)
        if number is None:
            continue
        if left.suffix == ".old" and not os.path.lexists(target):
            left.replace(target)
        elif left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
        os.close(number)


# ---- Folders -------------------------------------------------------------------------------------


def size(folder: Path) -> int:
    """Count the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def check_writable(folder: Path, option: str, what: str = "") -> None:
    """Refuse a folder that cannot be made or written, without making it.

    Args:
        folder: the folder that will hold something.
        option: the option that names it.
        what: what will be in it, as in `runs to `.

    Raises:
        UserError: naming the folder or file above it that is in the way.
    """
    there = next(
        path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path)
    )
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "may not be written" if there.is_dir() else "is no folder"
        raise UserError(f"cannot write {what}'{folder}': '{there}' {why}; give another {option}")


def check_new(
    path: Path,
    option: str = "--output",
    ours: Callable[[Path], bool] | None = None,
    force: bool = False,
) -> None:
    """Refuse a folder that is there already, unless it is empty.

    Args:
        path: the folder.
        option: the option that gives another.
        ours: says whether a file, by its path in the folder, was written by the command that is to
            write again.
        force: whether to replace the folder, if all files in it are such.

    Raises:
        UserError: if something would be overwritten, or the folder cannot be made.
    """
    if os.path.lexists(path):
        inside = path.rglob("*") if path.is_dir() else None
        files = (
            None
            if inside is None
            else sorted(file.relative_to(path) for file in inside if not file.is_dir())
        )
        other = next((file for file in files or () if ours is None or not ours(file)), None)
        if files is None or (other and not (force and ours)):
            raise UserError(
                f"'{path}' is there already, and is not overwritten: give another {option}"
            )
        if other:
            raise UserError(
                f"'{path}' holds '{other}' too, which {errors.option('force')} does not replace: "
                f"give another {option}"
            )
        if files and not force:
            raise UserError(
                f"'{path}' holds an earlier report: give another {option}, or replace it with "
                f"{errors.option('force')}"
            )
    there = _first_parent(path)
    if not os.access(there, os.W_OK | os.X_OK) or not there.is_dir():
        why = os.strerror(errno.EACCES if there.is_dir() else errno.ENOTDIR)
        raise UserError(f"cannot write '{path}': '{there}': {why}; give another {option}")


def _first_parent(path: Path) -> Path:
    """Find the nearest folder above that is there."""
    return next(parent for parent in path.absolute().parents if os.path.lexists(parent))


@contextmanager
def new_folder(
    path: Path,
    option: str = "--output",
    ours: Callable[[Path], bool] | None = None,
    force: bool = False,
) -> Iterator[Path]:
    """Give a folder to write into, which gets its name when all is in it, or is gone.

    Takes and raises what `check_new` does. What is replaced is there until then, and is renamed
    whole; a file that somebody else has put there meanwhile is kept. What a killed writer had set
    aside is put back first.
    """
    there = _first_parent(path)
    if path.parent.is_dir():
        remove_left(path.absolute())
    remove_left(there / path.name)
    check_new(path, option, ours, force)
    part = there / f".{path.name}.{os.getpid()}.part"
    try:
        part.mkdir()
    except OSError as error:
        raise UserError(
            f"cannot write '{path}': '{there}': {error.strerror}; give another {option}"
        ) from None
    numbers = [hold(part)]
    try:
        yield part
        for written in (*part.rglob("*"), part):
            _sync(written)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() and any(path.iterdir()):
            numbers.append(hold(path))
            _keep_others(path, part, ours)
            old = path.absolute().with_name(f"{part.name.removesuffix('.part')}.old")
            path.replace(old)
            part.replace(path)
            _keep_others(old, path, ours)  # what came in between
            shutil.rmtree(old)
        else:
            part.replace(path)
        _sync(path.absolute().parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    finally:
        for number in numbers:
            if number is not None:
                os.close(number)


def _keep_others(old: Path, new: Path, ours: Callable[[Path], bool] | None) -> None:
    """Have a folder hold what is not ours of the one that it replaces, by links."""
    for file in [file for file in old.rglob("*") if not file.is_dir()]:
        name = file.relative_to(old)
        if (ours is None or not ours(name)) and not os.path.lexists(new / name):
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, new / name, follow_symlinks=False)
            except OSError:  # a file system without links
                shutil.copy2(file, new / name, follow_symlinks=False)
