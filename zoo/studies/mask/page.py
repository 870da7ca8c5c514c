"""The page of `zoo mask`."""

from collections.abc import Sequence

import numpy as np

from zoo.pages.markup import Html, details, document, element, paragraph, section, table
from zoo.pages.page import Drawings, captioned, decimals, footer, p_value, plus_minus
from zoo.pages.style import Data, human_bytes, number, runs_of
from zoo.studies.verdicts import LEVEL

CAPTIONS = {
    "score_by_budget": "Score of the network with masked updates against the share of coefficients that is kept; bands "
    "are the standard deviation over runs. A filled marker differs from the unmasked network (paired t-test over runs, "
    "Holm-corrected p < 0.05); an open one does not, or there were too few runs to tell.",
    "score_by_budget_all": "All groups at once: the masked score as a share of the unmasked one. Groups whose unmasked "
    "score is not above 0 are left out.",
    "energy_by_budget": "Share of the squared norm of dW that is left after masking, mean over runs.",
    "bytes_by_score": "What a masked update takes on disk, values and their places together, and what it scores. A "
    "mask pays only to the left of the dotted line: that is the update as it was trained.",
}
MASKS = (
    "Of each matrix by itself, the given share of the coefficients of its update is kept and the others are set to 0; "
    "the update is rebuilt, and the network evaluated in float32 on the validation data. Nothing is trained again."
)
ORDERS = {
    "magnitude": "the largest coefficients of each matrix.",
    "frequency": "those of the lowest frequencies.",
    "random": "drawn from a seed, and scores are means over draws, of which there are",
}


def mask_page(mask: Data, drawings: Drawings) -> str:
    """A mask.json as a page: how masks are chosen, figures, scores with their tests, and bytes on disk.

    Args:
        mask: as mask.json holds it.
        drawings: of `zoo.studies.mask.figures.mask_figures`.
    """
    orders = [
        element(
            "li",
            element("strong", order),
            " ",
            ORDERS.get(order, ""),
            f" {mask['draws']}." * (order == "random"),
        )
        for order in mask["orders"]
    ]
    runs = [f"{run['name']}: {run['what']} of {run['path']}" for run in mask["runs"]]
    return document(
        f"How far {'an update' if len(runs) == 1 else f'{len(runs)} updates'} can be cut down",
        mask,
        section(
            "What was masked",
            paragraph(MASKS, f"Transforms: {', '.join(mask['transforms'])}. Kept are, by order:"),
            element("ul", *orders),
            details(f"Runs: {len(runs)}", element("ul", *(element("li", run) for run in runs))),
        ),
        section("Figures", *captioned(drawings, CAPTIONS)),
        section(
            "Scores",
            paragraph(
                "± is the standard deviation over runs. t and p are of a paired t-test against the unmasked network over "
                "the runs of a group; Holm p is corrected for all masks of the group. A dash: one run, or no difference."
            ),
            *(_score_tables(group, mask) for group in mask["groups"]),
        ),
        section(
            "Bytes on disk",
            paragraph(
                "All numbers are float32, 4 bytes each. A masked update needs its values and the places that they go to, "
                "here in the cheapest of several encodings; means over the runs of a group. A file of --save has the head, "
                "names and the run's config as well."
            ),
            *(_bytes_tables(group, mask) for group in mask["groups"]),
        ),
        footer("mask"),
    )


def _score_tables(group: Data, mask: Data) -> Html:
    """A table for each transform."""
    unmasked = plus_minus(group["unmasked"]["mean"], group["unmasked"]["sd"], 4)
    about = f"{_metric(group)}, {group['better']} is better; unmasked {unmasked} over {_count(group['n'], 'run')}."
    own = [run["reported"] for run in runs_of(mask, group)]
    if None not in own:
        about += f" As they trained, in the precision of training: {', '.join(decimals(o, 4) for o in own)}."
    tables = []
    for transform in mask["transforms"]:
        rows = []
        for point in _points(group, transform, mask["orders"]):
            p = p_value(point["p_holm"])
            marked = (
                element("strong", p)
                if point["p_holm"] is not None and point["p_holm"] < LEVEL
                else p
            )
            rows.append(
                [
                    point["order"],
                    f"{point['budget']:g} %",
                    plus_minus(point["mean"], point["sd"], 4),
                    decimals(point["difference"], 4),
                    decimals(point["t"], 2),
                    p_value(point["p"]),
                    marked,
                ]
            )
        headers = ["Order", "Kept", _metric(group), "Difference", "t", "p", "Holm p"]
        tables.append(table(headers, rows, 1, transform))
    return element("div", element("h3", group["group"]), paragraph(about), *tables)


def _bytes_tables(group: Data, mask: Data) -> Html:
    runs = runs_of(mask, group)
    dense, trained, other = (
        _mean([run["bytes"][key] for run in runs]) for key in ("dense", "trained", "other")
    )
    about = (
        f"Dense dW {_bytes(dense)}; the update as it was trained {_bytes(trained)}; besides, the head and the like "
        f"{_bytes(other)}, which no mask changes."
    )
    tables = []
    for transform in mask["transforms"]:
        rows = []
        for same in zip(*(_points(run, transform, mask["orders"]) for run in runs), strict=True):
            values, places = (
                _mean([point["bytes"][key] for point in same]) for key in ("values", "places")
            )
            files = [point["bytes"]["file"] for point in same if point["bytes"]["file"]]
            rows.append(
                [
                    same[0]["order"],
                    f"{same[0]['budget']:g} %",
                    f"{values:,.0f}",
                    f"{places:,.0f}",
                    ", ".join(dict.fromkeys(point["bytes"]["encoding"] for point in same)),
                    human_bytes(values + places),
                    f"{_mean(files):,.0f}" if files else "–",
                    _times(values + places, dense, 3),
                    _times(values + places, trained, 2),
                ]
            )
        headers = [
            "Order",
            "Kept",
            "Values (B)",
            "Places (B)",
            "Encoding",
            "Together",
            "File (B)",
            "Times dense",
            "Times trained",
        ]
        tables.append(table(headers, rows, 1, transform))
    return element("div", element("h3", group["group"]), paragraph(about), *tables)


def _points(data: Data, transform: str, orders: Sequence[str]) -> list[Data]:
    """Of a group or a run, by order and budget."""
    own = [point for point in data["points"] if point["transform"] == transform]
    return sorted(own, key=lambda point: (orders.index(point["order"]), point["budget"]))


def _metric(group: Data) -> str:
    return group["metric"] or "score"


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def _mean(values: Sequence[float | None]) -> float:
    return float(np.mean([number(value) for value in values]))


def _bytes(count: float) -> str:
    return f"{count:,.0f} bytes"


def _times(size: float, other: float, digits: int) -> str:
    return decimals(size / other if other else None, digits)
