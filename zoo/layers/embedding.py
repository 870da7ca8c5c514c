"""The embedding whose weight is parameterized: y = W0[i] + s W[i], a row for each index."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.bases.seeds import without_autocast
from zoo.layers.base_weight import check_shapes, parameter_of
from zoo.layers.layer import ZooLayer, refuse_dropout
from zoo.layers.plain import GEOMETRY
from zoo.parameterizations import WeightParameterization


class ZooEmbedding(ZooLayer):
    """An embedding over a `WeightParameterization`, from scratch or an update of frozen weights.

        from scratch  y = W[i]
        update        y = W0[i] + s W[i],  W = 0 at the start

    W is (num_embeddings, embedding_dim). A map that can look up rows without the others
    (`WeightParameterization.look_up`) builds no W. The row `padding_idx` has no gradient and stays
    what it is in W0; from scratch it is 0, as `nn.Embedding` begins.

    Args:
        parameterization: W.
        padding_idx: the index of a row that is no part of W, or None.
        weight: W0 of W's shape, or None for a layer from scratch; as in
            `zoo.layers.linear.ZooLinear`.
        scale: s.

    Raises:
        ValueError: if a shape does not fit, or the map is to drop numbers of its rows of x.
    """

    kind = "embedding"
    geometry = GEOMETRY[nn.Embedding]

    def __init__(
        self,
        parameterization: WeightParameterization,
        padding_idx: int | None = None,
        weight: Tensor | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__(parameterization, scale, recompute=False)  # a gradient of rows needs no W
        self.check_map(parameterization)
        check_shapes(weight=(weight, parameterization.shape))
        self.num_embeddings, self.embedding_dim = parameterization.shape
        self.padding_idx = None if padding_idx is None else padding_idx % self.num_embeddings
        self.max_norm, self.norm_type = None, 2.0
        self.scale_grad_by_freq = self.sparse = False
        self._parameters["weight"] = parameter_of(weight, trained=False)
        self.replaced: type[nn.Module] = nn.Embedding

    def product(self, x: Tensor, space: WeightParameterization, scale: float) -> Tensor:
        """Look up the rows of indices x, of any shape (...); (..., embedding_dim)."""
        base = self.base
        if base is not None and space.needs_base:
            with without_autocast(base.device):
                weight = self._padded(space.effective(base, scale), base)
            return F.embedding(x, weight.to(base.dtype), self.padding_idx)
        rows = space.look_up(x)
        if scale != 1.0:
            rows = scale * rows
        if self.padding_idx is not None:
            rows = rows.masked_fill((x == self.padding_idx)[..., None], 0.0)
        if base is None:
            return rows
        return (F.embedding(x, base, self.padding_idx) + rows).to(base.dtype)

    def base_product(self, x: Tensor) -> Tensor:
        return F.embedding(x, self._parameters["weight"], self.padding_idx)  # type: ignore[arg-type]

    def check_map(self, space: WeightParameterization) -> None:
        refuse_dropout(space, "an embedding")

    def _multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.embedding(x, weight, self.padding_idx)

    @property
    def builds_weight(self) -> bool:
        """Whether a row is had only with all the others."""
        space = self.parameterization
        return space.needs_base or type(space).look_up is WeightParameterization.look_up

    def product_dtype(self, x: Tensor) -> torch.dtype:
        """Return the dtype of the rows, that of W0 or the coefficients; autocast changes none."""
        return self.base_dtype

    def update(self) -> Tensor:
        return super().update() if self.dense_phase else self._padded(super().update(), None)

    def effective_weight(self) -> Tensor:
        base, weight = self.base, super().effective_weight()
        return weight if base is None or weight is base else self._padded(weight, base)

    def _padded(self, weight: Tensor, base: Tensor | None) -> Tensor:
        """Return a matrix with the row `padding_idx` of W0, or with zeros there."""
        if self.padding_idx is None:
            return weight
        at = torch.tensor([self.padding_idx], device=weight.device)
        if base is None:
            return weight.index_fill(0, at, 0.0)
        return weight.index_copy(0, at, base[at].to(weight.dtype))
