"""Masks for Python: data frames, figures and the page of what masked updates score and take."""

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from zoo.pages.texts import lines
from zoo.studies.result import Result

if TYPE_CHECKING:
    import pandas as pd

    from zoo.pages.html import Drawings
    from zoo.pages.style import Figure


class Masked(Result):
    """What masked updates score, and the bytes that they take.

    A `budget` is the share of the coefficients that is kept, in percent, `kept` their number over
    all layers, and `energy` the share of |dW|^2 that is left. Bytes are those of float32 values and
    of their places in the cheapest encoding.
    """

    file = "mask"

    def __str__(self) -> str:
        from zoo.studies.mask.terminal import printed

        return lines(printed(self.data))

    def __repr__(self) -> str:
        runs, masks = self.data["runs"], len(self.data["groups"][0]["points"])
        return f"<Masked {', '.join(run['name'] for run in runs)}: {masks} masks>"

    @cached_property
    def runs(self) -> "pd.DataFrame":
        """What is known of each run or network.

        `unmasked` is its score with all coefficients, `reported` what it had as it trained;
        `dense_bytes` are those of dW as it is, `trained_bytes` those of the coefficients that were
        trained, and `other_bytes` those of what else was.
        """
        from zoo.studies.mask import frames

        return frames.runs(self.data)

    @cached_property
    def masks(self) -> "pd.DataFrame":
        """What each mask leaves of each run; `value` is its score, the mean over draws."""
        from zoo.studies.mask import frames

        return frames.masks(self.data)

    @cached_property
    def draws(self) -> "pd.DataFrame":
        """The score of each draw of each mask, of which random ones have several."""
        from zoo.studies.mask import frames

        return frames.draws(self.data)

    @cached_property
    def scores(self) -> "pd.DataFrame":
        """Mean and deviation over the n runs of a group, beside `unmasked`, that of no mask.

        `difference`, `t` and `p` are of a paired t-test, `p_holm` is corrected for all masks of the
        group.
        """
        from zoo.studies.mask import frames

        return frames.scores(self.data)

    def _draw(self) -> "Mapping[str, Figure]":
        from zoo.studies.mask.figures import mask_figures

        return mask_figures(self.data)

    def _page(self, data: dict[str, Any], drawings: "Drawings", layout: str) -> str:
        from zoo.studies.mask.page import mask_page

        return mask_page(data, drawings, layout)
