"""Blocks of cosine coefficients, W_ij = C^T S_ij C with the same few positions in every block.

Between RowDCT and DCT: transforms of b numbers in place of n. W costs 4 b operations a weight to
build and no index is stored; at small budgets y = x W^T needs no W (`zoo.bases.block_products`),
and K multiply-adds a row of x, as many as low-rank factors take. W can have full rank as soon as
every row of a block has a coefficient, K / mn >= 1 / b.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.bases import block_products, blocks, kernels, seeds
from zoo.bases.cosine import dct_matrix
from zoo.parameterizations.budget import layer_budget
from zoo.parameterizations.cost import Cost, cost_with_weight
from zoo.parameterizations.subspaces.orthonormal import BUILT_FROM, OrthonormalSubspace


class BlockDCT(OrthonormalSubspace):
    """The same few cosine coefficients of every block.

    Orthonormal; k of a block's p x q, drawn at random, evenly over its rows and columns: K = k mn /
    pq parameters.

        >>> zoo.BlockDCT(8, 8, ratio=0.25).num_trainable
        16

    Args:
        out_features: rows m of W.
        in_features: columns n of W.
        ratio: the share of the mn coefficients that is trained, in (0, 1]; or
        coefficients: their number, in [1, mn]; or
        lora_rank: as many as LoRA of this rank, K = r (m + n). Exactly one of the three. All blocks
            have as many, so that K is the largest multiple of their number that the budget holds.
        block: largest height and width of a block: p and q are the largest divisors of m and n up
            to it. By default 16, and 32 below a sixteenth of the mn, where rows of smaller blocks
            would have none.
        seed: of the positions, together with the layer's name.

    Raises:
        ValueError: for a budget out of range, given twice or not at all, or of less than one
            coefficient a block.
    """

    shortcuts = {
        **OrthonormalSubspace.shortcuts,
        "forward": (*BUILT_FROM, "support"),
        "forward_update": (*BUILT_FROM, "support"),
        "building": (*BUILT_FROM, "support"),
        "cost": (*BUILT_FROM, "support", "forward", "forward_update"),
        "batch_key": (*OrthonormalSubspace.shortcuts["batch_key"], "support"),
        "expand": ("synthesize", "analyze", "support"),
        "gather": ("synthesize", "analyze", "support"),
    }

    def __init__(
        self,
        out_features: int,
        in_features: int,
        ratio: float | None = None,
        coefficients: int | None = None,
        block: int | None = None,
        seed: int = 0,
        lora_rank: int | None = None,
    ) -> None:
        if out_features >= 1 and in_features >= 1:  # otherwise super() has a word to say
            budget = layer_budget(
                out_features, in_features, ratio, coefficients, lora_rank, least=0
            )
            if block is None:
                block = 16 if 16 * budget >= out_features * in_features else 32
            layout = blocks.block_layout(
                out_features, in_features, block, budget, seeds.generator(seed)
            )
            ratio, coefficients, lora_rank = None, layout.coefficients, None
            self.block = block  # before super(), which builds the buffers
        super().__init__(out_features, in_features, ratio, coefficients, "random", seed, lora_rank)

    @property
    def support(self) -> Tensor:
        return blocks.block_support(self.arrangement)

    def _arranged(self) -> blocks.BlockLayout:
        generator = seeds.generator(self.seed, "support", self.layer)
        return blocks.block_layout(*self.shape, self.block, len(self.coef), generator)

    def reset_buffers(self) -> None:
        self._buffers.clear()
        self.arrangement = self._arranged()
        self._lr_mult: float | None = None
        device = self.coef.device
        p, q = self.arrangement.p, self.arrangement.q
        # Made here, since torch.compile takes no cache.
        self._cosines = dct_matrix(p).to(device), dct_matrix(q).to(device)
        self._kernel_tables: dict[tuple[torch.device, torch.dtype], Any] = {}
        # Of a subclass with a transform or positions of its own.
        if type(self).expand is OrthonormalSubspace.expand:
            super().reset_buffers()
            return
        self.register_buffer(
            "places", blocks.block_positions(self.arrangement).to(device), persistent=False
        )
        tables = blocks.block_tables(self.arrangement, device, self.compute_dtype)
        for name, table in tables._asdict().items():
            self.register_buffer(name, table, persistent=False)

    @property
    def tables(self) -> blocks.BlockTables:
        """The cosines that W is built with."""
        return blocks.BlockTables(*(getattr(self, name) for name in blocks.BlockTables._fields))

    def expand(self, coef: Tensor) -> Tensor:
        return blocks.build(coef, self.arrangement, self.tables).to(coef.dtype)

    def gather(self, weight: Tensor) -> Tensor:
        return blocks.unbuild(weight, self.arrangement, self.tables).to(weight.dtype)

    def batch_key(self) -> Hashable:
        return (
            (type(self), self.shape, self.coef.dtype, self.arrangement[:6])
            if self.builds_weight
            else None
        )

    @staticmethod
    def expand_batch(maps: "Sequence[BlockDCT]", coefs: Sequence[Tensor]) -> Tensor:
        return blocks.build(torch.stack(list(coefs)), maps[0].arrangement, BlockDCT._stacked(maps))

    @staticmethod
    def gather_batch(maps: "Sequence[BlockDCT]", weights: Tensor) -> Sequence[Tensor]:
        return blocks.unbuild(weights, maps[0].arrangement, BlockDCT._stacked(maps)).unbind()

    @staticmethod
    def _stacked(maps: "Sequence[BlockDCT]") -> blocks.BlockTables:
        of_each = zip(*(space.tables for space in maps), strict=True)
        return blocks.BlockTables(*(torch.stack(tables) for tables in of_each))

    def synthesize(self, plane: Tensor) -> Tensor:
        rows, columns = self._cosines
        return blocks.rotate_blocks(plane, rows.to(plane).mT, columns.to(plane).mT)

    def analyze(self, weight: Tensor) -> Tensor:
        rows, columns = self._cosines
        return blocks.rotate_blocks(weight, rows.to(weight), columns.to(weight))

    @property
    def builds_weight(self) -> bool:
        """Whether W is built for products with many tokens, in the precision that holds now."""
        return not block_products.product_pays(
            self.arrangement, self._precision(self.coef), self.coef.device
        )

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return x W^T + b, without W unless that is slower.

        Under autocast all products are of the lower precision.
        """
        return self._product(x, bias) if self._pays(x) else super().forward(x, bias)

    def forward_update(
        self, x: Tensor, base: Tensor, bias: Tensor | None = None, scale: float = 1.0
    ) -> Tensor:
        """Return x W0^T + b + s x W^T, the same way."""
        if not self._pays(x):
            return super().forward_update(x, base, bias, scale)
        return F.linear(x, base, bias) + scale * self._product(x)

    def _pays(self, x: Tensor) -> bool:
        # Opens Functions; and a program serves any number of tokens.
        if torch.compiler.is_exporting():
            return False
        return self._pays_for(x.shape[:-1].numel(), self._precision(x), x.device)

    def _pays_for(self, tokens: int, precision: torch.dtype, device: torch.device) -> bool:
        return block_products.product_pays(self.arrangement, precision, device, tokens)

    def building(self) -> tuple[int, int]:
        """Count u (p + w) mn / p either way, as `blocks.build` and `blocks.unbuild` have it.

        u rows of a block have coefficients, w at most each.
        """
        u, w, _ = self.windows.shape
        count = u * (self.arrangement.p + w) * self.arrangement.grid[0] * self.in_features
        return count, count

    def cost(self, rows: int, update: bool = False) -> Cost:
        """State what the path takes that serves T rows, with W or without.

            forward   T (L n + K + u m)
            backward  T (2 L n + 2 K + u m)
            read      K, or mn where a layer keeps W

        L steps of the walk through a block's columns are met (`BlockTables`), and u of its rows.
        """
        (m, n), coefficients = self.shape, len(self.coef)
        if not self._pays_for(rows, self._precision(self.coef), self.coef.device):
            return cost_with_weight(self, rows)
        met, used = len(self.right) * n, len(self.left) * m
        base = m * n if update else 0
        forward, backward = met + coefficients + used, 2 * (met + coefficients) + used
        read = m * n if self.builds_weight else coefficients + base
        return Cost(rows * (forward + base), rows * (backward + base), read)

    def _product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        dtype = self._precision(x)
        with seeds.without_autocast(x.device):
            rows, bias = (
                x.reshape(-1, self.in_features).to(dtype),
                None if bias is None else bias.to(dtype),
            )
            y = self._fused(rows, bias)
            if y is None:
                left, right = self.tables.left.to(dtype), self.tables.right.to(dtype)
                products = block_products.BlockProduct
                y = products.apply(rows, self.coef.to(dtype), bias, left, right, self.arrangement)
        return y.view(*x.shape[:-1], self.out_features)

    def _fused(self, rows: Tensor, bias: Tensor | None) -> Tensor | None:
        """Return the same by a kernel of `zoo.bases.kernels`, for few tokens without gradients.

        It is None where no kernel serves.
        """
        layout, few = (
            self.arrangement,
            1 <= len(rows) <= seeds.of_device(kernels.TOKENS, rows.device),
        )
        if (
            torch.is_grad_enabled()
            or not few
            or rows.dtype == torch.float64
            or torch.compiler.is_compiling()
        ):
            return None
        if max(layout.p, layout.q) > kernels.MAX_BLOCK or not kernels.available(rows.device):
            return None
        from zoo.bases.kernels import block_linear  # triton, only where it is used

        key = rows.device, rows.dtype
        if key not in self._kernel_tables:
            self._kernel_tables[key] = block_linear.kernel_tables(layout, *key)
        return block_linear.block_linear(rows, self.coef, layout, self._kernel_tables[key], bias)

    @staticmethod
    def _precision(x: Tensor) -> torch.dtype:
        """Return the precision of a product with x: its own, or autocast's unless float64."""
        lower = seeds.autocast_dtype(x.device)
        return x.dtype if lower is None or x.dtype == torch.float64 else lower

    @property
    def lr_mult(self) -> float:
        """sqrt(mn) / |M|_2, M the mask of the coefficients, as `SeparableSubspace.lr_mult`."""
        if self._lr_mult is None:
            with torch.device("cpu"):  # rates are asked for on the meta device too
                self._lr_mult = blocks.block_lr_mult(self._arranged())
        return self._lr_mult

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, block={self.block}"
