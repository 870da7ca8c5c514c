"""GLUE examples: from the official TSV files, or from the hub."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

from tasks.glue.benchmark import GlueTask
from tasks.hub import fetch, library
from zoo.errors import UserError

HUB = "nyu-mll/glue"


@dataclass(frozen=True)
class Examples:
    """One split.

    Args:
        texts: one or two an example.
        labels: as numbers.
        skipped: broken lines that were left out.
    """

    texts: list[tuple[str, ...]]
    labels: list[float]
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.texts)

    def subset(self, indices: list[int]) -> "Examples":
        """Some of them."""
        return Examples([self.texts[i] for i in indices], [self.labels[i] for i in indices], self.skipped)


def load_examples(name: str, task: GlueTask, split: str, data_dir: str | None) -> Examples:
    """A split, `train` or one of `task.dev`, from a folder or else from the hub.

    `$ZOO_DATA` is searched too. A folder holds `<task>/<split>.tsv`, `glue/<task>/<split>.tsv` or `<split>.tsv`.

    Raises:
        UserError: if the folder has no such file, the file is broken, or the hub cannot be reached.
    """
    if data_dir is not None and not Path(data_dir).is_dir():
        raise UserError(f"no data folder {data_dir!r}: give an existing one as --data.data_dir")
    for folder in filter(None, (data_dir, os.environ.get("ZOO_DATA"))):
        for parts in ((task.folder,), ("glue", task.folder), ()):
            if (path := Path(folder, *parts, f"{split}.tsv")).is_file():
                return read_tsv(path, task)
    if data_dir is not None:
        raise UserError(f"no {task.folder}/{split}.tsv in data folder {data_dir!r}: give GLUE's own as --data.data_dir")
    return from_hub(name, task, split)


def read_tsv(path: Path, task: GlueTask) -> Examples:
    """An official file: UTF-8, one example a line, fields between tabs, and a quote is a character like any other.

    Raises:
        UserError: if it is no text, lacks a column, has no rows, or a row has fields missing or a wrong label.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")  # not by str.splitlines: texts hold odd line breaks
    except UnicodeDecodeError as error:
        raise UserError(f"'{path}' is no UTF-8 text ({error}): give GLUE's own") from None
    rows = [(number, line.rstrip("\r").split("\t")) for number, line in enumerate(lines, 1) if line.strip()]
    header = list(task.columns) or (rows.pop(0)[1] if rows else [])
    wanted = (*task.texts, task.label)
    if missing := [column for column in wanted if column not in header]:
        raise UserError(f"'{path}' has no column {missing[0]!r}, it has {', '.join(header) or 'none'}: give GLUE's own")
    places = [header.index(column) for column in wanted]
    whole = [(number, row) for number, row in rows if len(row) > max(places)]
    if len(whole) < len(rows) and not task.ragged:
        number, row = next((number, row) for number, row in rows if len(row) <= max(places))
        raise UserError(f"'{path}', line {number}: {len(row)} fields instead of {len(header)}; correct that line")
    if not whole:
        raise UserError(f"'{path}' has no rows: give GLUE's own")
    return Examples(
        [tuple(row[i] for i in places[:-1]) for _, row in whole],
        [_number(row[places[-1]], task, f"'{path}', line {number}") for number, row in whole],
        len(rows) - len(whole),
    )


def _number(label: str, task: GlueTask, where: str) -> float:
    """A label, by name or number; a regression's is any finite number."""
    try:
        if label in task.labels:
            return task.labels.index(label)
        number = int(label) if task.labels else float(label)
    except ValueError:
        number = -1 if task.labels else math.nan
    if math.isfinite(number) and (not task.labels or 0 <= number < len(task.labels)):
        return number
    legal = " or ".join((*task.labels, *map(str, range(len(task.labels))))) or "a number"
    raise UserError(f"{where}: label must be {legal}, got {label!r}; correct that line") from None


def from_hub(name: str, task: GlueTask, split: str) -> Examples:
    """A split from the hub, or from the cache of an earlier look.

    Raises:
        UserError: if it is in neither.
    """
    datasets = library("datasets")

    def load(local: bool) -> object:
        datasets.config.HF_HUB_OFFLINE = local  # DownloadConfig(local_files_only=True) asks the hub all the same
        return datasets.load_dataset(HUB, name, split=split.replace("dev", "validation"))

    data = fetch(HUB, f"the data of {name} in", "--data.data_dir", load)
    columns = [data[column] for column in (task.hub or task.texts)]
    return Examples(list(zip(*columns, strict=True)), list(data["label"]))
