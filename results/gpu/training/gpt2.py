"""A network of GPT-2's size with random weights, made quickly."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

if TYPE_CHECKING:
    from tasks import CharLM


class Size(NamedTuple):
    """The size of a network."""

    vocabulary: int
    layers: int
    width: int
    heads: int
    context: int


GPT2 = Size(50304, 12, 768, 12, 1024)
SMALL = Size(128, 2, 32, 2, 16)


def made(
    parameterization: type,
    arguments: dict[str, Any],
    size: Size,
    device: str,
    dtype: torch.dtype = torch.float32,
) -> "CharLM":
    """Make the character task at a size, on a device, in a dtype.

    Its constructor runs on the meta device, and then one layer of each shape is made after the
    other, and all others in threads: a random selection sorts its places on the CPU, which takes
    0.3 s a matrix, twice with the rate, and otherwise three times more for device and dtype.
    """
    from tasks import CharLM
    from zoo.layers.convert import zoo_layers
    from zoo.layers.linear import ZooLinear
    from zoo.training.optimizers import OptimizerConfig

    vocabulary = "".join(map(chr, range(0x10000, 0x10000 + size.vocabulary)))
    with torch.device("meta"):
        model = CharLM(
            vocabulary,
            partial(parameterization, **arguments),
            block_size=size.context,
            layers=size.layers,
            width=size.width,
            heads=size.heads,
            optimizer=OptimizerConfig(lr=6e-4),
        )

    def draw(layer: ZooLinear) -> None:
        state = {
            name: torch.zeros_like(p, device=device, dtype=dtype)
            for name, p in layer.named_parameters()
        }
        layer.load_state_dict(state, assign=True)  # which makes the buffers
        layer.parameterization.reset_parameters(0.02)
        _ = layer.parameterization.lr_mult  # which it keeps

    layers = list(zoo_layers(model.net).values())
    for layer in layers[: len(layers) // size.layers]:
        draw(layer)
    with ThreadPoolExecutor() as pool:
        list(pool.map(draw, layers[len(layers) // size.layers :]))
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.Embedding | nn.Linear):
            module.to_empty(device=device).to(dtype).reset_parameters()
    model.net.reset_parameters()  # of embeddings and head
    return model
