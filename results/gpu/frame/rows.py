"""Tables whose rows are whole whenever a run is cut, and that say what is measured already."""

import csv
import errno
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from results.gpu import PARTS


class Last(str):
    """A note on an error after which this process can measure no more."""


class Poisoned(RuntimeError):
    """An error that is raised once such a note is written: another process goes on."""


Value = str | int | float | bool
Row = Mapping[str, Value]
SOURCE = ("command", "commit", "device", "date")
"""The columns that are the same in all rows of a run."""


def read(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read the whole rows of a table, without an unfinished last line; none if there is no file.

    Raises:
        ValueError: if it has other columns, is damaged or cannot be read, in words for the user.
    """
    if not path.exists():
        return []
    if not path.is_file():
        raise ValueError(f"'{path}' is no file")
    try:
        whole = _finished(path.read_bytes()).decode()
        lines = list(csv.reader(io.StringIO(whole, newline=""), strict=True))
    except OSError as error:
        raise ValueError(f"'{path}': {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error):
        raise ValueError(f"'{path}' is damaged, no text of rows") from None
    if lines and lines[0] != list(columns):
        raise ValueError(f"'{path}' has other columns")
    for number, cells in enumerate(lines, 1):
        if len(cells) != len(columns) or any("\0" in cell for cell in cells):
            raise ValueError(f"'{path}' is damaged in line {number}")
    return [dict(zip(columns, cells, strict=True)) for cells in lines[1:]]


def of_folder(arguments: Sequence[str], name: str) -> list[dict[str, str]]:
    """Read the rows of a part's table, in the folder that a command line names.

    Raises:
        ValueError: if it names no folder or several, there is no such table, or it is damaged, in
            words for the user.
    """
    if len(arguments) != 1:
        raise ValueError("give one FOLDER, the --out of results/gpu.sh")
    path, part = Path(arguments[0]) / f"{name}.csv", PARTS[name]
    if not path.exists():
        raise ValueError(f"no '{path}': give the --out of results/gpu.sh")
    return read(path, [*part.case, *part.measured, *SOURCE])


def _finished(content: bytes) -> bytes:
    return content[: content.rfind(b"\n") + 1]


class Table:
    """A CSV file that grows by whole rows, each written at once and forced to the disk.

    Args:
        path: of the file; an unfinished last line of it goes.
        case: columns that say what a row is of.
        measured: columns that say what was found.
        source: columns that are the same in all rows of this run.

    Raises:
        ValueError: if the file has other columns or is damaged.
    """

    def __init__(
        self, path: Path, case: Sequence[str], measured: Sequence[str], source: Mapping[str, str]
    ) -> None:
        self.path, self.case, self.source = path, tuple(case), dict(source)
        self.columns = [*case, *measured, *source]
        self.rows = read(path, self.columns)
        size = len(_finished(path.read_bytes())) if path.exists() else 0
        if path.exists():
            os.truncate(path, size)
        if not size:
            self._append(self.columns)
        self._done = {self._key(row) for row in self.rows}

    def has(self, **case: Value) -> bool:
        """Return whether there is a row of this case, so that it need not be measured again."""
        return self._key(case) in self._done

    def write(self, **row: Value) -> None:
        """Add a row; floats get four digits, and a text is of one line.

        A column without a value is empty.

        Raises:
            ValueError: for a column that the table does not have.
            OSError: if it cannot be written, as on a full disk; the table is then as it was.
            Poisoned: after the row, if a value of it is a `Last` note.
        """
        if unknown := set(row) - set(self.columns):
            raise ValueError(f"no columns {sorted(unknown)} in '{self.path}'")
        texts = {name: _text(value) for name, value in {**self.source, **row}.items()}
        self._append([texts.get(name, "") for name in self.columns])
        self.rows.append(texts)
        self._done.add(self._key(texts))
        for value in row.values():
            if isinstance(value, Last):
                raise Poisoned(value)

    def _key(self, row: Row) -> tuple[str, ...]:
        return tuple(_text(row[name]) for name in self.case)

    def _append(self, values: Sequence[str]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(values)
        line = text.getvalue().encode(errors="backslashreplace")
        with self.path.open("ab", buffering=0) as file:
            before = file.tell()
            try:
                if file.write(line) != len(line):  # one call, so that a row is there or is not
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(before)
                raise


def _text(value: Value) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "".join(each if each.isprintable() else " " for each in str(value))
