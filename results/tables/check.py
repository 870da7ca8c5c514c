"""Which tables there are, and where one differs from its rows."""

from collections.abc import Callable
from itertools import zip_longest

from results.claims.adapters import census_row
from results.tables.characters import character_row, long_row, maps_row, relora_row
from results.tables.costs import api_row, encoder_row, goals_row, quantized_row
from results.tables.page import Cells, cells_of, plain, table
from results.tables.rates import exponents_row, growth_row, transfer_row, widths_row
from results.tables.updates import cola_row, glue_row, mask_row, spectra_row

SIX_MAPS = "`Dense` | `DCT` | `RandomOrthonormal` | `BlockDCT` | `Kronecker` | `LoRA` |"
TABLES: dict[str, Callable[[Cells, Cells], Cells]] = {
    "| method | coefficients | rate | loss | gap to dense | stable rank |": character_row,
    "| method | rate | loss | gap to dense | stable rank |": long_row,
    f"| AdamW | {SIX_MAPS}": exponents_row,
    "| Muon | `Dense` | `DCT` | `RandomOrthonormal` | `BlockDCT` |": exponents_row,
    f"| | {SIX_MAPS}": growth_row,
    "| | best at 64 | best at 256, rule | price, rule | best at 256, without | price, without |": (
        transfer_row
    ),
    "| | best at 2 | best at 8, rule | price, rule | best at 8, without | price, without |": (
        transfer_row
    ),
    "| width | 32 | 64 | 96 | 128 | 192 |": widths_row,
    "| transform | structured | share of authors, 95 % | k90 | its null | less its null "
    "| less shuffled |": census_row,
    "| method | coefficients | rate | loss | stable rank | effective rank | FLOPs | checkpoint "
    "| decode |": maps_row,
    "| W | rate | loss, seeds 1 and 2 | stable rank | published |": relora_row,
    "| update | trainable | CoLA, Matthews | RTE, accuracy | SST-2, accuracy "
    "| stable rank of dW |": glue_row,
    "| update | trainable | seed 0 at 4e-5, 1.2e-4, 3.6e-4 | seeds 1, 2 | mean +- sd | 95 % "
    "| stable rank of dW |": cola_row,
    "| to peft's | 64 tokens, query and value | 512, query and value "
    "| 512, all layers |": goals_row,
    "| | CoLA | RTE | SST-2 |": spectra_row,
    "| largest kept, DCT | bytes, values and places | SST-2, accuracy | CoLA, Matthews "
    "| RTE, accuracy |": mask_row,
    "| method, peft's | 64, qv | 512, qv | 64, all | 512, all | own |": encoder_row,
    "| to peft's | adapt | save | load | switch | step | bytes saved |": api_row,
    "| base | MiB | no update | `LoRA` | `DoRA` | `DCT` |": quantized_row,
}


def table_differences(page: str) -> list[str]:
    """Say which cells of which tables differ from what the rows give."""
    found = []
    for head, expected in TABLES.items():
        for row in table(page, head):
            heads = cells_of(head)
            try:
                right = expected(row, heads)
            except (AssertionError, KeyError) as error:
                found.append(f"{row[0]}: {error!r}")
                continue
            found += [
                f"{row[0]}, {name or 'first'}: the page has {there!r}, the rows {here!r}"
                for name, there, here in zip_longest(
                    heads, map(plain, row), map(plain, right), fillvalue=""
                )
                if there != here
            ]
    return found
