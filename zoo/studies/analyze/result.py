"""An analysis for Python: data frames, figures and the page of what is in some updates."""

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from zoo.pages.texts import lines
from zoo.studies.result import Result

if TYPE_CHECKING:
    import pandas as pd

    from zoo.pages.html import Drawings
    from zoo.pages.style import Figure


class Analysis(Result):
    """What is in updates, beside the rotation null.

    Shares and energies lie between 0 and 1, ranks and norms have no unit, `block` counts from 0. Of
    a measure, `null` and `null_sd` are mean and standard deviation over draws of the rotation null
    (the same singular values between random singular vectors), `z` and `p` the distance to it, and
    `shuffled` and `shuffled_p` the same with rows and columns shuffled.

    The measures: k50, k90 and k99 are the share of a matrix's coefficients, largest first, that
    holds so many percent of its energy, the sum of their squares; with `_frequency` the lowest
    frequencies come first; low_10, low_25 and low_50 are the share of the energy in so many percent
    of the frequencies, lowest first.
    """

    file = "analysis"

    def __str__(self) -> str:
        from zoo.studies.analyze.terminal import printed

        return lines(printed(self.data))

    def __repr__(self) -> str:
        runs, matrices = self.data["runs"], sum(len(run["matrices"]) for run in self.data["runs"])
        return f"<Analysis of {', '.join(run['name'] for run in runs)}: {matrices} matrices>"

    @cached_property
    def runs(self) -> "pd.DataFrame":
        """What is known of each run or network: `what` is dW, or W of one from scratch."""
        from zoo.studies.analyze import frames

        return frames.runs(self.data)

    @cached_property
    def matrices(self) -> "pd.DataFrame":
        """Shape, Frobenius norm and ranks of each matrix, a row each."""
        from zoo.studies.analyze import frames

        return frames.matrices(self.data)

    @cached_property
    def spectra(self) -> "pd.DataFrame":
        """Each measure of each matrix under each transform, beside its nulls."""
        from zoo.studies.analyze import frames

        return frames.spectra(self.data)

    @cached_property
    def averages(self) -> "pd.DataFrame":
        """Ranks and measures of means `over` all matrices of a run, a block and a kind of layer."""
        from zoo.studies.analyze import frames

        return frames.averages(self.data)

    @cached_property
    def singular_values(self) -> "pd.DataFrame":
        """Singular values of each matrix, the largest of i = 1, beside those of Gaussian matrices.

        These have the same shape, rank and norm.
        """
        from zoo.studies.analyze import frames

        return frames.singular_values(self.data)

    @cached_property
    def curves(self) -> "pd.DataFrame":
        """The share of the energy that a `share` of the coefficients holds, and its null's.

        `magnitude` takes the largest first, `frequency` the lowest.
        """
        from zoo.studies.analyze import frames

        return frames.curves(self.data)

    @cached_property
    def correlations(self) -> "pd.DataFrame":
        """Pearson's and Spearman's correlations, with 95 % bootstrap intervals over matrices.

        The pair `energies` is within matrices, of singular values squared and as many of the
        largest coefficients squared; the other pairs are across matrices.
        """
        from zoo.studies.analyze import frames

        return frames.correlations(self.data)

    @cached_property
    def verdicts(self) -> "pd.DataFrame":
        """Whether there is structure beyond the null, of each run, and of groups (`run` is None).

        `p` and `shuffled_p` are corrected (Holm); `zeros` is the share of coefficients that are 0;
        `matrices` counts those that are structured by themselves.
        """
        from zoo.studies.analyze import frames

        return frames.verdicts(self.data)

    @cached_property
    def groups(self) -> "pd.DataFrame":
        """Means and standard deviations over the n runs of a group: ranks, loss and score."""
        from zoo.studies.analyze import frames

        return frames.groups(self.data)

    @cached_property
    def group_spectra(self) -> "pd.DataFrame":
        """Means over the runs of a group of each measure, itself a mean over matrices."""
        from zoo.studies.analyze import frames

        return frames.group_spectra(self.data)

    def _draw(self) -> "Mapping[str, Figure]":
        from zoo.studies.analyze.figures import analysis_figures

        return analysis_figures(self.data)

    def _page(self, data: dict[str, Any], drawings: "Drawings", layout: str) -> str:
        from zoo.studies.analyze.page import analysis_page

        return analysis_page(data, drawings, layout)
