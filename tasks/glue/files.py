"""GLUE examples: from the official TSV files, or from the hub."""

import csv
import os
from dataclasses import dataclass
from pathlib import Path

from tasks.glue.benchmark import GlueTask
from tasks.hub import fetch, library
from zoo.errors import UserError

HUB = "nyu-mll/glue"


@dataclass(frozen=True)
class Examples:
    """One split: texts, one or two an example, and labels as numbers."""

    texts: list[tuple[str, ...]]
    labels: list[float]
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.texts)


def load_examples(name: str, task: GlueTask, split: str, data_dir: str | None) -> Examples:
    """A split, `train` or one of `task.dev`, from a folder or else from the hub.

    `$ZOO_DATA` is searched too. A folder holds `<task>/<split>.tsv`, `glue/<task>/<split>.tsv` or `<split>.tsv`.

    Raises:
        UserError: if the folder has no such file, the file is broken, or the hub cannot be reached.
    """
    if data_dir is not None and not Path(data_dir).is_dir():
        raise UserError(f"no data folder {data_dir!r}: give an existing one as --data.data_dir")
    for folder in filter(None, (data_dir, os.environ.get("ZOO_DATA"))):
        tries = [Path(folder, *parts, f"{split}.tsv") for parts in ((task.folder,), ("glue", task.folder), ())]
        for path in tries:
            if path.is_file():
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
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"'{path}' is no UTF-8 TSV file ({error}): give GLUE's own") from None
    first = 1 if task.columns else 2
    header = list(task.columns) or (rows.pop(0) if rows else [])
    wanted = (*task.texts, task.label)
    if missing := [column for column in wanted if column not in header]:
        raise UserError(f"'{path}' has no column {missing[0]!r}, it has {', '.join(header) or 'none'}: give GLUE's own")
    places = [header.index(column) for column in wanted]
    texts: list[tuple[str, ...]] = []
    labels: list[float] = []
    skipped = 0
    for line, row in enumerate(rows, first):
        if len(row) <= max(places):
            if not task.ragged:
                raise UserError(f"'{path}', line {line}: {len(row)} fields instead of {len(header)}; correct that line")
            skipped += 1
            continue
        *text, label = (row[i] for i in places)
        texts.append(tuple(text))
        labels.append(_number(label, task, f"'{path}', line {line}"))
    if not texts:
        raise UserError(f"'{path}' has no rows: give GLUE's own")
    return Examples(texts, labels, skipped)


def _number(label: str, task: GlueTask, where: str) -> float:
    """A label, by name or number; a regression's is any number."""
    try:
        if not task.labels:
            return float(label)
        return task.labels.index(label) if label in task.labels else range(len(task.labels)).index(int(label))
    except ValueError:
        legal = " or ".join((*task.labels, *map(str, range(len(task.labels))))) or "a number"
        raise UserError(f"{where}: label must be {legal}, got {label!r}; correct that line") from None


def from_hub(name: str, task: GlueTask, split: str) -> Examples:
    """A split from the hub, or from the cache of an earlier look.

    Raises:
        UserError: if it is in neither.
    """
    datasets = library("datasets")
    datasets.disable_progress_bars()
    hub_split = split.replace("dev", "validation")

    def load(local: bool) -> object:
        mode = datasets.DownloadConfig(local_files_only=local)
        return datasets.load_dataset(HUB, name, split=hub_split, download_config=mode)

    data = fetch(HUB, f"the data of {name} in", "--data.data_dir", load)
    columns = [data[column] for column in (task.hub or task.texts)]
    return Examples([tuple(row) for row in zip(*columns, strict=True)], list(data["label"]))
