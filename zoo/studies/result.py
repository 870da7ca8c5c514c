"""What a study found: its tables as data frames, its figures, its page, and files of all of it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from zoo.errors import as_arguments, option, options_called
from zoo.studies.folder import check_out, is_ours

if TYPE_CHECKING:
    from zoo.pages.html import Drawings
    from zoo.pages.notebook import Figures
    from zoo.pages.style import Figure


class Result(ABC):
    """What a study found, for a command, a notebook and files alike.

    `print(result)` says what the command says in a terminal, and a notebook shows the tables and
    figures of the command's page. Tables are attributes, made when they are asked for.

    Args:
        data: what the JSON file of the study holds.
    """

    file: ClassVar[str]
    """What the JSON file and the page are called, without a suffix."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data

    # ---- A subclass defines ----------------------------------------------------------------------

    @abstractmethod
    def __str__(self) -> str:
        """Return what the command prints."""

    @abstractmethod
    def _draw(self) -> "Mapping[str, Figure]":
        """Draw all figures, by name."""

    @abstractmethod
    def _page(self, data: dict[str, Any], drawings: "Drawings", layout: str) -> str:
        """Return the page, or a part of one, of data that JSON can hold.

        Args:
            data: of this result.
            drawings: the figures as SVG.
            layout: the template that the page's content is put into.
        """

    def _write_more(self, part: Path) -> list[Path]:
        """Write files besides the data, the page and the figures; returns them."""
        return []

    # ---- Concrete --------------------------------------------------------------------------------

    @cached_property
    def figures(self) -> "Figures":
        """The figures by name, as matplotlib has them; no pyplot knows of them.

        A notebook shows them all; one of them, and its methods, are matplotlib's own:
        `result.figures["k90_by_task"].savefig("k90.pdf")`.
        """
        from zoo.pages.notebook import Figures

        return Figures(self._draw())

    def save(self, folder: str | PathLike[str], force: bool = False) -> Path:
        """Write what the command writes to `--out`: the data, a page, and figures as PNG and SVG.

        Args:
            folder: a new one.
            force: replace an earlier report in it.

        Returns:
            The folder.

        Raises:
            UserError: if it holds anything else, or cannot be written.
        """
        with as_arguments(), options_called({"out": "folder"}):
            return self.write(check_out(folder, self.file, force))

    def write(self, folder: Path) -> Path:
        """Write all files into a folder that `check_out` has found fit, or none."""
        from zoo.files.access import new_folder

        ours = is_ours(folder, self.file)
        with new_folder(folder, option("out"), ours, force=True) as part:
            self.write_into(part)
        return folder

    def write_into(self, part: Path, more: Sequence[Path] = ()) -> None:
        """Write all files into a folder that is there.

        Args:
            part: the folder.
            more: files that are in it already, and belong to the report.
        """
        from zoo.pages.html import PAGE
        from zoo.pages.page import write_report

        def page(data: dict[str, Any], drawings: "Drawings") -> str:
            return self._page(data, drawings, PAGE)

        more = [*more, *self._write_more(part)]
        write_report(part, self.file, self.data, self.figures, page, more)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the page as a part of another one."""
        from zoo.pages.notebook import LAYOUT, own_ids
        from zoo.pages.page import finite

        return self._page(finite(self.data), own_ids(self.figures), LAYOUT)
