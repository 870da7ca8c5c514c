"""The pages of `zoo analyze` and `zoo mask`, and the files of a report: what a page shows is in its JSON as well."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from zoo.lab.markup import Html, details, document, drawing, element, paragraph, section, table, text
from zoo.lab.style import Data, Figure, human_bytes, number, runs_of, save
from zoo.lab.verdicts import in_words

Drawings = Mapping[str, bytes]
"""SVG by the name of the figure."""

MEASURES = {
    "k50": "k50", "k90": "k90", "k99": "k99",
    "k50_frequency": "k50, lowest first", "k90_frequency": "k90, lowest first", "k99_frequency": "k99, lowest first",
    "low_10": "energy in lowest 10 %", "low_25": "energy in lowest 25 %", "low_50": "energy in lowest 50 %",
}
RANKS = {"stable_rank": "stable rank", "effective_rank": "effective rank", "numerical_rank": "numerical rank"}
PAIRS = {
    "energies": "energies σ², largest coefficients²", "k90_stable_rank": "k90, stable rank",
    "k90_effective_rank": "k90, effective rank", "k90_block": "k90, block",
}
CAPTIONS = {
    "k90_by_task": "k90 of each group, averaged over its matrices; bars are the standard deviation over runs. The grey "
    "line is what the singular values alone give, with the standard deviation over draws of the null. A marker on its "
    "line says that there is nothing to explain; one to the left of it, that energy is concentrated in fewer "
    "coefficients than the singular values force.",
    "cumulative_energy": "Above, the share of the energy that the largest coefficients hold, a line for each block. "
    "Below, the same minus the null of each matrix: a line at 0 is no structure, one above it is energy concentrated "
    "beyond the null.",
    "k90_heatmap": "Left, k90 of each matrix, mean over runs. Right, the same minus its own rotation null: blue is "
    "below the null, energy in fewer coefficients than the singular values force, and white is at the null.",
    "singular_values": "Singular values of each matrix over its Frobenius norm, beside a Gaussian matrix of the same "
    "shape, rank and norm. A line that falls faster is of lower effective rank; this is what the null keeps.",
    "rank_against_loss": "One point for each run. Losses of different tasks do not compare, so that each has its own "
    "panel.",
    "score_by_budget": "Score of the network with masked updates against the share of coefficients that is kept; bands "
    "are the standard deviation over runs. A filled marker differs from the unmasked network (paired t-test over runs, "
    "Holm-corrected p < 0.05); an open one does not, or there were too few runs to tell.",
    "score_by_budget_all": "All groups at once: the masked score as a share of the unmasked one. Groups whose unmasked "
    "score is not above 0 are left out.",
    "energy_by_budget": "Share of the squared norm of dW that is left after masking, mean over runs.",
    "bytes_by_score": "What a masked update takes on disk, values and their places together, and what it scores. A "
    "mask pays only to the left of the dotted line: that is the update as it was trained.",
}
K90 = (
    "k90 is the share of a matrix's coefficients, largest first, that holds 90 % of its energy, the sum of their "
    "squares; k50 and k99 likewise. “Lowest first” takes the coefficients by frequency instead, and “energy in lowest "
    "25 %” is what the lowest quarter of the frequencies holds."
)
NULL = (
    "The rotation null has the same singular values between Haar-random singular vectors. It is what the singular "
    "values force by themselves: only a difference from it is structure of the singular vectors."
)
CORRELATION = (
    "The first pair, within each matrix and averaged over matrices: the energies σᵢ² of its singular values, i up to "
    "the numerical rank, with as many of its largest squared coefficients, both sorted. Other pairs: across matrices. "
    "Brackets are 95 % bootstrap intervals over matrices, and “null” is the same of matrices with the same singular "
    "values between random singular vectors. Spearman of two sorted lists is 1 by construction and says nothing; a "
    "Pearson as high as its null comes from sorting, not from training."
)
SHUFFLED = (
    "Below that is the value of the same matrix with rows and columns shuffled. Frequencies lie in their order, which "
    "that destroys, and the rest stays, such as a few large entries: what differs from the null as much after it is "
    "structure, but not of frequency."
)
MASKS = (
    "Of each matrix by itself, the given share of the coefficients of its update is kept and the others are set to 0; "
    "the update is rebuilt, and the network evaluated on the validation data. Nothing is trained again."
)
ORDERS = {
    "magnitude": "the largest coefficients of each matrix.",
    "frequency": "those of the lowest frequencies.",
    "random": "drawn from a seed; the mean of several draws.",
}


# ---- Numbers ---------------------------------------------------------------------------------------------------------


def decimals(value: float | None, digits: int = 3) -> str:
    """A number with so many decimals; a dash if there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}".replace("-", "−")


def plus_minus(mean: float | None, sd: float | None, digits: int = 3) -> str:
    """A mean, and its standard deviation if there is one."""
    return decimals(mean, digits) + ("" if sd is None else f" ± {decimals(sd, digits)}")


def p_value(p: float | None) -> str:
    """As it stands in a table."""
    return "< 0.0001" if p is not None and p < 1e-4 else decimals(p, 4)


def _over(value: object, *others: object) -> Html:
    """A value over those that it is compared with, such as that of its null."""
    return Html("<br>".join([text(value), *(element("small", other) for other in others)]))


# ---- zoo analyze -----------------------------------------------------------------------------------------------------


def analysis_page(analysis: Data, drawings: Drawings) -> str:
    """An analysis.json as a page: verdicts, groups, figures, correlations, and all matrices folded away.

    Args:
        analysis: as analysis.json holds it.
        drawings: of `zoo.lab.figures.analysis_figures`.
    """
    runs, draws = analysis["runs"], analysis["draws"]
    title = f"What is in {'an update' if len(runs) == 1 else f'{len(runs)} updates'}, beyond the singular values"
    return document(
        title, analysis,
        section(
            "Verdicts", _verdict_table(analysis), *_verdict_words(analysis), _notes(runs),
            element("h3", "Terms"), paragraph(K90), paragraph(NULL, f"Here: {draws} draws."),
        ),
        section("Groups", paragraph("Their runs differ only in the seed; ± is the standard deviation over runs."),
                *_group_tables(analysis)),
        section("Figures", *_figures(drawings)),
        section("Singular values and coefficients", paragraph(CORRELATION), _correlation_table(analysis)),
        section("Matrices", paragraph("Below each value is the mean of its rotation null.", SHUFFLED),
                *(_run_details(run, analysis["transforms"]) for run in runs)),
        _footer("analysis"),
    )  # fmt: skip


def _verdict_table(analysis: Data) -> Html:
    """A word for each run and transform."""
    rows = []
    for group, run in _by_group(analysis):
        found = [run["verdicts"][t] for t in analysis["transforms"]]
        rows.append([group["group"], run["name"], *(_over(_word(v), in_words(v["p"])) for v in found)])
    return table(["Group", "Run", *analysis["transforms"]], rows, 2 + len(analysis["transforms"]))


def _word(verdict: Data) -> Html:
    if not verdict["structured"]:
        return element("span", "no structure beyond the null", css="word")
    if not verdict["ordered"]:
        return element("span", "structured, not by frequency", css="word some")
    return element("span", "structured", css="word yes")


def _verdict_words(analysis: Data) -> list[Html]:
    """The sentences, folded away where they are many."""
    found = []
    for _, run in _by_group(analysis):
        sentences = [
            paragraph(_word(run["verdicts"][t]), element("strong", t), run["verdicts"][t]["words"])
            for t in analysis["transforms"]
        ]
        found.append(element("div", element("h3", run["name"]), *sentences))
    return found if len(found) * len(analysis["transforms"]) <= 12 else [details("All verdicts in words", *found)]


def _notes(runs: Sequence[Data]) -> Html:
    notes = [f"{run['name']}: {note}" for run in runs for note in run["notes"]]
    weights = [run["name"] for run in runs if run["what"] == "W"]
    if weights:
        notes.append(f"Trained from scratch, so that W itself is analysed: {', '.join(weights)}")
    return element("ul", *(element("li", note) for note in notes)) if notes else Html("")


def _group_tables(analysis: Data) -> list[Html]:
    """Ranks and scores of groups, and their spectra."""
    ranks, spectra = [], []
    for group in analysis["groups"]:
        shown = [plus_minus(group[rank]["mean"], group[rank]["sd"], 2) for rank in ("stable_rank", "effective_rank")]
        found = [group[key] for key in ("loss", "score")]
        results = [plus_minus(f["mean"], f["sd"], 4) if f else "–" for f in found]
        metrics = {run["metric"] for run in runs_of(analysis, group)} - {None}
        ranks.append([group["group"], len(group["runs"]), *shown, *results, ", ".join(sorted(metrics))])
        for transform in analysis["transforms"]:
            measured = [group["spectra"][transform][measure] for measure in MEASURES]
            cells = [_over(plus_minus(m["mean"], m["sd"]), plus_minus(m["null"], m["null_sd"])) for m in measured]
            spectra.append([group["group"], transform, *cells])
    return [
        table(["Group", "Runs", "Stable rank", "Effective rank", "Loss", "Score", "Metric"], ranks),
        table(["Group", "Transform", *MEASURES.values()], spectra, 2, "Spectra; below each, its null"),
    ]


def _correlation_table(analysis: Data) -> Html:
    rows = []
    for run, transform in product(analysis["runs"], analysis["transforms"]):
        for pair, found in run["correlation"][transform].items():
            kinds = [found["pearson"], found["spearman"]]
            cells = [cell for c in kinds for cell in (_interval(c), plus_minus(c["null"], c["null_sd"]))]
            rows.append([run["name"], transform, PAIRS.get(pair, pair), *cells, kinds[0]["n"]])
    whole = table(["Run", "Transform", "Of", "Pearson", "null", "Spearman", "null", "Matrices"], rows, 3)
    return whole if len(rows) <= 24 else details(f"{len(rows)} correlations", whole)


def _interval(found: Data) -> str:
    value, low, high = (decimals(found[key]) for key in ("value", "low", "high"))
    return value if found["low"] is None else f"{value} [{low}, {high}]"


def _run_details(run: Data, transforms: Sequence[str]) -> Html:
    """Averages and matrices of a run, a table for each transform."""
    parts = [part for t in transforms for part in (_average_table(run, t), _matrix_table(run, t))]
    return details(f"{run['name']}: {len(run['matrices'])} matrices", paragraph(element("code", run["path"])), *parts)


def _average_table(run: Data, transform: str) -> Html:
    rows = []
    for what, sets in run["averages"].items():
        for key, average in sets.items():
            name = "all" if what == "run" else f"{what} {key}"
            ranks = [decimals(average[rank], 2) for rank in RANKS]
            rows.append([name, average["matrices"], *ranks, *_spectrum(average["spectra"][transform])])
    return table(["Mean of", "Matrices", *RANKS.values(), *SPECTRUM], rows, 1, f"{transform}: averages")


def _matrix_table(run: Data, transform: str) -> Html:
    rows = [
        [m["layer"], " × ".join(map(str, m["shape"])), f"{m['norm']:.3g}", *(decimals(m[rank], 2) for rank in RANKS),
         *_spectrum(m["spectra"][transform])]
        for m in run["matrices"]
    ]  # fmt: skip
    return table(["Layer", "Shape", "Norm", *RANKS.values(), *SPECTRUM], rows, 1, f"{transform}: matrices")


SPECTRUM = ["z of k90", "p", *MEASURES.values()]


def _spectrum(found: Data) -> list[object]:
    cells = [_over(*(decimals(found[key][field]) for field in ("value", "null", "shuffled"))) for key in MEASURES]
    return [decimals(found["k90"]["z"], 1), p_value(found["k90"]["p"]), *cells]


def _by_group(data: Data) -> list[tuple[Data, Data]]:
    return [(group, run) for group in data["groups"] for run in runs_of(data, group)]


# ---- zoo mask --------------------------------------------------------------------------------------------------------


def mask_page(mask: Data, drawings: Drawings) -> str:
    """A mask.json as a page: how masks are chosen, figures, scores with their tests, and bytes on disk.

    Args:
        mask: as mask.json holds it.
        drawings: of `zoo.lab.figures.mask_figures`.
    """
    orders = [element("li", element("strong", order), " ", ORDERS.get(order, "")) for order in mask["orders"]]
    runs = [f"{run['name']}: {run['what']} of {run['path']}" for run in mask["runs"]]
    return document(
        f"How far {'an update' if len(runs) == 1 else f'{len(runs)} updates'} can be cut down", mask,
        section(
            "What was masked", paragraph(MASKS, f"Transforms: {', '.join(mask['transforms'])}. Kept are, by order:"),
            element("ul", *orders), details(f"Runs: {len(runs)}", element("ul", *(element("li", run) for run in runs))),
        ),
        section("Figures", *_figures(drawings)),
        section("Scores", paragraph(
            "± is the standard deviation over runs. t and p are of a paired t-test against the unmasked network over "
            "the runs of a group; Holm p is corrected for all masks of the group. A dash: one run, or no difference."
        ), *(_score_tables(group, mask) for group in mask["groups"])),
        section("Bytes on disk", paragraph(
            "All numbers are float32, 4 bytes each. A masked update needs its values and the places that they go to, "
            "here in the cheapest of several encodings; means over the runs of a group."
        ), *(_bytes_tables(group, mask) for group in mask["groups"])),
        _footer("mask"),
    )  # fmt: skip


def _score_tables(group: Data, mask: Data) -> Html:
    """A table for each transform."""
    unmasked = plus_minus(group["unmasked"]["mean"], group["unmasked"]["sd"], 4)
    about = f"{_metric(group)}, {group['better']} is better; unmasked {unmasked} over {_count(group['n'], 'run')}."
    tables = []
    for transform in mask["transforms"]:
        rows = []
        for point in _points(group, transform, mask["orders"]):
            p = p_value(point["p_holm"])
            marked = element("strong", p) if point["p_holm"] is not None and point["p_holm"] < 0.05 else p
            rows.append([
                point["order"], f"{point['budget']:g} %", plus_minus(point["mean"], point["sd"], 4),
                decimals(point["difference"], 4), decimals(point["t"], 2), p_value(point["p"]), marked,
            ])  # fmt: skip
        headers = ["Order", "Kept", _metric(group), "Difference", "t", "p", "Holm p"]
        tables.append(table(headers, rows, 1, transform))
    return element("div", element("h3", group["group"]), paragraph(about), *tables)


def _bytes_tables(group: Data, mask: Data) -> Html:
    runs = runs_of(mask, group)
    dense, trained, other = (_mean([run["bytes"][key] for run in runs]) for key in ("dense", "trained", "other"))
    about = (
        f"Dense dW {_bytes(dense)}; the update as it was trained {_bytes(trained)}; besides, the head and the like "
        f"{_bytes(other)}, which no mask changes."
    )
    tables = []
    for transform in mask["transforms"]:
        rows = []
        for same in zip(*(_points(run, transform, mask["orders"]) for run in runs), strict=True):
            values, places = (_mean([point["bytes"][key] for point in same]) for key in ("values", "places"))
            rows.append([
                same[0]["order"], f"{same[0]['budget']:g} %", f"{values:,.0f}", f"{places:,.0f}",
                ", ".join(dict.fromkeys(point["bytes"]["encoding"] for point in same)), human_bytes(values + places),
                _times(values + places, dense, 3), _times(values + places, trained, 2),
            ])  # fmt: skip
        headers = ["Order", "Kept", "Values (B)", "Places (B)", "Encoding", "Together", "Times dense", "Times trained"]
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


# ---- Both ------------------------------------------------------------------------------------------------------------


def _figures(drawings: Drawings) -> list[Html]:
    """Each with the caption whose name its own begins with; of several with one caption, the first has it."""
    captions = dict(CAPTIONS)
    found = []
    for name, svg in drawings.items():
        key = max((key for key in CAPTIONS if name.startswith(key)), key=len, default="")
        found.append(drawing(name, svg, captions.pop(key, "")))
    return found


def _footer(name: str) -> Html:
    return element(
        "footer", f"All numbers are in {name}.json, the figures as PNG and SVG in figures/. The questions are those of "
        "SpectralLoRA, arXiv 2604.10649.",
    )  # fmt: skip


def finite(value: Any) -> Any:
    """Plain data in which null stands for every number that JSON lacks."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_report(
    folder: Path, name: str, data: Data, figures: Mapping[str, Figure], page: Callable[[Data, Drawings], str]
) -> list[Path]:
    """Write a report: <name>.json, <name>.html, and figures as PNG and SVG in figures/.

    Args:
        folder: that exists.
        name: of the data and the page.
        data: of the JSON file.
        figures: by name.
        page: makes the page of data and drawings.

    Returns:
        The files.
    """
    plain = finite(data)
    (folder / "figures").mkdir(exist_ok=True)
    drawings = {key: save(figure, folder / "figures" / key) for key, figure in figures.items()}
    (folder / f"{name}.json").write_text(json.dumps(plain, allow_nan=False) + "\n", encoding="utf-8")
    (folder / f"{name}.html").write_text(page(plain, drawings), encoding="utf-8")
    images = [folder / "figures" / f"{key}.{form}" for key in figures for form in ("png", "svg")]
    return [folder / f"{name}.json", folder / f"{name}.html", *images]
