"""The zoo: maps from trainable coefficients to weight matrices, one per file.

It needs torch alone, no Lightning. The path of each is that of this package and its name, as in
`zoo.parameterizations.DCT`, whichever folder it lies in.
"""

from zoo.parameterizations.base import WeightParameterization
from zoo.parameterizations.dense import Dense
from zoo.parameterizations.isometry import Isometry
from zoo.parameterizations.low_rank.adalora import AdaLoRA
from zoo.parameterizations.low_rank.loha import LoHa
from zoo.parameterizations.low_rank.lora import LoRA
from zoo.parameterizations.low_rank.miss import MiSS
from zoo.parameterizations.low_rank.randlora import RandLoRA
from zoo.parameterizations.low_rank.vera import VeRA
from zoo.parameterizations.of_base.base_map import OfBase
from zoo.parameterizations.of_base.dora import DoRA
from zoo.parameterizations.of_base.hira import HiRA
from zoo.parameterizations.of_base.householder import Householder
from zoo.parameterizations.of_base.ia3 import IA3
from zoo.parameterizations.of_base.lora_xs import LoRAXS
from zoo.parameterizations.of_base.oft import OFT
from zoo.parameterizations.of_base.pissa import PiSSA
from zoo.parameterizations.structured.blast import BLAST
from zoo.parameterizations.structured.block_low_rank import BlockLowRank
from zoo.parameterizations.structured.circulant import Circulant
from zoo.parameterizations.structured.fastfood import Fastfood
from zoo.parameterizations.structured.fourier import Fourier
from zoo.parameterizations.structured.hashed import Hashed
from zoo.parameterizations.structured.kronecker import Kronecker
from zoo.parameterizations.structured.product import Product
from zoo.parameterizations.structured.sum import Sum
from zoo.parameterizations.structured.tensor_train import TensorTrain
from zoo.parameterizations.subspaces.block_dct import BlockDCT
from zoo.parameterizations.subspaces.dct import DCT
from zoo.parameterizations.subspaces.haar import Haar
from zoo.parameterizations.subspaces.hadamard import Hadamard
from zoo.parameterizations.subspaces.hartley import Hartley
from zoo.parameterizations.subspaces.orthonormal import OrthonormalSubspace
from zoo.parameterizations.subspaces.random_orthonormal import RandomOrthonormal
from zoo.parameterizations.subspaces.row_dct import RowDCT
from zoo.parameterizations.subspaces.separable import SeparableSubspace
from zoo.parameterizations.subspaces.sparse import Sparse
from zoo.parameterizations.subspaces.wavelet import Wavelet
from zoo.parameterizations.subspaces.zigzag import Zigzag

__all__ = [
    "AdaLoRA",
    "BLAST",
    "BlockDCT",
    "BlockLowRank",
    "Circulant",
    "DCT",
    "Dense",
    "DoRA",
    "Fastfood",
    "Fourier",
    "Haar",
    "Hadamard",
    "Hartley",
    "Hashed",
    "HiRA",
    "Householder",
    "IA3",
    "Isometry",
    "Kronecker",
    "LoHa",
    "LoRA",
    "LoRAXS",
    "MiSS",
    "OFT",
    "OfBase",
    "OrthonormalSubspace",
    "PiSSA",
    "Product",
    "RandLoRA",
    "RandomOrthonormal",
    "RowDCT",
    "SeparableSubspace",
    "Sparse",
    "Sum",
    "TensorTrain",
    "VeRA",
    "Wavelet",
    "WeightParameterization",
    "Zigzag",
]

# By this path configs, checkpoints and tables name each, and no file that moves changes it.
for _name in __all__:
    globals()[_name].__module__ = __name__
