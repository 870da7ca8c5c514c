"""The page of `zoo analyze`."""

from collections.abc import Sequence
from itertools import product

from zoo.pages.markup import Html, details, document, element, paragraph, section, table
from zoo.pages.page import Drawings, captioned, decimals, footer, over, p_value, plus_minus
from zoo.pages.style import Data, runs_of
from zoo.studies.verdicts import EMPTY, in_words

MEASURES = {
    "k50": "k50",
    "k90": "k90",
    "k99": "k99",
    "k50_frequency": "k50, lowest first",
    "k90_frequency": "k90, lowest first",
    "k99_frequency": "k99, lowest first",
    "low_10": "energy in 10 %",
    "low_25": "energy in 25 %",
    "low_50": "energy in 50 %",
}
RANKS = {
    "stable_rank": "stable rank",
    "effective_rank": "effective rank",
    "numerical_rank": "numerical rank",
}
PAIRS = {
    "energies": "energies σ², largest coefficients²",
    "k90_stable_rank": "k90, stable rank",
    "k90_effective_rank": "k90, effective rank",
    "k90_block": "k90, block",
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
}
K90 = (
    "k90 is the share of a matrix's coefficients, largest first, that holds 90 % of its energy, the sum of their "
    "squares; k50 and k99 likewise. “Lowest first” takes the coefficients by frequency instead, and “energy in 25 %” "
    "is what the lowest quarter of the frequencies holds."
)
NULL = (
    "The rotation null has the same singular values between Haar-random singular vectors. It is what the singular "
    "values force by themselves: only a difference from it is structure of the singular vectors. A verdict's p is "
    "corrected (Holm) for both of its measures and all transforms, but not for the number of runs on this page."
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


def analysis_page(analysis: Data, drawings: Drawings) -> str:
    """An analysis.json as a page: verdicts, groups, figures, correlations, and all matrices folded away.

    Args:
        analysis: as analysis.json holds it.
        drawings: of `zoo.studies.analyze.figures.analysis_figures`.
    """
    runs, draws = analysis["runs"], analysis["draws"]
    title = f"What is in {'an update' if len(runs) == 1 else f'{len(runs)} updates'}, beyond the singular values"
    return document(
        title,
        analysis,
        section(
            "Verdicts",
            *_verdicts(analysis),
            _notes(runs),
            element("h3", "Terms"),
            paragraph(K90),
            paragraph(NULL, f"Here: {draws} draws."),
        ),
        section(
            "Groups",
            paragraph("Their runs differ only in the seed; ± is the standard deviation over runs."),
            *_group_tables(analysis),
        ),
        section("Figures", *captioned(drawings, CAPTIONS)),
        section(
            "Singular values and coefficients", paragraph(CORRELATION), _correlation_table(analysis)
        ),
        section(
            "Matrices",
            paragraph("Below each value is the mean of its rotation null.", SHUFFLED),
            *(_run_details(run, analysis["transforms"]) for run in runs),
        ),
        footer("analysis"),
    )


def _verdict_table(rows: Sequence[tuple[str, Data]], what: str, transforms: Sequence[str]) -> Html:
    """A word for each transform, of groups or runs."""
    cells = [
        [name, *(over(_word(found[t]), in_words(found[t]["p"])) for t in transforms)]
        for name, found in rows
    ]
    return table([what, *transforms], cells, 1 + len(transforms))


def _word(verdict: Data) -> Html:
    if not verdict["structured"]:
        return element("span", "no structure beyond the null", css="word")
    if verdict["zeros"] > EMPTY:
        return element("span", "structured by construction", css="word some")
    if not verdict["ordered"]:
        return element("span", "structured, not by frequency", css="word some")
    return element("span", "structured", css="word yes")


def _verdicts(analysis: Data) -> list[Html]:
    """Of groups, and their first transform in words; of single runs, folded away where groups have several."""
    transforms, found = analysis["transforms"], []
    groups = [(group["group"], group["verdicts"]) for group in analysis["groups"]]
    parts = [_verdict_table(groups, "Group", transforms)]
    for name, verdicts in groups:
        shown = [
            paragraph(_word(verdicts[t]), element("strong", t), verdicts[t]["words"])
            for t in transforms
        ]
        more = [details("The other transforms in words", *shown[1:])] if len(shown) > 1 else []
        parts.append(element("div", element("h3", name), shown[0], *more))
    found = [(run["name"], run["verdicts"]) for _, run in _by_group(analysis)]
    if len(found) > len(groups):
        words = [
            paragraph(element("strong", f"{name}, {t}"), verdicts[t]["words"])
            for name, verdicts in found
            for t in transforms
        ]
        parts.append(
            details(
                f"{len(found)} runs one by one", _verdict_table(found, "Run", transforms), *words
            )
        )
    return parts


def _notes(runs: Sequence[Data]) -> Html:
    notes = [f"{run['name']}: {note}" for run in runs for note in run["notes"]]
    weights = [run["name"] for run in runs if run["what"] == "W"]
    if weights:
        notes.append(f"Trained from scratch, so that W itself is analysed: {', '.join(weights)}")
    return element("ul", *(element("li", note) for note in notes)) if notes else Html("")


def _group_tables(analysis: Data) -> list[Html]:
    """Ranks and scores of groups, and their spectra."""
    ranks, spectra, measures = [], [], list(MEASURES.values())
    for group in analysis["groups"]:
        shown = [
            plus_minus(group[rank]["mean"], group[rank]["sd"], 2)
            for rank in ("stable_rank", "effective_rank")
        ]
        found = [group[key] for key in ("loss", "score")]
        results = [plus_minus(f["mean"], f["sd"], 4) if f else "–" for f in found]
        metrics = {run["metric"] for run in runs_of(analysis, group)} - {None}
        ranks.append(
            [group["group"], len(group["runs"]), *shown, *results, ", ".join(sorted(metrics))]
        )
        for transform in analysis["transforms"]:
            measured = [group["spectra"][transform][measure] for measure in MEASURES]
            cells = [
                over(plus_minus(m["mean"], m["sd"]), plus_minus(m["null"], m["null_sd"]))
                for m in measured
            ]
            spectra.append([group["group"], transform, *cells])
    return [
        table(["Group", "Runs", "Stable rank", "Effective rank", "Loss", "Score", "Metric"], ranks),
        table(
            ["Group", "Transform", *measures[:3]],
            [row[:5] for row in spectra],
            2,
            "Largest first; below each, its null",
        ),
        table(
            ["Group", "Transform", *measures[3:]],
            [[*row[:2], *row[5:]] for row in spectra],
            2,
            "Lowest frequencies first; below each, its null",
        ),
    ]


def _correlation_table(analysis: Data) -> Html:
    rows = []
    for run, transform in product(analysis["runs"], analysis["transforms"]):
        for pair, found in run["correlation"][transform].items():
            kinds = [found["pearson"], found["spearman"]]
            cells = [
                cell for c in kinds for cell in (_interval(c), plus_minus(c["null"], c["null_sd"]))
            ]
            rows.append([run["name"], transform, PAIRS.get(pair, pair), *cells, kinds[0]["n"]])
    whole = table(
        ["Run", "Transform", "Of", "Pearson", "null", "Spearman", "null", "Matrices"], rows, 3
    )
    return whole if len(rows) <= 24 else details(f"{len(rows)} correlations", whole)


def _interval(found: Data) -> str:
    value, low, high = (decimals(found[key]) for key in ("value", "low", "high"))
    return value if found["low"] is None else f"{value} [{low}, {high}]"


def _run_details(run: Data, transforms: Sequence[str]) -> Html:
    """Averages and matrices of a run, a table for each transform."""
    parts = [part for t in transforms for part in (_average_table(run, t), _matrix_table(run, t))]
    return details(
        f"{run['name']}: {len(run['matrices'])} matrices",
        paragraph(element("code", run["path"])),
        *parts,
    )


def _average_table(run: Data, transform: str) -> Html:
    rows = []
    for what, sets in run["averages"].items():
        for key, average in sets.items():
            name = "all" if what == "run" else f"{what} {key}"
            ranks = [decimals(average[rank], 2) for rank in RANKS]
            rows.append(
                [name, average["matrices"], *ranks, *_spectrum(average["spectra"][transform])]
            )
    return table(
        ["Mean of", "Matrices", *RANKS.values(), *SPECTRUM], rows, 1, f"{transform}: averages"
    )


def _matrix_table(run: Data, transform: str) -> Html:
    rows = [
        [
            m["layer"],
            " × ".join(map(str, m["shape"])),
            f"{m['norm']:.3g}",
            *(decimals(m[rank], 2) for rank in RANKS),
            *_spectrum(m["spectra"][transform]),
        ]
        for m in run["matrices"]
    ]
    return table(
        ["Layer", "Shape", "Norm", *RANKS.values(), *SPECTRUM], rows, 1, f"{transform}: matrices"
    )


SPECTRUM = ["z of k90", "p", *MEASURES.values()]


def _spectrum(found: Data) -> list[object]:
    cells = [
        over(*(decimals(found[key][field]) for field in ("value", "null", "shuffled")))
        for key in MEASURES
    ]
    return [decimals(found["k90"]["z"], 1), p_value(found["k90"]["p"]), *cells]


def _by_group(data: Data) -> list[tuple[Data, Data]]:
    return [(group, run) for group in data["groups"] for run in runs_of(data, group)]
