"""What a GPU must do at least is what an independent count says, and the page has the functions'
numbers.
"""

from pathlib import Path

import pytest
import torch

from zoo.bases.blocks import block_layout
from zoo.bases.cosine import dct_matrix
from zoo.bases.kernels import floor_tables, floors
from zoo.bases.seeds import generator
from zoo.bases.selection import lowpass_order, random_support

M, N, P, Q = 24, 36, 8, 12
ROOT = Path(__file__).parents[2]


def products(left, right, useful=None):
    """Multiply-adds of a product of matrices, where `useful` says which numbers of the left one are
    not zero.
    """
    useful = torch.ones_like(left, dtype=torch.bool) if useful is None else useful
    return int(useful.sum()) * right.shape[1]


def test_a_tile_is_made_of_what_is_counted():
    """Each tile of W comes out of the bytes and multiply-adds that `tile` names, of a whole W."""
    left, right, k = dct_matrix(M), dct_matrix(N), 300
    plane = torch.zeros(M * N, dtype=torch.float64)
    plane[random_support(M, N, k, 0)] = 1.5
    plane = plane.view(M, N)
    rows, columns = left[:, P : 2 * P], right[:, Q : 2 * Q]
    whole = left.T @ plane @ right
    half = rows.T @ plane
    assert torch.allclose(half @ columns, whole[P : 2 * P, Q : 2 * Q])
    counted = min(
        products(plane.T, rows, plane.T != 0) + products(half, columns),
        products(plane, columns, plane != 0) + products(rows.T, plane @ columns),
    )
    cost = floors.tile(M, N, k, "random", P, Q)
    assert cost.products == counted
    stored = 2 * k + floors.position_bytes(M, N, k, "bitmask")
    assert cost.cache == stored + 2 * (rows.numel() + columns.numel())
    # RowDCT: its own rows alone
    own = plane[P : 2 * P]
    assert torch.allclose(own @ columns, (plane @ right)[P : 2 * P, Q : 2 * Q])
    mean = sum(
        products(plane[i : i + P], columns, plane[i : i + P] != 0) for i in range(0, M, P)
    ) / (M // P)
    assert floors.tile(M, N, k, "rows", P, Q).products == mean


def test_a_box_holds_the_lowest_coefficients():
    k1, k2 = floors.box(M, N, M * N // 4)
    assert (k1, k2) == (M // 2, N // 2)
    support = lowpass_order(M, N)[: k1 * k2]
    assert (support // N).max() < k1
    assert (support % N).max() < k2
    small, left, right = (
        torch.randn(k1, k2, dtype=torch.float64),
        dct_matrix(M)[:k1],
        dct_matrix(N)[:k2],
    )
    x = torch.randn(N, 5, dtype=torch.float64)
    y = left.T @ (small @ (right @ x))
    counted = (
        products(right, x) + products(small, right @ x) + products(left.T, small @ (right @ x))
    )
    plane = torch.zeros(M, N, dtype=torch.float64)
    plane[:k1, :k2] = small
    assert torch.allclose(y, dct_matrix(M).T @ plane @ dct_matrix(N) @ x)
    cost = floors.box_product(M, N, k1 * k2, 5)
    assert cost.products == counted
    assert cost.memory == 2 * (
        right.numel() + small.numel() + left.numel() + 5 * (M + N + 2 * (k1 + k2))
    )


def test_positions_are_what_an_encoding_takes():
    """A bitmask is packed bits, int16 columns with each row's start; the best is the shortest."""
    k = 100
    support = random_support(M, N, k, 1)
    starts = torch.searchsorted(support, torch.arange(M + 1) * N).to(torch.int32)
    assert floors.position_bytes(M, N, k, "int16") == (support % N).short().nbytes + starts.nbytes
    assert floors.position_bytes(M, N, k, "bitmask") == M * N // 8 + starts.nbytes
    assert floors.position_bytes(M, N, k, "int32") == support.int().nbytes
    kinds = [floors.best_positions(4096, 4096, 4096**2 // share) for share in (2, 8, 20, 2**20)]
    assert kinds == ["bitmask", "bitmask", "int16", "int32"]


@pytest.mark.parametrize(
    ("n", "sides"), [(4096, (64, 64)), (11008, (86, 128)), (7, (1, 7)), (131, None), (1, (1, 1))]
)
def test_lengths_have_two_factors(n, sides):
    assert floors.two_factors(n) == sides


def test_a_transform_takes_what_the_interpreter_counts(monkeypatch):
    """Multiply-adds of the kernel's products, where nothing is padded."""
    pytest.importorskip("triton")
    from triton.runtime import interpreter

    from zoo.bases.kernels import row_device, row_linear

    n, tokens, counted, dot = 512, 2, [0], interpreter.interpreter_builder.create_dot
    for name in ("cosine_transform", "row_product"):
        monkeypatch.setattr(
            row_device, name, interpreter.InterpretedFunction(getattr(row_device, name).fn)
        )

    def counting(a, b, *rest):
        counted[0] += a.data.size * b.data.shape[1]
        return dot(a, b, *rest)

    monkeypatch.setattr(interpreter.interpreter_builder, "create_dot", counting)
    tables = row_linear.row_tables(torch.arange(n), 1, n, "cpu")
    x = torch.randn(tokens, n)
    y = row_linear.row_linear(x, torch.ones(n), tables)
    assert torch.allclose(y[:, 0], (dct_matrix(n).float() @ x.T).sum(0), atol=1e-4)
    assert counted[0] == tokens * floors.transform_products(n)


def test_blocks_are_counted_as_the_kernel_counts_itself():
    pytest.importorskip("triton")
    from zoo.bases.kernels.block_linear import default_tiles, work

    layout = block_layout(4096, 4096, 16, 4096**2 // 8, generator(0))
    counted = work(layout, 4, torch.bfloat16, default_tiles(layout, 4, torch.bfloat16))
    cost = floors.block_product(4096, 4096, layout.coefficients, 4)
    assert cost.memory == counted.memory
    assert counted.useful < cost.products < counted.multiply_adds


def test_time_is_the_longest_of_its_parts():
    for cost, longest in [
        (floors.Cost(memory=floors.BANDWIDTH), 1),
        (floors.Cost(floors.BANDWIDTH, slots=3 * floors.SLOTS), 3),
        (floors.Cost(products=2 * floors.PRODUCTS, cache=floors.CACHE), 2),
    ]:
        assert floors.seconds(cost) == pytest.approx(longest + floors.LAUNCH)
    cost = floors.Cost(1, 2, 3, 4, 1).times(3).plus(floors.Cost(1, 1, 1, 1, 2))
    assert cost == (4, 7, 10, 13, 3)


def test_strips_fit_on_chip():
    for n in (2048, 4096, 11008):
        assert 2 * n * floors.strip_rows(n) <= floors.CHIP_BYTES < 4 * n * floors.strip_rows(n)


def test_the_page_has_the_tables_that_the_command_prints(capsys):
    page = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")
    floor_tables.main()
    tables = capsys.readouterr().out.strip().split("\n\n")
    assert len(tables) == 1 + len(floor_tables.SHAPES)
    for table in tables:
        assert table in page


def test_findings_of_the_page():
    """Where W is built on chip a full transform never wins, at any size or number of tokens; blocks
    always do.
    """
    for m, n in floor_tables.SHAPES:
        for share in floor_tables.SHARES:
            for tokens in floor_tables.TOKENS:
                gain = {
                    way: floor_tables.speedup(way, m, n, m * n // share, tokens)
                    for way in floor_tables.LAYERS
                }
                on_chip = [
                    way for way in gain if "tile" in way or "strips" in way or "memory" in way
                ]
                assert max(gain[way] for way in on_chip) < 1
                assert gain["BlockDCT"] > 1.3
                assert max(gain["DCT, bitmask"], gain["RowDCT, bitmask"]) < 1
                scattered = max(gain["DCT, int16"], gain["RowDCT, int16"])
                assert scattered < 1 or (share > 2 and tokens <= 64 and m * n > 2048**2)
                assert gain["box, three products"] < 1.1 or tokens >= 256
                if tokens <= 16:
                    assert gain["DCT, every tile"] < 0.05
    assert floor_tables.speedup("RowDCT, int16", 4096, 4096, 4096**2 // 8, 4) > 1.2
    assert floor_tables.speedup("RowDCT, int16", 4096, 4096, 4096**2 // 20, 16) > 1.2
    # Of the paper's model, on one of 132 processors.
    whole = floors.tile(512, 128, 512 * 128 // 2, "random", 512, 128)
    assert 1e6 * whole.products / (floors.PRODUCTS / 132) == pytest.approx(8.4, abs=0.05)
    assert 1e6 * floors.seconds(floors.dense(512, 128, 4096)) == pytest.approx(3.2, abs=0.05)
    assert pytest.approx(14, abs=0.5) == 2 / floors.BANDWIDTH * floors.SLOTS  # of a dense weight
