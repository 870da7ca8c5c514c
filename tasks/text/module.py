"""The language model as a LightningModule, whatever its network: steps, score and sampling."""

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from tasks.text.windows import IGNORE
from zoo.errors import UserError
from zoo.training.module import ZooModule


class LanguageScore(Metric):
    """Loss, perplexity and bits per character of a text that comes in batches.

    loss = nats / ids, perplexity = exp(loss), bits per character = nats / (ln 2 characters): the
    last compares models whose ids stand for pieces of different length.
    """

    nats: Tensor
    ids: Tensor
    characters: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("nats", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("ids", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("characters", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, targets: Tensor, characters: Tensor) -> None:
        """Add a batch. Logits are (windows, time, ids), targets and characters (windows, time)."""
        self.nats += F.cross_entropy(
            logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORE, reduction="sum"
        )
        self.ids += (targets != IGNORE).sum()
        self.characters += characters.sum()

    def compute(self) -> dict[str, Tensor]:
        """Return the three by name."""
        loss = self.nats / self.ids
        return {
            "loss": loss,
            "perplexity": loss.exp(),
            "bits_per_char": self.nats / self.characters / math.log(2),
        }


class LanguageModel(ZooModule, ABC):
    """A network that predicts the next id of a text.

    A subclass defines `forward`, `encode` and `decode`, and makes `block_size`, the longest
    context, and `score`.
    """

    block_size: int
    score: LanguageScore

    @abstractmethod
    def forward(self, ids: Tensor) -> Tensor:
        """Turn (batch, time) ids into (batch, time, vocabulary) logits of the next id.

        time <= block_size.
        """

    @abstractmethod
    def encode(self, text: str) -> Tensor:
        """Turn a text into (1, time) ids.

        Raises:
            UserError: for a text that has none.
        """

    @abstractmethod
    def decode(self, ids: Tensor) -> str:
        """Turn (time,) ids into text."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the mean cross-entropy of the next id, in nats."""
        inputs, targets = batch
        loss = F.cross_entropy(self(inputs).flatten(0, 1).float(), targets.flatten())
        self.log_loss(loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        """Score a batch."""
        inputs, targets, characters = batch
        self.score.update(self(inputs), targets, characters)

    def on_validation_epoch_end(self) -> None:
        """Log loss (nats), perplexity and bits per character."""
        self._log_score("val")

    def test_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        """Score a batch."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Log loss (nats), perplexity and bits per character."""
        self._log_score("test")

    def _log_score(self, stage: str) -> None:
        values = {f"{stage}/{name}": value for name, value in self.score.compute().items()}
        self.score.reset()
        # Values are equal on every rank already, which Lightning cannot know.
        self.log_dict(values, sync_dist=True)

    def predict_step(
        self, batch: tuple[Tensor, Tensor, Tensor, Tensor], batch_idx: int
    ) -> dict[str, Tensor]:
        """Return what the network says of each id that is scored.

        Returns:
            `index`, its place in the validation text, counted in ids; `prediction`, the likeliest
            id there; `label`, the one that stands there; `loss`, the cross-entropy in nats, whose
            mean is that of validation; and the `characters` that it stands for; (ids,) each.
        """
        targets, characters, places = (part.flatten() for part in batch[1:])
        logits = self(batch[0]).flatten(0, 1).float()  # (ids, vocabulary)
        scored = targets != IGNORE
        loss = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none")
        columns = {
            "index": places,
            "prediction": logits.argmax(-1),
            "label": targets,
            "loss": loss,
            "characters": characters,
        }
        return {name: values[scored] for name, values in columns.items()}

    def prediction_columns(self, outputs: dict[str, Tensor]) -> dict[str, object]:
        """Return what `predict_step` does, with ids as text."""
        texts = {
            key: [self.decode(i) for i in outputs[key][:, None]] for key in ("prediction", "label")
        }
        return {key: texts.get(key, values) for key, values in outputs.items()}

    @torch.no_grad()
    def sample(
        self,
        ids: Tensor,
        length: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Continue (batch, time) ids by `length` sampled ones; temperature 0 takes the likeliest.

        Raises:
            UserError: if the network gives what is no number.
        """
        for _ in range(length):
            logits = self(ids[:, -self.block_size :])[:, -1].float()
            if not logits.isfinite().all():
                raise UserError(
                    "the network gives what is no finite number, as after training that diverged: "
                    "use another checkpoint"
                )
            if temperature < 1e-6:
                new = logits.argmax(-1, keepdim=True)
            else:
                if top_k is not None and top_k < logits.shape[-1]:
                    logits[logits < logits.topk(top_k).values[:, -1:]] = -math.inf
                new = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
            ids = torch.cat([ids, new], 1)
        return ids

    def generate(
        self,
        prompt: str,
        length: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 0,
    ) -> str:
        """Return the prompt and `length` sampled ids more, as text.

        Raises:
            UserError: for a prompt that has no ids.
        """
        generator = torch.Generator(self.device).manual_seed(seed)
        return self.decode(
            self.sample(self.encode(prompt), length, temperature, top_k, generator)[0]
        )
