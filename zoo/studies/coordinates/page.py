"""The page of `zoo coordinates`."""

from zoo.pages.markup import Html, details, document, element, paragraph, section, table
from zoo.pages.page import Drawings, captioned, plus_minus
from zoo.pages.style import Data
from zoo.studies.coordinates.rebuild import PATHS
from zoo.studies.coordinates.sizes import BLOCKS, FLAT, LAYERS, LOGITS, MEASURES

CAPTIONS = {
    "by_width": "Root-mean-square over entries against width, after the last step; outputs also before the first. The "
    "geometric mean over layers and seeds. Spectral: the most that the update adds to an output's rms, for an input of "
    "rms 1. Every axis spans a decade at least.",
    "by_depth": "The same against the number of blocks.",
    "coordinate_check": "How far outputs on one batch have moved since step 0, a line per step. Lines that rise with "
    "width say that the same learning rate does more to a wider network, and must be lowered for it.",
    "rebuild_error": "Relative error of a square W in Frobenius' norm, against the same coefficients in float64. The "
    "dashed line is what rounding normal numbers to bfloat16 costs by itself.",
}
HOW = (
    "Each network is trained for a few steps at a constant rate by the trainer of zoo fit. W is the matrix that a "
    "layer multiplies by, whatever its coefficients, so that parameterizations compare; the gradient is that of W, the "
    "coef. gradient that of what is trained, both at initialisation. Outputs are those on the first batch, at every "
    "step; the stream is what blocks put out."
)
READING = (
    f"Exponents: the slope of log size against log width or depth, with the standard error of the fit. Flat is one "
    f"within {FLAT:g} of 0."
)
WORDS = {"grows": "some", "flat": "", "shrinks": "yes"}


def coordinates_page(report: Data, drawings: Drawings) -> str:
    """A coordinates.json as a page: exponents, figures, and errors of rebuilt matrices.

    Args:
        report: as coordinates.json holds it.
        drawings: of `zoo.studies.coordinates.figures.coordinates_figures`.
    """
    setup = (
        f"{report['task']} on {report['data']}; {report['optimizer']['name']} at rate {report['lr']:g}, "
        f"{report['steps']} steps, {report['precision']}; seeds: {report['seeds']}; "
        f"ratio {report['ratio']:g} where it is taken."
    )
    along = [
        each
        for each, sizes in (("width", report["widths"]), ("depth", report["depths"]))
        if len(sizes) > 1
    ]
    rebuilt = [
        [
            row["parameterization"],
            f"{row['size']:,}",
            *("–" if row[path] is None else f"{row[path]:.2e}" for path in PATHS),
        ]
        for row in report["rebuild"]
    ]
    paths = [element("li", element("strong", name), " ", words) for name, words in PATHS.items()]
    errors = (
        section(
            "Rebuilt matrices",
            paragraph("Relative errors, by how W is built:"),
            element("ul", *paths),
            table(["", "Size", *PATHS], rebuilt),
        )
        if rebuilt
        else Html("")
    )
    return document(
        "How sizes grow with the network",
        report,
        section(
            "Exponents",
            paragraph(HOW),
            paragraph(setup),
            paragraph(READING),
            *(_exponents(report, each) for each in along),
        ),
        section("Figures", *captioned(drawings, CAPTIONS)),
        errors,
        element(
            "footer",
            "All numbers are in coordinates.json; each layer and step in coordinates.csv, rebuilt "
            "matrices in rebuild.csv; the figures as PNG and SVG in figures/. The check is that of Yang et al., "
            "arXiv 2203.03466, appendix D.1.",
        ),
    )


def _exponents(report: Data, along: str) -> Html:
    """Of all layers, and folded away those of each kind."""
    sizes, at = report[f"{along}s"], report["at"]
    where = f"{at['depth']} blocks" if along == "width" else f"width {at['width']}"
    own = [row for row in report["slopes"] if row["along"] == along]
    kinds = [
        group
        for group in dict.fromkeys(row["group"] for row in own)
        if group not in (LAYERS, BLOCKS, LOGITS)
    ]
    return element(
        "div",
        _table(
            report,
            own,
            (LAYERS, BLOCKS, LOGITS),
            f"In {along}, {sizes[0]} to {sizes[-1]}, at {where}",
        ),
        details(
            f"By kind of layer, in {along}", *(_table(report, own, (kind,), kind) for kind in kinds)
        ),
    )


def _table(report: Data, rows: list[Data], groups: tuple[str, ...], caption: str) -> Html:
    names = report["parameterizations"]
    found = {
        (row["parameterization"], row["measure"]): row for row in rows if row["group"] in groups
    }
    lines = [
        [measure.label, *(_cell(found[name, measure.label]) for name in names)]
        for measure in MEASURES
        if (names[0], measure.label) in found
    ]
    return table(["", *names], lines, 1, caption)


def _cell(row: Data) -> Html:
    word = element("span", row["reading"], css=f"word {WORDS.get(row['reading'], '')}")
    return Html(f"{plus_minus(row['slope'], row['error'], 2)} {word}")
