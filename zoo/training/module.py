"""The base of every task: a module with parameterized layers, which knows its run."""

import inspect
from abc import ABC
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from zoo import say_where_names_are
from zoo.errors import UserError
from zoo.files.flat import Flat
from zoo.files.tensors import write_tensors
from zoo.layers.anew import follow_bases
from zoo.layers.batched import build_together
from zoo.layers.convert import (
    Base,
    ParameterizationFactory,
    Scale,
    Start,
    convert,
    counts,
    merge,
    zoo_layers,
)
from zoo.parameterizations.budget import Budget
from zoo.training import checkpoint_state, dense_phase, identity
from zoo.training.data import ZooData
from zoo.training.optimized import OptimizedModule
from zoo.training.optimizers import OptimizerConfig

__all__ = ["ZooData", "ZooModule"]

say_where_names_are(__name__)


class ZooModule(OptimizedModule, ABC):
    """A task: a network whose chosen linear layers live in a parameterization.

    A subclass builds its network as `net`, hands it to `parameterize` and writes the usual steps.
    It logs `val/loss`; where something else decides, it logs that as `val/score`, more is better,
    and says so in `monitor`.

    Args:
        parameterization: makes the weight of a layer from its (out_features, in_features).
        targets: globs of the layers to convert (`zoo.layers.names.matches`); None takes
            `default_targets`.
        overrides: other parameterizations for layers that match a glob.
        optimizer: how to train.
        seed: with the step and the rank, the seed of everything random in training.
        budget: of all targets together; the parameterization then has none of its own.
        recompute: build every W again in backward rather than keep it
            (`zoo.layers.layer.ZooLayer`).
        base: a frozen W0 of layers from scratch, of which W is an update: `random`, as the network
            draws it; or `warm`, trained as it is for `dense_steps` before.
        dense_steps: k, the first steps, which train dense weights; then W is an update of them, or
            without a base their projection.

    Raises:
        UserError: for settings that are out of range or exclude each other.
    """

    # ---- What a subclass may say of itself -------------------------------------------------------

    monitor: str = "val/loss"
    """The metric whose best value makes `best.ckpt`: a loss's least or a score's largest."""
    default_targets: tuple[str, ...] = ("*",)
    """The layers to convert if no others are named."""
    from_data: tuple[str, ...] = ()
    """Settings that come from the data; a checkpoint with others is refused."""
    kept: tuple[str, ...] = ()
    """Settings that rates or outputs follow from; a checkpoint with others is refused."""
    sources: tuple[str, ...] = ()
    """Settings that say where a pretrained network is, whose hash is in `network_identity`."""
    of_method: tuple[str, ...] = (
        "parameterization",
        "targets",
        "overrides",
        "budget",
        "optimizer",
        "base",
        "dense_steps",
    )
    """Settings that make a method; all others are conditions, which compared runs share."""
    neutral: tuple[str, ...] = ("recompute",)
    """Settings that change no result."""
    drawn: frozenset[str] = frozenset()
    """Names in the state dict of what was drawn at random, and is in no pretrained file.

    Every checkpoint holds it, frozen or not.
    """
    net: nn.Module

    # ---- What its run knows of itself ------------------------------------------------------------

    start: Start = "random"
    """What W was before training, as `parameterize` was told (`zoo.layers.convert.convert`)."""
    started_from: str | None = None
    """The hash of the weights that `start_from` gave, if training started from a checkpoint."""
    origin: dict[str, Any] | None = None
    """What the loaded weights' run said of itself (`identity.record`), until it is compared."""
    resumed: dict[str, Any] | None = None
    """What the run that a fit goes on with said of itself."""
    before: Mapping[str, Flat] = {}
    """What was another in training before the run went on (`zoo.training.identity.before`)."""
    projected: Mapping[str, float] = {}
    """By layer the size of what was projected after a dense phase (`zoo.layers.anew`)."""
    trained_on: dict[str, object] | None = None
    """What its data was as a fit began, whatever becomes of a file meanwhile."""

    def __init__(
        self,
        parameterization: ParameterizationFactory,
        targets: list[str] | None = None,
        overrides: dict[str, ParameterizationFactory] | None = None,
        optimizer: OptimizerConfig | None = None,
        seed: int = 0,
        budget: Budget | None = None,
        recompute: bool = False,
        base: Base | None = None,
        dense_steps: int = 0,
    ) -> None:
        super().__init__(optimizer or OptimizerConfig(), seed)
        self.parameterization = parameterization
        self.targets = list(self.default_targets) if targets is None else targets
        if not self.targets:
            raise UserError(
                "targets is empty: name the layers to convert, as in --model.targets "
                "'[\"blocks.*\"]'"
            )
        self.overrides = overrides or {}
        self.budget = budget
        self.recompute = recompute
        self.base, self.dense_steps = base, dense_steps
        dense_phase.check(base, dense_steps)

    def save_settings(self) -> None:
        """Keep the subclass' arguments in every checkpoint as plain data.

        Call it in `__init__`, after super's. `load_from_checkpoint(path, weights_only=True)` then
        rebuilds the task from them, wherever it was built.
        """
        frame = inspect.currentframe()
        assert frame is not None
        self.save_hyperparameters(frame=frame.f_back)
        for key, value in self.hparams.items():
            self.hparams[key] = checkpoint_state.plain(value)
        self.hparams["_instantiator"] = "lightning.pytorch.cli.instantiate_module"

    def parameterize(
        self, network: nn.Module, start: Start = "random", scale: Scale = 1.0
    ) -> nn.Module:
        """Convert the chosen layers of a network, and have those of one shape built together.

        Args:
            network: it is converted in place (`zoo.layers.convert.convert`).
            start: what W is before training.
            scale: s of the layers, or what finds it of a layer's map.
        """
        self.start = start
        factory, targets, overrides = self.parameterization, self.targets, self.overrides
        network = convert(
            network,
            factory,
            targets,
            overrides,
            start,
            scale,
            self.budget,
            self.recompute,
            self.base,
            self.dense_steps > 0,
        )
        build_together(network)
        return network

    def batch_rows(self, batch: Any) -> int:
        """Count the rows of x that a linear layer gets of a training batch, for its cost.

        Here: the ids, padding too, of the batch's largest tensor of integers, which also has one
        label an example where there are no ids; without such a tensor, the length of the first one.
        """
        leaves = tree_leaves(dict(batch) if isinstance(batch, Mapping) else batch)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()]
        whole = (torch.int64, torch.int32)
        ids = [tensor.numel() for tensor in tensors if tensor.dtype in whole]
        return max(ids, default=len(tensors[0]) if tensors else 0)

    # ---- What tables and adapters say of it ------------------------------------------------------

    def describe(self) -> dict[str, object]:
        """Return the parameterization and the counts that a run's summary states."""
        maps = [layer.parameterization for layer in zoo_layers(self.net).values()]
        names = dict.fromkeys(type(each).__name__ for each in maps)
        return {"parameterization": "+".join(names), **counts(self.net)}

    def arguments(self) -> dict[str, object]:
        """Return the parameterization's own settings, as given."""
        return dict(self.hparams["parameterization"].get("init_args") or {})

    def network_name(self) -> str:
        """Return what the network is called in tables."""
        return type(self).__name__

    def network_identity(self) -> dict[str, str]:
        """Return what tells a pretrained network from others; nothing if there is none."""
        return {}

    def peft_fields(self) -> dict[str, str]:
        """Return what a peft adapter's config says: `task_type` and `base_model_name_or_path`."""
        return {}

    def export_dense(self, folder: Path) -> None:
        """Write the network with plain weights into an empty folder, as `model.safetensors`."""
        write_tensors(folder / "model.safetensors", merge(self.net).state_dict())

    def backbone_state(self) -> dict[str, Tensor] | None:
        """Read what the files of a pretrained network hold of `net`; None if there are none.

        Names are those before conversion.
        """
        return None

    # ---- The data that it is run on --------------------------------------------------------------

    def zoo_data(self) -> ZooData | None:
        """Return the data of the trainer that has this task, if it is zoo's."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        return data if isinstance(data, ZooData) else None

    def on_fit_start(self) -> None:
        """Refuse to go on with other data, or another global batch, than the checkpoint's.

        A task that was loaded from a checkpoint, and is fitted without one, begins a new run with
        its weights.
        """
        if self.origin is not None and self.trainer.ckpt_path is None:
            self._starts_here()
        self._compare_origin()
        dense_phase.check_run(self)
        if (data := self.zoo_data()) is not None:
            self.trained_on = data.identity()

    def on_train_start(self) -> None:
        """Note what was another before a run went on, and let the config decide rates and decay."""
        if self.trainer.global_step:
            self.before = identity.before(self, self.resumed)
        super().on_train_start()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """End a dense phase after its last step, and seed what the batch draws."""
        dense_phase.end_in_time(self)
        super().on_train_batch_start(batch, batch_idx)

    def on_validation_start(self) -> None:
        """Refuse other data than the checkpoint was trained on, unless the user has named it."""
        self._compare_origin()

    def on_test_start(self) -> None:
        """Refuse other data than the checkpoint was trained on, unless the user has named it."""
        self._compare_origin()

    def on_predict_start(self) -> None:
        """Refuse other data than the checkpoint was trained on, unless the user has named it."""
        self._compare_origin()

    def _compare_origin(self) -> None:
        if self.origin is not None:
            identity.check_data(self, self.origin)
            self.origin = None

    # ---- Checkpoints -----------------------------------------------------------------------------

    def trained_state(self) -> dict[str, Tensor]:
        """Return the state dict without what is frozen: coefficients, and what else is trained."""
        frozen = self._frozen_names()
        return {name: value for name, value in self.state_dict().items() if name not in frozen}

    def _frozen_names(self) -> set[str]:
        layers = zoo_layers(self.net).values()
        bases = {p for layer in layers if layer.stores_base for p in layer.base_parameters}
        named = self.named_parameters(remove_duplicate=False)
        frozen = {name for name, p in named if not p.requires_grad and p not in bases}
        for name, layer in zoo_layers(self).items():
            frozen |= {f"{name}.{entry}" for entry in layer.frozen_entries()}
        return frozen - self.drawn

    def load_state_dict(self, *arguments: Any, **settings: Any) -> Any:
        """Load as every module does; maps then follow the W0 that came with it."""
        found = super().load_state_dict(*arguments, **settings)
        follow_bases(zoo_layers(self.net))
        return found

    def start_from(self, checkpoint: dict[str, Any]) -> None:
        """Begin a new run, on whatever data, with the weights of a completed checkpoint."""
        self.load_state_dict(checkpoint["state_dict"])
        self._starts_here()

    def _starts_here(self) -> None:
        """Say of the run that begins that it has started from these weights."""
        trained = self.trained_state()
        self.started_from = identity.digest(*(trained[name] for name in sorted(trained)))
        self.origin = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out what is frozen, and add what the rest belongs to (`checkpoint_state.fill`)."""
        checkpoint_state.fill(self, checkpoint)

    def check_settings(self, checkpoint: Mapping[str, Any]) -> None:
        """Refuse a checkpoint with another value of a setting in `from_data` or `kept`.

        Raises:
            UserError: naming the setting.
        """
        theirs = checkpoint.get("hyper_parameters", {})
        for key in self.from_data:
            if theirs.get(key) != self.hparams[key]:
                raise UserError(
                    f"the checkpoint's {key} is not that of the data here; use the data it was "
                    "trained on"
                )
        for key in self.kept:
            if theirs.get(key) != self.hparams[key]:
                raise UserError(
                    f"the checkpoint was trained with {key} {theirs.get(key)}, and goes on with it "
                    f"alone, got {self.hparams[key]}: leave out --model.{key}, or begin a new run"
                )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse coefficients of another basis, network or data, and add what is frozen.

        Raises:
            UserError: if a seeded basis was rebuilt differently here, a setting in `from_data` is
                another one, or so is the pretrained network.
        """
        self.origin = self.resumed = checkpoint.get(identity.KEY)
        identity.check_network(self, self.origin)
        started = self.origin["identity"]["method"].get("started_from") if self.origin else None
        self.started_from = started if isinstance(started, str) else None
        checkpoint_state.complete(self, checkpoint)
