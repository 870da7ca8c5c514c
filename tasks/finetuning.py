"""What fine-tuning tasks share: a pretrained network whose linear layers get updates."""

import math
from abc import ABC
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from tasks.hub import Head, load_network, load_tokenizer, resize_tokens
from zoo.api.adapting import DEFAULT, add
from zoo.api.scales import scale_rule
from zoo.api.switching import merged
from zoo.api.targets import find_tensors
from zoo.errors import UserError
from zoo.files.paths import nickname
from zoo.layers.batched import build_together
from zoo.layers.convert import ParameterizationFactory, choose
from zoo.layers.presets import Preset, preset_targets
from zoo.parameterizations import WeightParameterization
from zoo.parameterizations.budget import Budget
from zoo.training.identity import digest_of_weights
from zoo.training.module import ZooModule
from zoo.training.optimizers import OptimizerConfig

PEFT_TASKS: dict[Head, str] = {"SequenceClassification": "SEQ_CLS", "CausalLM": "CAUSAL_LM"}


@dataclass(frozen=True)
class Tuning:
    """What of a pretrained network is trained, and how the rest is held.

    Args:
        preset: the layers that get an update, if `targets` does not name them
            (`zoo.layers.presets`).
        scale: s of y = x (W0 + s W)^T + b; LoRA's alpha / r. Or
        alpha: s = alpha / r, with the rank r that each layer's map has.
        rslora: s = alpha / sqrt(r) (rsLoRA, arXiv 2312.03732).
        head_lr: peak learning rate of a new head, which needs a larger one than what was trained
            before; by default the optimizer's `lr`.
        train: globs of modules or parameters that are trained as they are, such as `*LayerNorm` or,
            for biases alone, `bias`.
        full: train every parameter; W then starts as near to W0 as its parameterization allows,
            with no W0 beside it. With `Dense` that is ordinary full fine-tuning.
        gradient_checkpointing: keep no activations within a block, and compute them again.
        dtype: of what is frozen. Coefficients and a classifier's head are float32.
        tokens: how many the network is to have, if not as many as the backbone: tables of tokens
            are then cut, or get rows that are drawn, and are trained.
    """

    preset: Preset = "query_value"
    scale: float = 1.0
    alpha: float | None = None
    rslora: bool = False
    head_lr: float | None = None
    train: list[str] = field(default_factory=list)
    full: bool = False
    gradient_checkpointing: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    tokens: int | None = None

    def __post_init__(self) -> None:
        """Refuse settings that exclude each other, with a UserError."""
        for name in ("full", "train", "tokens"):
            if getattr(self, name) and self.dtype != "float32":
                raise UserError(
                    f"tuning.{name} trains weights as they are, which takes float32: drop "
                    "tuning.dtype"
                )
        scale_rule(self.scale, self.alpha, self.rslora, "tuning.")
        if self.full and (self.scale != 1.0 or self.alpha is not None):
            given = "scale" if self.alpha is None else "alpha"
            raise UserError(
                "tuning.full has no W0 that an update could be scaled beside: drop "
                f"--model.tuning.{given}"
            )
        if self.tokens is not None and self.tokens < 1:
            raise UserError(f"tuning.tokens must be at least 1, or null, got {self.tokens}")
        if self.head_lr is not None and not 0 <= self.head_lr < math.inf:
            raise UserError(f"tuning.head_lr must lie in [0, inf), or be null, got {self.head_lr}")

    def scale_of(self, space: WeightParameterization) -> float:
        """Return s of a layer with this map.

        Raises:
            ValueError: for an alpha where there is no rank.
        """
        return scale_rule(self.scale, self.alpha, self.rslora, "tuning.")(space)


class FineTuning(ZooModule, ABC):
    """A pretrained network, frozen, with trained updates of its linear layers and a trained head.

    Args:
        backbone: a folder written by `save_pretrained`, or a name on the Hugging Face hub.
        parameterization: of the update W of a layer that is a target.
        targets: globs of layers; by default those of the preset.
        overrides: parameterizations of layers that match a glob.
        budget: of all targets together.
        tuning: what is trained, and how.
        optimizer: how to train.
        seed: of everything random in training.
        recompute: build every W again in backward rather than keep it; gradients are the same.
    """

    from_data: tuple[str, ...] = ()
    sources = ("backbone",)
    of_method = (*ZooModule.of_method, "tuning")
    neutral = (*ZooModule.neutral, "tuning.preset", "tuning.gradient_checkpointing")
    backbone_sha256: str | None = None

    def __init__(
        self,
        backbone: str,
        parameterization: ParameterizationFactory,
        targets: list[str] | None,
        overrides: dict[str, ParameterizationFactory] | None,
        budget: Budget | None,
        tuning: Tuning | None,
        optimizer: OptimizerConfig | None,
        seed: int,
        recompute: bool,
    ) -> None:
        super().__init__(parameterization, targets, overrides, optimizer, seed, budget, recompute)
        self.backbone = backbone
        self.tuning = tuning or Tuning()

    def build(self, head: Head, **settings: Any) -> nn.Module:
        """Load the network, freeze it and give it its updates; call it after `save_settings`.

        Raises:
            UserError: if the network cannot be had, a pattern matches nothing, or its architecture
                has no preset.
        """
        tuning = self.tuning
        self.head = head
        self.settings = settings
        network, drawn = load_network(
            self.backbone, head, tuning.dtype, not tuning.full, **settings
        )
        if tuning.tokens is not None:
            drawn |= resize_tokens(network, tuning.tokens)
        read = [p for name, p in network.named_parameters() if name not in drawn]
        self.backbone_sha256 = None if any(p.is_meta for p in read) else digest_of_weights(read)
        self.drawn = frozenset(f"net.{name}" for name in drawn)
        named = dict(network.named_parameters())
        for name in find_tensors(network, tuning.train, "tuning.train"):
            if name in named:
                named[name].requires_grad_(True)
        if self.hparams["targets"] is None:
            self.targets = preset_targets(network, tuning.preset)
        self.adapt(network)
        if tuning.gradient_checkpointing:
            if not network.supports_gradient_checkpointing:
                raise UserError(
                    f"{network.config.model_type} networks cannot compute their activations again: "
                    "drop --model.tuning.gradient_checkpointing"
                )
            old = network.gradient_checkpointing_enable  # what transformers 5 called it at first
            getattr(network, "activation_checkpointing_enable", old)({"use_reentrant": False})
        return network

    def adapt(self, network: nn.Module) -> None:
        """Give layers their updates; what is trained besides is what needs a gradient now.

        Of full fine-tuning they get a weight instead, and all else is trained.
        """
        self.start = "project" if self.tuning.full else "update"
        factories = choose(
            network, self.parameterization, self.targets, self.overrides, self.budget, self.start
        )
        besides = [
            name
            for name, p in network.named_parameters()
            if p.requires_grad and name.removesuffix(".weight") not in factories
        ]
        scale, again = self.tuning.scale_of, self.recompute
        add(network, DEFAULT, factories, scale, besides, self.start, again)
        build_together(network)

    def own_rates(self) -> dict[nn.Parameter, float]:
        """Return the head's learning rate, where it has one of its own."""
        if self.tuning.head_lr is None:
            return {}
        base = set(self.net.base_model.parameters())  # type: ignore[union-attr, operator]
        return {p: self.tuning.head_lr for p in self.net.parameters() if p not in base}

    def _frozen_names(self) -> set[str]:
        """Return the frozen names that the backbone's files hold.

        A classifier's head and what else was drawn are left out: no backbone has them to be read
        again.
        """
        names, inside = super()._frozen_names(), f"net.{self.net.base_model_prefix}."
        if self.head == "CausalLM":
            return names
        return {name for name in names if name.startswith(inside)}

    def backbone_state(self) -> dict[str, Tensor]:
        """Read again what the backbone's files hold.

        Names are those that the network had before conversion.
        """
        network, drawn = load_network(
            self.backbone, self.head, self.tuning.dtype, True, **self.settings
        )
        return {name: tensor for name, tensor in network.state_dict().items() if name not in drawn}

    def export_dense(self, folder: Path) -> None:
        """Write a plain model of the head's class as `save_pretrained` does, and the tokenizer.

        It has the dtype of the backbone.
        """
        merged(self.net).save_pretrained(folder)  # type: ignore[operator]
        load_tokenizer(self.backbone).save_pretrained(folder)

    def peft_fields(self) -> dict[str, str]:
        """Return the kind of head, in peft's words, and the backbone."""
        return {"task_type": PEFT_TASKS[self.head], "base_model_name_or_path": self.backbone}

    def network_name(self) -> str:
        """Return the backbone's name, shortened."""
        return nickname(self.backbone)

    def network_identity(self) -> dict[str, str]:
        """Return the hash of the weights that were read, wherever the backbone lies."""
        return {} if self.backbone_sha256 is None else {"backbone_sha256": self.backbone_sha256}

    def describe(self) -> dict[str, object]:
        """Return what describes any run, and the backbone."""
        return {"backbone": self.backbone, **super().describe()}
