"""The LightningCLI of the commands that train and test: its options, and what it builds of them."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

import tasks
import zoo.parameterizations  # noqa: F401  so that short names are known
from zoo.cli.console import complain
from zoo.cli.fit import messages, trainer_options
from zoo.cli.fit.config_files import ConfigFile, after_configs
from zoo.cli.fit.names import check_name
from zoo.cli.fit.own_tasks import check_task, classes_of, why_not_built
from zoo.cli.fit.parsing import check_classes, check_nulls, options_of
from zoo.cli.fit.resume import check_resumable, resumed_logger
from zoo.cli.fit.run_config import Given, anchor
from zoo.errors import UserError
from zoo.files import trust
from zoo.files.access import check_writable
from zoo.files.flat import as_json
from zoo.files.locks import Lock
from zoo.files.trust import NOBODY, Trust
from zoo.runs import checkpoints
from zoo.training.callbacks import Checkpoint, Progress, SpectralEnergy, StableRank, Stop
from zoo.training.tensorboard import Logger
from zoo.training.trainer import environment, equip

SEEDS = ("data.init_args.seed", "model.init_args.seed")
LINKED = {
    **{source: (target,) for source, target in (tasks.LINKS | tasks.SETTINGS).items()},
    "seed_everything": SEEDS,
}
"""Options from which others are taken."""
LINKED_KEYS = {
    target.replace(".init_args", "") for targets in LINKED.values() for target in targets
}


class ZooCLI(LightningCLI):
    """Groups `trainer`, `model` and `data`; and one for each callback that is on by default.

    Args:
        given: the checkpoint of the command line.
        run_name: of a new run, together with its data's.
        trust: which classes files may name, where one is given.
        lock: on the folder of the run that goes on, in the process that has it.
        settings: Lightning's.
    """

    command: str | None = None

    def __init__(
        self,
        *arguments: Any,
        given: Given | None = None,
        run_name: str = "run",
        trust: Trust = NOBODY,
        lock: Lock | None = None,
        **settings: Any,
    ) -> None:
        self.given, self.run_name, self.trust, self.lock = given, run_name, trust, lock
        self.checkpoint: dict[str, Any] | None = None
        words = settings.get("args") or ()
        self.typed, self.settled = options_of(words), options_of(after_configs(words))
        super().__init__(*arguments, **settings)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """List the subcommands, or the one that is asked for: a parser takes 0.06 s to build."""
        commands = {**LightningCLI.subcommands(), "params": {"model", "datamodule"}}
        return {name: skip for name, skip in commands.items() if ZooCLI.command in (None, name)}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        # With abbreviations --trainer.max_step would pass as max_steps.
        parser = self.parser_class(**kwargs, allow_abbrev=False)
        parser.trust = self.trust if self.given else None  # type: ignore[attr-defined]
        parser.settled = self.settled  # type: ignore[attr-defined]
        parser.add_argument(
            "-c", "--config", action=ConfigFile, help="path or name of a shipped config; repeatable"
        )
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--base", type=list[str] | str | None, default=None, help=argparse.SUPPRESS
        )
        parser.add_argument(
            "--name", type=str | None, default=None, help="of the run; else of config and data"
        )
        # This one is read before the parser is.
        parser.add_argument(trust.OPTION, type=str | None, default=None, help=trust.HELP)
        parser.add_lightning_class_args(StableRank, "stable_rank")
        parser.add_lightning_class_args(SpectralEnergy, "spectral_energy")
        # Checkpoints come after those whose state they save.
        parser.add_lightning_class_args(Checkpoint, "checkpoint")
        for source, target in tasks.LINKS.items():
            parser.link_arguments(source, target, apply_on="instantiate")
        for source, target in tasks.SETTINGS.items():
            parser.link_arguments(source, target)
        for target in SEEDS:
            parser.link_arguments("seed_everything", target, compute_fn=int)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        for source, targets in LINKED.items():
            for target in targets:
                option = target.replace(".init_args", "")
                if self.typed & {target, option}:
                    raise UserError(f"--{option} is taken from --{source}: give that in its place")
        with self._of_the_run():
            super().parse_arguments(parser, args)
        config = self.config.get(str(self.config.get("subcommand")), self.config)
        for key in ("base", "trust"):
            config.pop(key, None)
        trainer_options.check_seed(config.get("seed_everything"))
        trainer_options.follow_launcher(config.trainer)
        trainer_options.check(str(self.config.get("subcommand")), config.trainer)

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning lets a checkpoint's settings override the command line (PR 21455).

        `run` puts the run's own config in front of the command line instead.
        """

    def _dump_config(self) -> None:
        """Write the settings that a checkpoint keeps: Lightning would check them all once more."""
        if not hasattr(self, "config_dump"):
            text = self.parser.dump(
                self.config,
                format="yaml",
                skip_link_targets=False,
                skip_none=False,
                skip_validation=True,
            )
            written = yaml.safe_load(text)
            self.config_dump = written.get(self.config.get("subcommand"), written)

    def before_instantiate_classes(self) -> None:
        if not self._get(self.config, "model") or not self._get(self.config, "data"):
            raise UserError(messages.NOTHING)
        for group in ("model", "data"):
            check_classes(self._get(self.config, group), group)
            check_nulls(self._get(self.config, group), group, linked=LINKED_KEYS)
            anchor(self._get(self.config, group))
        path = self._get(self.config, "ckpt_path")
        if self.given is None and path is not None:  # a config has it
            self.given = Given(checkpoints.resolve(str(path)), None, None, [], [])
        if self.subcommand in LightningCLI.subcommands():
            # Nothing that a checkpoint holds is ever executed.
            self.config[self.subcommand].weights_only = True
        if self.subcommand in ("validate", "test"):
            self.config[self.subcommand].verbose = False  # RunSummary prints a table of its own

    def instantiate_classes(self) -> None:
        """Build task, data and trainer; sizes in a checkpoint are checked first."""
        with self._of_the_run():
            if self.given is not None:
                path = self.given.path
                self.checkpoint = checkpoints.load(path, resume=self.subcommand == "fit")
                if self._starts:
                    self._start(self.given)
                if "zoo_task" in self.checkpoint:
                    checkpoints.task_of(path, self.checkpoint, self.trust)
                checkpoints.check_sizes(
                    path,
                    self.checkpoint,
                    lambda: self._get(self.parser.instantiate_classes(self.config), "model"),
                )
            try:
                super().instantiate_classes()
            except Exception as error:
                specs = [self._get(self.config, group) for group in ("model", "data")]
                if messages.user_error(error) is None and (
                    why := why_not_built(error, classes_of(*specs))
                ):
                    raise UserError(why) from error
                raise
        validates = self._get(self.config, "trainer").get("limit_val_batches") != 0
        check_task(self.model, self.datamodule, str(self.subcommand), validates)
        self.datamodule.given = as_json(dict(self._get(self.config, "data").get("init_args") or {}))
        self.datamodule.named = (
            self.given is None or self.given.config is None or self.given.names(self.datamodule)
        )
        if self.given is not None and self.given.imports:
            complain(f"the run imports {', '.join(self.given.imports)}")
        if self.given is not None and self._starts:
            complain(f"a new run starts from the weights of '{self.given.path}', at step 0")

    @contextmanager
    def _of_the_run(self) -> Iterator[None]:
        """Say of what goes wrong with the settings of a run that they are the run's."""
        try:
            yield
        except UserError:
            raise
        except (
            TypeError,
            ValueError,
            AttributeError,
            ImportError,
            LookupError,
            RuntimeError,
            OverflowError,
        ) as error:
            if self.given is None or messages.user_error(error):
                raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
            where = f"the settings of '{self.given.path}' cannot be used here"
            raise UserError(f"{where} ({reason}): give others as options") from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        step, resume = 0, self.subcommand == "fit"
        if self.given is not None and self.checkpoint is not None:
            path, checkpoint = self.given.path, self.checkpoint
            step = checkpoint["global_step"]
            checkpoints.check(path, checkpoint, self.model)
            if self._starts:
                step = 0
                self.model.start_from(checkpoint)
            elif resume:
                check_resumable(path, checkpoint, self.model.seed)
        config = self._get(self.config_init, "trainer")
        checkpoint_callbacks = [
            c for c in _several(config.get("callbacks")) if isinstance(c, LightningCheckpoint)
        ]
        if "trainer.enable_checkpointing" in self.typed and not checkpoint_callbacks:
            raise UserError(
                "--trainer.enable_checkpointing is Lightning's, and zoo writes its own: "
                "--checkpoint.every_n_steps says when, and 0 never"
            )
        kwargs["enable_checkpointing"] = bool(checkpoint_callbacks)
        if config.get("enable_progress_bar") is False:
            for callback in self.trainer_defaults["callbacks"]:
                if isinstance(callback, Progress):
                    # The callback stays, to say how to go on and how far the fit is.
                    kwargs["enable_progress_bar"] = callback.silent = True
        if config.get("logger") in (None, True):
            kwargs["logger"] = self._logger(config, step) if resume else False
        if (plugins := environment(config.get("plugins"))) is not None:
            kwargs["plugins"] = plugins
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except RuntimeError as error:
            if "SLURM" in str(error):
                raise UserError(" ".join(str(error).split())) from error
            raise
        equip(trainer, resume)
        return trainer

    def before_fit(self) -> None:
        """Let a signal find the processes that are started for other ranks."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Stop):
                callback.trainer = self.trainer

    def after_fit(self) -> None:
        """Refuse a fit that had nothing to train on: Lightning skips it.

        Raises:
            UserError: naming the data.
        """
        if self.trainer.num_training_batches == 0:
            raise UserError(
                f"{type(self.datamodule).__name__}.train_dataloader has no batch: give more data, "
                "or a smaller --data.batch_size"
            )

    @property
    def _starts(self) -> bool:
        """Say whether a fit begins a new run with the checkpoint's weights, and does not go on."""
        if self.given is None or self.checkpoint is None:
            return False
        return self.subcommand == "fit" and checkpoints.is_start(self.given.path, self.checkpoint)

    def _start(self, source: Given) -> None:
        """Let `fit` begin a new run, in a folder of its own, with the weights of a checkpoint."""
        self.given = source._replace(folder=None)
        self.config[self.subcommand].ckpt_path = None
        if self.lock is not None:
            self.lock.release()  # on the folder that the checkpoint is in

    def _logger(self, config: Any, step: int) -> Logger:
        """Make the logger of a new version, or of one that goes on, in which nobody else trains."""
        if self.given is not None and self.given.folder is not None:
            return resumed_logger(self.given.folder, step, self.lock)
        root = Path(config.get("default_root_dir") or "runs")
        name = self._get(self.config, "name")
        name = f"{self.run_name}-{self.datamodule.name}" if name is None else name
        check_name(name)
        check_writable(root / name, "--trainer.default_root_dir", "runs to ")
        return Logger(root, name, default_hp_metric=False)


def _several(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
