"""A small GPT over characters: plain `nn.Linear` layers, knowing nothing of zoo.

Pre-norm blocks, learned positions, biases, an untied head: with 65 characters, context 128, 4
layers of width 128 and 4 heads it is the model of arXiv 2604.04440, 826,433 parameters, 786,432 of
them in the 16 block matrices.
"""

import math
import os

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

MOST_LAYERS = 10_000
"""Blocks that may be asked for; more is a slip of the finger."""


def causal_attention(
    q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0, scale: float | None = None
) -> Tensor:
    """Compute softmax(mask(q k^T scale)) v step by step; all are (batch, heads, time, d).

    The scale is 1 / sqrt(d) if no other is given.
    """
    t, d = q.shape[-2:]
    future = torch.full((t, t), -math.inf, dtype=q.dtype, device=q.device).triu(1)
    rows, columns = (q * (d**-0.5 if scale is None else scale)).flatten(0, 1), k.flatten(0, 1).mT
    scores = torch.baddbmm(future, rows, columns)  # (batch * heads, time, time)
    y = F.dropout(scores.softmax(-1), dropout) @ v.flatten(0, 1)
    return y.unflatten(0, q.shape[:2])


class Attention(nn.Module):
    """Causal self-attention with one fused query-key-value projection."""

    def __init__(self, width: int, heads: int, dropout: float, scale: float | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.scale = scale
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, time, width) to the same shape; position t sees positions <= t."""
        q, k, v = rearrange(self.qkv(x), "b t (three h d) -> three b h t d", three=3, h=self.heads)
        p = self.dropout if self.training else 0.0
        if x.device.type == "cpu":  # its fused kernel takes five times as long, both ways
            y = causal_attention(q, k, v, p, self.scale)
        else:
            y = F.scaled_dot_product_attention(
                q, k, v, is_causal=True, dropout_p=p, scale=self.scale
            )
        return self.proj(rearrange(y, "b h t d -> b t (h d)"))


class MLP(nn.Module):
    """Two layers with a GELU between, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, 4 * width)
        self.proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, time, width) to the same shape."""
        return self.proj(F.gelu(self.fc(x)))


class Block(nn.Module):
    """A pre-norm block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, dropout: float, scale: float | None = None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads, dropout, scale)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, time, width) to the same shape."""
        x = x + self.drop(self.attn(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x)))


def parameters(vocab_size: int, block_size: int, layers: int, width: int) -> int:
    """Count the parameters of a GPT: 12 w^2 + 13 w a block, (2 v + b + 2) w + v around them."""
    around = (2 * vocab_size + block_size + 2) * width + vocab_size
    return layers * (12 * width + 13) * width + around


def memory() -> int:
    """Return the bytes of memory that this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class GPT(nn.Module):
    """A network that takes characters and gives logits of the next character.

    Args:
        vocab_size: how many characters there are.
        block_size: the longest context, in characters.
        layers: number of blocks.
        width: features per position.
        heads: attention heads; must divide `width`.
        dropout: probability, in attention and on each residual branch.
        scale: of attention's scores; by default 1 / sqrt(width / heads).
        start_layers: the depth that residual projections are drawn for, by default `layers`.

    Raises:
        ValueError: if a size is less than 1 or more than can be built here, or `heads` does not
            divide `width`.
    """

    def __init__(
        self,
        vocab_size: int,
        block_size: int = 128,
        layers: int = 4,
        width: int = 128,
        heads: int = 4,
        dropout: float = 0.0,
        scale: float | None = None,
        start_layers: int | None = None,
    ) -> None:
        super().__init__()
        sizes = {"block_size": block_size, "layers": layers, "width": width, "heads": heads}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if layers > MOST_LAYERS:
            raise ValueError(f"layers must be at most {MOST_LAYERS:,}, got {layers:,}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        if width % heads:
            raise ValueError(f"heads must divide width {width}, got {heads}")
        count = parameters(vocab_size, block_size, layers, width)
        if torch.get_default_device().type != "meta" and 4 * count > memory():
            raise ValueError(
                f"width {width:,}, {layers:,} layers and block_size {block_size:,} make {count:,} "
                "parameters, which are more than the memory here: give smaller ones"
            )
        self.block_size = block_size
        self.start_layers = layers if start_layers is None else start_layers
        self.token = nn.Embedding(vocab_size, width)
        self.position = nn.Embedding(block_size, width)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout, scale) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw GPT-2's start: std 0.02, of residual projections 0.02 / sqrt(2 start_layers)."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                residual = name.endswith("proj")
                std = 0.02 / math.sqrt(2 * self.start_layers) if residual else 0.02
                nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, ids: Tensor) -> Tensor:
        """Turn (batch, time) character ids into (batch, time, vocab_size) logits."""
        x = self.token(ids) + self.position.weight[: ids.shape[1]]
        x = self.drop(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))
