"""Tables of the floors of `zoo.bases.kernels.floors`, for layers of common sizes."""

from collections.abc import Iterator

from zoo.bases.kernels.floors import (
    LAUNCH,
    Support,
    block_product,
    box_product,
    box_transformed,
    dense,
    every_tile,
    partial_transform,
    row_product,
    row_strips,
    seconds,
    strips,
    tile,
)

SHAPES = ((2048, 2048), (4096, 4096), (11008, 4096))
SHARES = (2, 8, 20)
TOKENS = (1, 4, 16, 64, 256, 4096)

LAYERS = {
    "DCT, every tile": lambda m, n, k, t: every_tile(m, n, k, t, "random"),
    "DCT, strips": strips,
    "DCT, T in memory": partial_transform,
    "DCT, int16": lambda m, n, k, t: row_product(m, n, k, t, "int16", 2),
    "DCT, bitmask": lambda m, n, k, t: row_product(m, n, k, t, "bitmask", 2),
    "RowDCT, strips": row_strips,
    "RowDCT, int16": lambda m, n, k, t: row_product(m, n, k, t, "int16"),
    "RowDCT, bitmask": lambda m, n, k, t: row_product(m, n, k, t, "bitmask"),
    "box, three products": box_product,
    "box, transforms": box_transformed,
    "BlockDCT": block_product,
}
"""Ways to y, by support."""


def speedup(way: str, m: int, n: int, k: int, tokens: int) -> float:
    """Return the time of a dense layer at its floor over that of a way of `LAYERS` at its own."""
    return seconds(dense(m, n, tokens)) / seconds(LAYERS[way](m, n, k, tokens))


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    return "\n".join(
        "| " + " | ".join(cells) + " |" for cells in (head, ("---",) * len(head), *rows)
    )


def tile_table(m: int = 4096, n: int = 4096) -> str:
    """Write the costs of a 64 x 64 tile and of all tiles, for K = mn / 2 and mn / 8.

    A tile's are in KB and millions of multiply-adds, those of all in GB and 10^9.
    """
    head = ("support", "K", "tile, KB", "tile, M", "all, GB", "all, G", "all, us")

    def rows() -> Iterator[tuple[str, ...]]:
        supports: tuple[Support, ...] = ("random", "rows", "box", "block")
        for support in supports:
            for share in SHARES[:2]:
                one = tile(m, n, m * n // share, support)
                whole = one.times(m * n / 64**2)
                numbers = (
                    one.cache / 1e3,
                    one.products / 1e6,
                    whole.cache / 1e9,
                    whole.products / 1e9,
                )
                time = 1e6 * (seconds(whole) - LAUNCH)
                yield support, f"mn / {share}", *(f"{a:.3g}" for a in numbers), f"{time:,.0f}"

    return _table(head, rows())


def speed_table(m: int, n: int) -> str:
    """Write the `speedup` of each way at each number of tokens, for K = mn / 2, mn / 8 and mn / 20.

    The first row is the dense layer's time.
    """
    head = (f"{m} x {n}", *(f"T = {tokens}" for tokens in TOKENS))

    def rows() -> Iterator[tuple[str, ...]]:
        yield "dense, us", *(f"{1e6 * seconds(dense(m, n, tokens)):.1f}" for tokens in TOKENS)
        for way in LAYERS:
            cells = []
            for tokens in TOKENS:
                cells.append(
                    " ".join(
                        f"{speedup(way, m, n, m * n // share, tokens):.2f}" for share in SHARES
                    )
                )
            yield way, *cells

    return _table(head, rows())


def main() -> None:
    """Print the tables."""
    print("\n\n".join([tile_table(), *(speed_table(*shape) for shape in SHAPES)]))
