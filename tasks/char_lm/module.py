"""The character language model as a LightningModule."""

import torch
from torch import Tensor

from tasks.char_lm.model import GPT
from tasks.text.module import LanguageModel, LanguageScore
from zoo.errors import UserError
from zoo.layers.convert import Base, ParameterizationFactory
from zoo.layers.transfer import BaseSizes, scale_from_base_
from zoo.parameterizations import Dense
from zoo.training.optimizers import OptimizerConfig


def network(
    vocabulary: int,
    block_size: int,
    layers: int,
    width: int,
    heads: int,
    dropout: float,
    sizes: BaseSizes | None = None,
) -> GPT:
    """Make a GPT, scaled from a smaller one if its sizes are given.

    Raises:
        UserError: if that is no smaller one, or its heads do not divide its width.
    """
    if sizes is None:
        return GPT(vocabulary, block_size, layers, width, heads, dropout)
    if sizes.width > width or sizes.layers > layers:
        raise UserError(
            f"base_sizes must not be larger than the network, {width} wide with {layers} layers, "
            f"got {sizes.width} and {sizes.layers}: give those of a smaller one, which was tuned"
        )
    scale = None if sizes.head is None else heads * sizes.head**0.5 / width
    gpt = GPT(vocabulary, block_size, layers, width, heads, dropout, scale, sizes.layers)
    with torch.device("meta"):
        base = GPT(vocabulary, block_size, sizes.layers, sizes.width, heads=1)
    scale_from_base_(gpt, base, residual=("*proj",))
    return gpt


class CharLM(LanguageModel):
    """A GPT that predicts the next character.

    Args:
        vocabulary: every character, in the order of ids; comes from the data, and stays in the
            checkpoint.
        parameterization: of the weights of the layers that are targets.
        targets: globs of layers; by default every linear layer in the blocks, neither embeddings
            nor head.
        overrides: parameterizations of layers that match a glob.
        block_size: the longest context, in characters.
        layers: number of blocks.
        width: features per position.
        heads: attention heads.
        dropout: probability.
        optimizer: how to train.
        seed: of everything random in training.
        recompute: build every W again in backward rather than keep it; gradients are the same.
        base: a frozen W0 that W is an update of: `random`, as GPT-2's start draws it; `warm`,
            trained as it is for `dense_steps` before; or null.
        dense_steps: the first steps, which train dense weights; then W is an update of them, or
            without a base their projection.
        base_sizes: sizes of a smaller network, from whose start and rates those of this one follow
            (`zoo.layers.transfer`), so that a rate that was tuned there serves here; or null.
    """

    default_targets = ("blocks.*",)
    from_data = ("vocabulary",)
    of_method = (*LanguageModel.of_method, "base_sizes")
    kept = ("base_sizes",)
    net: GPT

    def __init__(
        self,
        vocabulary: str,
        parameterization: ParameterizationFactory = Dense,
        targets: list[str] | None = None,
        overrides: dict[str, ParameterizationFactory] | None = None,
        block_size: int = 128,
        layers: int = 4,
        width: int = 128,
        heads: int = 4,
        dropout: float = 0.0,
        optimizer: OptimizerConfig | None = None,
        seed: int = 0,
        recompute: bool = False,
        base: Base | None = None,
        dense_steps: int = 0,
        base_sizes: BaseSizes | None = None,
    ) -> None:
        super().__init__(
            parameterization,
            targets,
            overrides,
            optimizer,
            seed,
            recompute=recompute,
            base=base,
            dense_steps=dense_steps,
        )
        self.save_settings()
        self.vocabulary, self.block_size = vocabulary, block_size
        self.net = network(len(vocabulary), block_size, layers, width, heads, dropout, base_sizes)
        self.parameterize(self.net)
        self.score = LanguageScore()

    def forward(self, ids: Tensor) -> Tensor:
        """Turn (batch, time) ids into (batch, time, characters) logits."""
        return self.net(ids)

    def encode(self, text: str) -> Tensor:
        """Turn a text into (1, characters) ids.

        Raises:
            UserError: naming the characters that the vocabulary lacks.
        """
        unknown = sorted(set(text) - set(self.vocabulary))
        if unknown:
            known = len(self.vocabulary)
            raise UserError(
                f"the model has never seen {''.join(unknown)!r}: use its own {known} characters"
            )
        return torch.tensor([[self.vocabulary.index(c) for c in text]], device=self.device)

    def decode(self, ids: Tensor) -> str:
        """Turn (characters,) ids into text."""
        return "".join(self.vocabulary[i] for i in ids.tolist())
