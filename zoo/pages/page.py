"""The files of a report: its data as JSON, a page, which shows what is in that, and figures."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from zoo.files.access import write_text
from zoo.pages.data import Data
from zoo.pages.html import Drawings
from zoo.pages.style import Figure, save


def finite(value: Any) -> Any:
    """Return plain data in which null stands for every number that JSON lacks."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_report(
    folder: Path,
    name: str,
    data: Data,
    figures: Mapping[str, Figure],
    page: Callable[[Data, Drawings], str],
    more: Iterable[Path] = (),
) -> list[Path]:
    """Write a report: <name>.json, <name>.html, and figures as PNG and SVG in figures/.

    The JSON file names all of its files, so that nothing else is ever taken for one of them.

    Args:
        folder: that exists.
        name: of the data and the page.
        data: of the JSON file.
        figures: by name.
        page: makes the page of data and drawings.
        more: files that are written already.

    Returns:
        The files.
    """
    plain = finite(data)
    (folder / "figures").mkdir(exist_ok=True)
    drawings = {key: save(figure, folder / "figures" / key) for key, figure in figures.items()}
    write_text(folder / f"{name}.html", page(plain, drawings))
    images = [folder / "figures" / f"{key}.{form}" for key in figures for form in ("png", "svg")]
    files = [folder / f"{name}.json", folder / f"{name}.html", *images, *more]
    listed = {"files": sorted(file.relative_to(folder).as_posix() for file in files)}
    write_text(folder / f"{name}.json", json.dumps({**plain, **listed}, allow_nan=False) + "\n")
    return files
