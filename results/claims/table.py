"""All claims, as the table of results/README.md and beside it."""

from collections.abc import Callable, Iterator

from results.claims.adapters import census_claims
from results.claims.claim import Claim
from results.claims.cosines import cosine_claims
from results.claims.costs import cost_claims
from results.claims.training import rate_claims, training_claims
from results.claims.updates import fine_tuning_claims, spectral_claims
from results.tables.page import cells_of, table

HEAD = "| of | claim | verdict | number | n | command |"
SECTIONS: tuple[Callable[[], Iterator[Claim]], ...] = (
    cosine_claims,
    spectral_claims,
    census_claims,
    training_claims,
    rate_claims,
    fine_tuning_claims,
    cost_claims,
)
"""Each yields claims; the table has them in this order."""


def claims() -> list[Claim]:
    """Return all claims, in the order of the table."""
    return [claim for section in SECTIONS for claim in section()]


def markdown() -> str:
    """Write the table."""
    rule = "|" + " --- |" * len(Claim._fields)
    return "\n".join([HEAD, rule, *(line(claim) for claim in claims())])


def line(claim: Claim) -> str:
    """Write a row of it."""
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in claim)


def claim_differences(page: str) -> list[str]:
    """Say where the table of claims on a page is not what the rows give, a line for each row."""
    there = {row[1]: row for row in table(page, HEAD)}
    here = {claim.claim: cells_of(line(claim)) for claim in claims()}
    found = [
        f"{name}\n  the page has {there.get(name, 'no such row')}"
        f"\n  the rows give {here.get(name, 'no such claim')}"
        for name in dict.fromkeys([*here, *there])
        if there.get(name) != here.get(name)
    ]
    return found or (["the claims stand in another order"] if list(there) != list(here) else [])
