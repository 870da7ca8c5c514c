"""What the pages of `zoo analyze` and `zoo mask` share, and the files of a report: a page shows what is in its JSON."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from zoo.files.access import write_text
from zoo.pages.markup import Html, drawing, element, text
from zoo.pages.style import Data, Figure, save

Drawings = Mapping[str, bytes]
"""SVG by the name of the figure."""


def decimals(value: float | None, digits: int = 3) -> str:
    """A number with so many decimals; a dash if there is none."""
    return (
        "–"
        if value is None or not math.isfinite(value)
        else f"{value:.{digits}f}".replace("-", "−")
    )


def plus_minus(mean: float | None, sd: float | None, digits: int = 3) -> str:
    """A mean, and its standard deviation if there is one."""
    return decimals(mean, digits) + ("" if sd is None else f" ± {decimals(sd, digits)}")


def p_value(p: float | None) -> str:
    """As it stands in a table."""
    return "< 0.0001" if p is not None and p < 1e-4 else decimals(p, 4)


def over(value: object, *others: object) -> Html:
    """A value over those that it is compared with, such as that of its null."""
    return Html("<br>".join([text(value), *(element("small", other) for other in others)]))


def captioned(drawings: Drawings, captions: Mapping[str, str]) -> list[Html]:
    """Each with the caption whose name its own begins with; of several with one caption, the first has it."""
    left, found = dict(captions), []
    for name, svg in drawings.items():
        key = max((key for key in captions if name.startswith(key)), key=len, default="")
        found.append(drawing(name, svg, left.pop(key, "")))
    return found


def footer(name: str, paper: str = "SpectralLoRA, arXiv 2604.10649") -> Html:
    """Where the numbers are, and whose questions they answer."""
    return element(
        "footer",
        f"All numbers are in {name}.json, the figures as PNG and SVG in figures/. The questions are those of "
        f"{paper}.",
    )


def finite(value: Any) -> Any:
    """Plain data in which null stands for every number that JSON lacks."""
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
