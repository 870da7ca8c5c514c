"""The page of `zoo coordinates`."""

from zoo.pages.data import Data, unique
from zoo.pages.html import Drawings, render
from zoo.pages.table import Table
from zoo.studies.coordinates.rebuild import PATHS
from zoo.studies.coordinates.sizes import FLAT
from zoo.studies.coordinates.tables import WHOLE, errors_table, slopes_table


def coordinates_page(report: Data, drawings: Drawings) -> str:
    """Return a coordinates.json as a page: exponents, figures, and errors of rebuilt matrices.

    Args:
        report: as coordinates.json holds it.
        drawings: of `zoo.studies.coordinates.figures.coordinates_figures`.
    """
    return render(
        "studies/coordinates/page.html.j2",
        "How sizes grow with the network",
        report,
        exponents={
            along: _exponents(report, along)
            for along in ("width", "depth")
            if len(report[f"{along}s"]) > 1
        },
        flat=FLAT,
        drawings=drawings,
        paths=PATHS,
        errors=errors_table(report),
    )


def _exponents(report: Data, along: str) -> list[Table]:
    """Return the exponents of all layers, and then those of each kind."""
    sizes, at = report[f"{along}s"], report["at"]
    where = f"{at['depth']} blocks" if along == "width" else f"width {at['width']}"
    caption = f"In {along}, {sizes[0]} to {sizes[-1]}, at {where}"
    groups = unique(row["group"] for row in report["slopes"] if row["along"] == along)
    kinds = [group for group in groups if group not in WHOLE]
    return [
        slopes_table(report, along, WHOLE, caption),
        *(slopes_table(report, along, [kind], kind) for kind in kinds),
    ]
