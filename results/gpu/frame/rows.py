"""Tables whose rows are whole whenever a run is cut, and that say what need not be measured again."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

Value = str | int | float | bool
Row = Mapping[str, Value]


class Table:
    """A CSV file that grows by whole rows, each written at once and forced to the disk.

    Args:
        path: of the file; an unfinished last line of it goes.
        case: columns that say what a row is of.
        measured: columns that say what was found.
        source: columns that are the same in all rows of this run.

    Raises:
        ValueError: if the file has other columns.
    """

    def __init__(
        self, path: Path, case: Sequence[str], measured: Sequence[str], source: Mapping[str, str]
    ) -> None:
        self.path, self.case, self.source = path, tuple(case), dict(source)
        self.columns = [*case, *measured, *source]
        whole = path.read_bytes() if path.exists() else b""
        if whole and not whole.endswith(b"\n"):
            whole = whole[: whole.rfind(b"\n") + 1]
            os.truncate(path, len(whole))
        self.rows = list(csv.DictReader(io.StringIO(whole.decode())))
        if not whole:
            self._append(self.columns)
        elif whole.decode().splitlines()[0].split(",") != self.columns:
            raise ValueError(f"'{path}' has other columns: give another --out")
        self._done = {self._key(row) for row in self.rows}

    def has(self, **case: Value) -> bool:
        """Whether there is a row of this case, so that it need not be measured again."""
        return self._key(case) in self._done

    def write(self, **row: Value) -> None:
        """Add a row; floats get four digits. A column without a value is empty.

        Raises:
            ValueError: for a column that the table does not have.
        """
        if unknown := set(row) - set(self.columns):
            raise ValueError(f"no columns {sorted(unknown)} in '{self.path}'")
        texts = {name: _text(value) for name, value in {**self.source, **row}.items()}
        self._append([texts.get(name, "") for name in self.columns])
        self.rows.append(texts)
        self._done.add(self._key(texts))

    def _key(self, row: Row) -> tuple[str, ...]:
        return tuple(_text(row[name]) for name in self.case)

    def _append(self, values: Sequence[str]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(values)
        with self.path.open("ab", buffering=0) as file:
            file.write(line.getvalue().encode())  # one call, so that a row is there or is not
            os.fsync(file.fileno())


def _text(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
