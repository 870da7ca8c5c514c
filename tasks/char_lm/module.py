"""The character language model as a LightningModule."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric

from tasks.char_lm.data import IGNORE
from tasks.char_lm.model import GPT
from zoo.convert import ParameterizationFactory
from zoo.module import OptimizerConfig, ZooModule
from zoo.parameterizations import Dense

Batch = tuple[Tensor, Tensor]


class CharLM(ZooModule):
    """A GPT that predicts the next character.

    Args:
        vocabulary: every character, in the order of ids; comes from the data, and stays in the checkpoint.
        parameterization: of the weights of the layers that are targets.
        targets: globs of layers; by default every linear layer in the blocks, neither embeddings nor head.
        overrides: parameterizations of layers that match a glob.
        block_size: the longest context, in characters.
        layers: number of blocks.
        width: features per position.
        heads: attention heads.
        dropout: probability.
        optimizer: how to train.
        seed: of everything random in training.
    """

    default_targets = ("blocks.*",)
    from_data = ("vocabulary",)
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
    ) -> None:
        super().__init__(parameterization, targets, overrides, optimizer, seed)
        self.save_settings()
        self.vocabulary = vocabulary
        self.net = GPT(len(vocabulary), block_size, layers, width, heads, dropout)
        self.parameterize(self.net)
        self.val_loss, self.test_loss = MeanMetric(), MeanMetric()

    def forward(self, ids: Tensor) -> Tensor:
        """(batch, time) ids to (batch, time, characters) logits."""
        return self.net(ids)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean cross-entropy per character, in nats."""
        inputs, targets = batch
        loss = F.cross_entropy(self(inputs).flatten(0, 1).float(), targets.flatten())
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def _score(self, batch: Batch, mean: MeanMetric) -> None:
        """Add a batch to the mean over all scored characters."""
        inputs, targets = batch
        logits = self(inputs).flatten(0, 1).float()
        losses = F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORE, reduction="sum")
        scored = (targets != IGNORE).sum()
        mean.update(losses / scored, weight=scored)

    def _log_score(self, stage: str, mean: MeanMetric) -> None:
        """Log the mean in the three usual units, and start anew."""
        loss = mean.compute()
        mean.reset()
        self.log_dict(
            {f"{stage}/loss": loss, f"{stage}/perplexity": loss.exp(), f"{stage}/bits_per_char": loss / math.log(2)}
        )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score the validation characters."""
        self._score(batch, self.val_loss)

    def on_validation_epoch_end(self) -> None:
        """Log loss (nats), perplexity and bits per character."""
        self._log_score("val", self.val_loss)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Score the test characters."""
        self._score(batch, self.test_loss)

    def on_test_epoch_end(self) -> None:
        """Log loss (nats), perplexity and bits per character."""
        self._log_score("test", self.test_loss)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The likeliest next character at every position; (batch, time) ids."""
        return self(batch[0]).argmax(-1)

    def encode(self, text: str) -> Tensor:
        """Text to (1, characters) ids.

        Raises:
            ValueError: naming the characters that the vocabulary lacks.
        """
        unknown = sorted(set(text) - set(self.vocabulary))
        if unknown:
            known = len(self.vocabulary)
            raise ValueError(f"the model has never seen {''.join(unknown)!r}: use its own {known} characters")
        return torch.tensor([[self.vocabulary.index(c) for c in text]], device=self.device)

    def decode(self, ids: Tensor) -> str:
        """(characters,) ids to text."""
        return "".join(self.vocabulary[i] for i in ids.tolist())
