"""The page of `zoo report`."""

from zoo.pages.markup import Html, details, document, element, paragraph, section, table
from zoo.pages.page import Drawings, captioned, decimals, footer, over
from zoo.pages.style import Data, unique
from zoo.studies.report.figures import suffixes
from zoo.studies.report.tables import (
    Cell,
    answers,
    columns,
    legend,
    notes,
    number_of,
    ordered,
    plain,
    search,
    settings,
)

CAPTIONS = {
    "loss_by_parameters": "Mean over seeds with its 95 % interval; the dashed line and band are the reference. Lines "
    "join the budgets of a family. Families of one budget stand side by side around its tick, so that they can be told "
    "apart; counts are in the table. An interval that leaves the axis goes on.",
    "gaps": "Mean difference to the reference over the seeds that both have. An interval that leaves out 0 is a "
    "difference; a filled marker is one that the test finds equivalent, within the band; an open marker on the band "
    "is neither shown: more seeds would tell.",
    "loss_by_stable_rank": "One point for each reported run. If a line falls from left to right, budgets and methods "
    "that keep a higher stable rank reach a lower loss (a score: if it rises); points far from it say that rank is "
    "not all.",
    "rank_over_training": "Mean over seeds of the stable rank, as it was logged; bands are the standard deviation. The "
    "reference is in every panel. A line that falls to that of a low-rank method is a collapse.",
    "loss_over_training": "Mean over seeds of the validation metric, from the last 70 % of the training; bands are the "
    "standard deviation. The reference is in every panel.",
    "rate_sensitivity": "Every run of the search, lines through the mean at each rate; a ring marks the rate that was "
    "chosen. A ring at the end of its line says that the search was too narrow, and a flat line that the rate matters "
    "little.",
}
STATISTICS = (
    "± is the standard deviation over seeds. A 95 % interval is Student's, over seeds: with few it is wide, and with "
    "one there is none. It covers the seeds, not other data, sizes or schedules.",
    "A gap is the mean of a method's runs minus the reference's, pair by pair: runs of one seed see the same data in "
    "the same order, so that this noise cancels. Its p is of a paired t-test, and not corrected for the number of "
    "methods.",
    "That a difference is not significant does not make two methods equal. Equivalence is a test of its own: two "
    "one-sided paired t-tests (TOST; Schuirmann 1987) that the gap is above −{margin} and below +{margin}; p is the "
    "larger of the two. “Not shown” means that the seeds do not settle it, or that the gap is larger.",
    "Late sd is how much the metric of one run still moves at the end: its standard deviation over the validations of "
    "the last epoch, or the last three, mean over runs. A gap below it says little.",
)
PAPER = "Training Transformers in Cosine Coefficient Space, arXiv 2604.04440"
MANY = 10
"""Learning rates that a table has a column for each of."""


def page(data: Data, drawings: Drawings) -> str:
    """Report data as a page: for each comparison what was run, the table, the search and figures; then all runs.

    Args:
        data: of `zoo report`.
        drawings: of `zoo.studies.report.figures.figures`.
    """
    comparisons = data["comparisons"]
    count = number_of(len(unique(m["method"] for c in comparisons for m in c["methods"])), "method")
    parts = [
        _comparison(
            data, comparison, {name: svg for name, svg in drawings.items() if name.endswith(suffix)}
        )
        for comparison, suffix in zip(comparisons, suffixes(data), strict=True)
    ]
    margin = f"{data['margin']:g}" if data["margin"] is not None else "the margin"
    return document(
        f"{count} compared" if count != "1 method" else "Report of 1 method",
        data,
        _overview(data),
        *parts,
        section(
            "How to read the numbers",
            *(paragraph(text.format(margin=margin)) for text in STATISTICS),
        ),
        footer("report", PAPER),
    )


def _overview(data: Data) -> Html:
    """What holds for all comparisons, and the runs that are in none."""
    parts = []
    if len(data["comparisons"]) > 1:
        names = [element("li", comparison["name"]) for comparison in data["comparisons"]]
        parts += [
            paragraph(
                f"The runs are of {len(names)} kinds, which differ in task, data, network, steps or the like. Nothing is "
                "averaged or compared across them."
            ),
            element("ul", *names),
        ]
    if data["skipped"]:
        left = [
            element("li", element("code", skipped["path"]), f": {skipped['why']}")
            for skipped in data["skipped"]
        ]
        summary = f"Skipped: {number_of(len(left), 'folder')}"
        parts.append(
            details(summary, element("ul", *left))
            if len(left) > 5
            else element("div", element("h3", summary), element("ul", *left))
        )
    return element("div", *parts) if parts else Html("")


def _comparison(data: Data, comparison: Data, drawings: Drawings) -> Html:
    headers, rows = columns(comparison, data["level"])
    found = notes(comparison)
    return section(
        comparison["name"],
        paragraph(f"{settings(comparison)}."),
        element("ul", *(element("li", answer) for answer in answers(data, comparison))),
        table(headers, [[_cell(cell) for cell in row] for row in rows]),
        paragraph(_sentence(legend(data, comparison)), css="facts"),
        element("ul", *(element("li", note) for note in found)) if found else "",
        element("h3", "The search"),
        paragraph(search(comparison)),
        _search_table(comparison),
        element("h3", "Figures"),
        *captioned(drawings, CAPTIONS),
        _runs(comparison),
    )


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def _cell(cell: Cell) -> Html:
    value: object = cell.value
    if value in ("yes", "not shown"):
        value = element("span", value, css="word yes" if value == "yes" else "word")
    return over(element("strong", value) if cell.strong else value, *cell.below)


def _search_table(comparison: Data) -> Html:
    """The mean of the search at each learning rate, or where they are too many, each run of it."""
    methods = [method for method in ordered(comparison) if method["search"]]
    rates = sorted({found["lr"] for method in methods for found in method["search"]})
    if not methods:
        return Html("")
    rows: list[list[object]] = []
    for method in methods:
        own = {
            rate: [found["value"] for found in method["search"] if found["lr"] == rate]
            for rate in rates
        }
        cells = {
            rate: _mean_cell(values, rate == method["lr"]) for rate, values in own.items() if values
        }
        tried = number_of(len(method["search"]), "run")
        if len(rates) > MANY:
            words = [
                part for rate, cell in cells.items() for part in (f"{plain(rate)}: ", cell, "; ")
            ][:-1]
            rows.append([method["method"], element("span", *words), tried])
        else:
            rows.append([method["method"], *(cells.get(rate, "–") for rate in rates), tried])
    many = len(rates) > MANY
    headers = [
        "Method",
        *(["Rate: " + comparison["metric"]] if many else map(plain, rates)),
        "Tried",
    ]
    caption = f"{comparison['metric'].capitalize()} by learning rate; bold: chosen"
    whole = table(headers, rows, 2 if many else 1, caption)
    return whole if len(rows) <= 8 else details(f"The search of {len(rows)} methods", whole)


def _mean_cell(values: list[float | None], chosen: bool) -> Html:
    known = [value for value in values if value is not None]
    words = decimals(sum(known) / len(known), 4) if known else "none"
    return element("strong" if chosen else "span", words)


def _runs(comparison: Data) -> Html:
    """All runs, folded away."""
    rows = [
        [
            run["path"],
            run["method"],
            plain(run["lr"]),
            run["seed"],
            decimals(run["value"], 4),
            decimals(run["stable_rank"], 2),
            decimals(run["terminal_sd"], 4),
            "search" if run["searched"] else "",
            run["device"],
            (run["date"] or "–")[:10],
            element("code", run["command"] or "–"),
        ]
        for run in comparison["runs"]
    ]
    headers = [
        "Run",
        "Method",
        "Rate",
        "Seed",
        comparison["metric"].capitalize(),
        "Stable rank",
        "Late sd",
        "",
        "Device",
        "Date",
        "Command",
    ]
    return details(f"Runs: {len(rows)}", table(headers, rows, 2))
