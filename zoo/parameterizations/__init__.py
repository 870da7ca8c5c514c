"""The zoo: maps from trainable coefficients to weight matrices, one per file.

Needs torch alone, no Lightning.
"""

from zoo.parameterizations.base import WeightParameterization
from zoo.parameterizations.block_dct import BlockDCT
from zoo.parameterizations.dct import DCT
from zoo.parameterizations.dense import Dense
from zoo.parameterizations.lora import LoRA
from zoo.parameterizations.orthonormal import OrthonormalSubspace, SeparableSubspace
from zoo.parameterizations.randlora import RandLoRA
from zoo.parameterizations.random_orthonormal import RandomOrthonormal
from zoo.parameterizations.row_dct import RowDCT
from zoo.parameterizations.sparse import Sparse
from zoo.parameterizations.zigzag import Zigzag

__all__ = [
    "BlockDCT",
    "DCT",
    "Dense",
    "LoRA",
    "OrthonormalSubspace",
    "RandLoRA",
    "RandomOrthonormal",
    "RowDCT",
    "SeparableSubspace",
    "Sparse",
    "WeightParameterization",
    "Zigzag",
]
