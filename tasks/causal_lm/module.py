"""A pretrained decoder, fine-tuned on a text."""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tasks.finetuning import FineTuning, Tuning
from tasks.hub import load_tokenizer
from tasks.text.module import LanguageModel, LanguageScore
from zoo.errors import UserError, option
from zoo.layers.convert import ParameterizationFactory
from zoo.parameterizations import Dense
from zoo.parameterizations.budget import Budget
from zoo.training.optimizers import OptimizerConfig


def sees_ahead(network: Any) -> bool:
    """Return whether the logits at a position depend on a later one, as an encoder's do."""
    training = network.training
    ids = torch.arange(2, device=network.device)[None]
    with torch.enable_grad():  # whoever builds the task
        inputs = network.get_input_embeddings()(ids).detach().requires_grad_()
        logits = network.eval()(inputs_embeds=inputs, use_cache=False).logits  # (1, 2, vocabulary)
        (gradient,) = torch.autograd.grad(logits[:, 0].float().square().sum(), inputs)
    network.train(training)
    return bool(gradient[:, 1].any())


class CausalLM(FineTuning, LanguageModel):
    """A pretrained network that predicts the next token.

    Args:
        backbone: a folder written by `save_pretrained`, or a name on the Hugging Face hub.
        parameterization: of the update W of a layer that is a target.
        targets: globs of layers; by default those of `tuning.preset`, query and value.
        overrides: parameterizations of layers that match a glob.
        budget: of all targets together; the parameterization then has none of its own.
        tuning: what is trained, and how the rest is held.
        block_size: the longest context in sampling, in tokens; comes from the data.
        optimizer: how to train.
        seed: of everything random in training.
        recompute: build every W again in backward rather than keep it; gradients are the same.

    Raises:
        UserError: for a backbone that is no decoder.
    """

    def __init__(
        self,
        backbone: str = "gpt2",
        parameterization: ParameterizationFactory = Dense,
        targets: list[str] | None = None,
        overrides: dict[str, ParameterizationFactory] | None = None,
        budget: Budget | None = None,
        tuning: Tuning | None = None,
        block_size: int = 128,
        optimizer: OptimizerConfig | None = None,
        seed: int = 0,
        recompute: bool = False,
    ) -> None:
        update = (parameterization, targets, overrides, budget, tuning)
        super().__init__(backbone, *update, optimizer, seed, recompute)
        self.save_settings()
        self.block_size = block_size
        network: Any = self.build("CausalLM")
        if network.device.type != "meta" and sees_ahead(network):
            raise UserError(
                f"backbone {backbone!r}: a {network.config.model_type} is an encoder, which sees "
                "the token that is to be predicted; give a decoder, such as gpt2, as "
                f"{option('model.backbone')}"
            )
        self.net = network
        self.score = LanguageScore()

    def forward(self, ids: Tensor) -> Tensor:
        """Turn (batch, time) ids into (batch, time, vocabulary) float32 logits of a next token."""
        return self.net(input_ids=ids, use_cache=False).logits.float()

    @cached_property
    def tokenizer(self) -> Any:
        """The backbone's tokenizer, loaded when first asked for."""
        return load_tokenizer(self.backbone)

    def encode(self, text: str) -> Tensor:
        """Turn a text into (1, tokens) ids."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise UserError(f"{text!r} has no tokens: give words to continue")
        return torch.tensor([ids], device=self.device)

    def decode(self, ids: Tensor) -> str:
        """Turn (tokens,) ids into text."""
        return self.tokenizer.decode(ids)
