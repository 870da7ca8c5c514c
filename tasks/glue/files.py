"""GLUE examples: from the official TSV files, or from the hub."""

import hashlib
import math
import re
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from tasks.folders import data_folders
from tasks.glue.benchmark import GlueTask
from tasks.hub import fetch, library
from zoo.errors import UserError
from zoo.files.access import opened

HUB = "nyu-mll/glue"
CLASS_NUMBER, SCORE = r"[0-9]{1,9}", r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?"


@dataclass(frozen=True)
class Examples:
    """The examples of one split.

    Args:
        texts: one or two an example.
        labels: as numbers.
        skipped: broken lines that were left out.
        revision: of the data on the hub, where they come from there.
    """

    texts: list[tuple[str, ...]]
    labels: list[float]
    skipped: int = 0
    revision: str | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def subset(self, indices: list[int]) -> "Examples":
        """Return the examples with these indices."""
        return replace(
            self, texts=[self.texts[i] for i in indices], labels=[self.labels[i] for i in indices]
        )

    def contents(self) -> "Contents":
        """Return what is to be remembered of the examples."""
        digest = hashlib.sha256()
        for texts, label in zip(self.texts, self.labels, strict=True):
            for text in texts:
                encoded = text.encode("utf-8", "surrogatepass")
                digest.update(len(encoded).to_bytes(8, "little") + encoded)
            digest.update(struct.pack("<f", label))
        empty = sum(not all(text.strip() for text in texts) for texts in self.texts)
        return Contents(
            digest.hexdigest(), self.skipped, empty, len(self) - len(set(self.texts)), self.revision
        )


class Contents(NamedTuple):
    """What is remembered of a split.

    Args:
        sha256: of texts and labels, in their order; labels as float32, as which a score is trained
            on.
        skipped: broken lines that were left out.
        empty: examples that have a text of nothing but white space.
        repeated: examples whose texts have stood before.
        revision: of the data on the hub, where they come from there.
    """

    sha256: str
    skipped: int
    empty: int
    repeated: int
    revision: str | None


def load_examples(name: str, task: GlueTask, split: str, data_dir: str | None) -> Examples:
    """Load a split, `train` or one of `task.dev`, from a folder or else from the hub.

    `$ZOO_DATA` is searched too. A folder holds `<task>/<split>.tsv`, `glue/<task>/<split>.tsv` or
    `<split>.tsv`.

    Raises:
        UserError: if the folder has no such file, the file is broken, or the hub cannot be reached.
    """
    for folder in data_folders(data_dir):
        for parts in ((task.folder,), ("glue", task.folder), ()):
            if (path := folder.joinpath(*parts, f"{split}.tsv")).is_file():
                return read_tsv(path, task)
    if data_dir is not None:
        raise UserError(
            f"no {task.folder}/{split}.tsv in data folder {data_dir!r}: give GLUE's own as "
            "--data.data_dir"
        )
    return from_hub(name, task, split)


def read_tsv(path: Path, task: GlueTask) -> Examples:
    """Read an official file.

    It is UTF-8 with one example a line and fields between tabs; a quote is a character like any
    other.

    Columns go by their names. Where the official file has broken lines, those of more or fewer
    fields than there are columns are left out and counted; elsewhere they are refused, as texts are
    that are empty.

    Raises:
        UserError: if it is no text, lacks a column or has it twice, has no rows, or a row has
            fields too many or too few, an empty text or a wrong label; naming the line.
    """
    lines = _lines(path)
    rows = [
        (number, line.removesuffix("\r").split("\t"))
        for number, line in lines
        if "\t" in line or line.strip()
    ]
    header = list(task.columns) or (rows.pop(0)[1] if rows else [])
    wanted = (*task.texts, task.label)
    for column in wanted:
        if (count := header.count(column)) != 1:
            have = ", ".join(header)[:200] or "none"
            fault = f"has no column {column!r}, it has {have}"
            if count:
                fault = f"has the column {column!r} {count} times"
            raise UserError(f"'{path}' {fault}: give GLUE's own")
    places = [header.index(column) for column in wanted]
    whole = [(number, row) for number, row in rows if len(row) == len(header)]
    if len(whole) < len(rows) and not task.ragged:
        number, row = next((number, row) for number, row in rows if len(row) != len(header))
        raise UserError(
            f"'{path}', line {number}: {len(row)} fields instead of {len(header)}; correct that "
            "line"
        )
    if not whole:
        raise UserError(f"'{path}' has no rows: give GLUE's own")
    for number, row in () if task.ragged else whole:
        for column in task.texts:
            if not row[header.index(column)].strip():
                raise UserError(f"'{path}', line {number}: {column!r} is empty; correct that line")
    texts = [tuple(row[i] for i in places[:-1]) for _, row in whole]
    labels = [_number(row[places[-1]], task, f"'{path}', line {number}") for number, row in whole]
    return Examples(texts, labels, len(rows) - len(whole))


def _lines(path: Path) -> list[tuple[int, str]]:
    """Read the lines of a UTF-8 text, numbered from 1, without a byte-order mark."""
    with opened(path) as file:
        content = file.read()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"'{path}' is UTF-16 and no UTF-8 text: give GLUE's own")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"'{path}' is no UTF-8 text ({error}): give GLUE's own") from None
    numbered = list(enumerate(text.split("\n"), 1))  # str.splitlines cuts at more than line ends
    if b"\0" in content:
        number = next(number for number, line in numbered if "\0" in line)
        raise UserError(
            f"'{path}', line {number}: a NUL byte, which is in no text; correct that line"
        )
    return numbered


def _number(label: str, task: GlueTask, where: str) -> float:
    """Read a label, by name or number; a regression's is any number in its range."""
    label = label.strip()
    if label in task.labels:
        return task.labels.index(label)
    pattern = CLASS_NUMBER if task.labels else SCORE
    if re.fullmatch(pattern, label, re.I):
        return _in_range(float(label), task, where)
    raise _wrong_label(label, task, where)


def _in_range(label: float, task: GlueTask, where: str) -> float:
    """Check a label: a whole number below the number of classes, or a score."""
    if math.isfinite(label):
        if not task.labels and 0 <= label <= task.largest:
            return label
        if task.labels and label in range(len(task.labels)):
            return int(label)
    raise _wrong_label(f"{label:.9g}", task, where)


def _wrong_label(label: str, task: GlueTask, where: str) -> UserError:
    classes = " or ".join((*task.labels, *map(str, range(len(task.labels)))))
    legal = classes or f"a number from 0 to {task.largest:g}"
    return UserError(f"{where}: label must be {legal}, got {label[:80]!r}; correct it")


def from_hub(name: str, task: GlueTask, split: str) -> Examples:
    """Load a split from the hub, or from the cache of an earlier download.

    Raises:
        UserError: if it is in neither, or has an example without a text or with a label that its
            task has not.
    """
    datasets = library("datasets")

    def load(local: bool) -> object:
        # DownloadConfig(local_files_only=True) asks the hub all the same.
        datasets.config.HF_HUB_OFFLINE = local
        return datasets.load_dataset(HUB, name, split=split.replace("dev", "validation"))

    data = fetch(HUB, f"the data of {name} in", "--data.data_dir", load)
    texts = list(zip(*(data[column] for column in task.hub or task.texts), strict=True))
    labels = []
    for i, (each, label) in enumerate(zip(texts, data["label"], strict=True)):
        where = f"example {i} of {split} of {name} in {HUB!r}"
        if not all(isinstance(text, str) for text in each) or isinstance(label, str | None):
            raise UserError(
                f"{where}: {each} and {label!r} are no texts and a label; give --data.data_dir"
            )
        labels.append(_in_range(label, task, where))
    return Examples(texts, labels, revision=getattr(data, "_fingerprint", None))
