"""A census for Python: data frames, figures and the page of what many adapters have in common."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.files.access import write_text
from zoo.pages.texts import csv_text, lines
from zoo.studies.journal import ADAPTERS
from zoo.studies.result import Result

if TYPE_CHECKING:
    import pandas as pd

    from zoo.pages.html import Drawings
    from zoo.pages.style import Figure


class Census(Result):
    """What is in many adapters, each beside its own null.

    Measures are those of `zoo.studies.spectra.MEASURE_LABELS`; `null`, `z` and `p` are of the
    rotation null;
    `draws` says of how many draws these are, and `q` is p under control of the false discovery rate
    over all adapters.
    """

    file = "census"

    def __str__(self) -> str:
        from zoo.studies.census.terminal import printed

        return lines(printed(self.data))

    def __repr__(self) -> str:
        return f"<Census of {len(self.data['adapters'])} adapters>"

    @cached_property
    def adapters(self) -> "pd.DataFrame":
        """What became of each adapter that was asked for, and its means over matrices."""
        from zoo.studies.census import frames

        return frames.adapters(self.data)

    @cached_property
    def matrices(self) -> "pd.DataFrame":
        """Shape, ranks and measures of each matrix."""
        from zoo.studies.census import frames

        return frames.matrices(self.data)

    def _draw(self) -> "Mapping[str, Figure]":
        from zoo.studies.census.figures import census_figures

        return census_figures(self.data)

    def _page(self, data: dict[str, Any], drawings: "Drawings", layout: str) -> str:
        from zoo.studies.census.page import census_page

        return census_page(data, drawings, layout)

    def write(self, folder: Path) -> Path:
        """Write all files, and keep the journal, with which a longer list goes on."""
        journal = folder / ADAPTERS
        self._kept = journal.read_bytes() if journal.is_file() else b""
        return super().write(folder)

    def _write_more(self, part: Path) -> list[Path]:
        files = {"census.csv": self.matrices, "adapters.csv": self.adapters}
        for name, table in files.items():
            rows = table.astype(object).where(table.notna(), "").to_dict("records")
            write_text(part / name, csv_text(list(table), rows))
        (part / ADAPTERS).write_bytes(self._kept)
        return [*(part / name for name in files), part / ADAPTERS]
