"""The commands that train and test, as a LightningCLI: any task and parameterization, from yaml."""

import argparse
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.strategies import DDPStrategy
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException
from torch.nn.parallel import DistributedDataParallel

import tasks
import zoo.parameterizations  # noqa: F401  so that short names are known
from tasks.text.corpus import kept
from zoo.cli.console import complain, file_error, is_first, quiet
from zoo.cli.fit import messages, trainer_options
from zoo.cli.fit.config_files import ConfigFile, after_configs, written_out
from zoo.cli.fit.names import check_name, run_name
from zoo.cli.fit.own_tasks import check_facts, check_task, classes_of, why_not_built
from zoo.cli.fit.params import params_json, params_table
from zoo.cli.fit.parsing import Parser, check_classes, check_nulls, options_of
from zoo.cli.fit.run_config import Given, anchor, given
from zoo.errors import UserError
from zoo.files import trust
from zoo.files.access import check_writable, write_text
from zoo.files.flat import as_json
from zoo.files.locks import Lock
from zoo.files.trust import NOBODY, Trust
from zoo.runs import checkpoints
from zoo.training.callbacks import (
    Checkpoint,
    Predictions,
    Progress,
    RunSummary,
    SpectralEnergy,
    StableRank,
    Stop,
    Stopped,
)
from zoo.training.module import ZooData, ZooModule
from zoo.training.tensorboard import Logger, locked
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


class ZooTrainer(Trainer):
    """Lightning's trainer, with the commands that look at a model."""

    def params(
        self, model: ZooModule, datamodule: ZooData | None = None, json: bool = False
    ) -> None:
        """Print what is swapped for what, and the counts.

        Args:
            model: the task.
            datamodule: its data.
            json: print JSON instead of a table.
        """
        print(params_json(model) if json else params_table(model))


class SaveConfig(SaveConfigCallback):
    """Keeps the resolved config with the run, for fit only."""

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Write nothing yet: a fit that fails before its first step leaves nothing."""

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Check that what the data says of itself can be written."""
        if isinstance(data := trainer.datamodule, ZooData):  # type: ignore[attr-defined]
            check_facts(data)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Make the run's folder, and put the config there."""
        logger = trainer.logger
        if logger is None:
            return
        if isinstance(logger, Logger):
            logger.agree(trainer.strategy)
        config, data = self.config.clone(), trainer.datamodule  # type: ignore[attr-defined]
        for key, value in (data.settings() if isinstance(data, ZooData) else {}).items():
            config.data.init_args[key] = value
        # These are of this command alone, and the file serves all.
        for key in ("ckpt_path", "weights_only", "config", "base", "trust"):
            config.pop(key, None)
        if trainer.is_global_zero and logger.log_dir is not None:
            folder = Path(logger.log_dir)
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / "config.yaml", self.parser.dump(config, skip_none=False))


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
                self._check_resumable(path, checkpoint)
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
        if isinstance(trainer.strategy, DDPStrategy):
            keep_buffers(trainer.strategy._ddp_kwargs)
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

    def _check_resumable(self, path: Path, checkpoint: Mapping[str, Any]) -> None:
        """Raises UserError for a checkpoint without an optimizer's state, or of another seed."""
        if "optimizer_states" not in checkpoint:
            raise UserError(
                f"'{path}' has no optimizer state beside it to go on from: give the folder of a run"
            )
        seed = checkpoint.get("hyper_parameters", {}).get("seed", self.model.seed)
        if seed != self.model.seed:
            raise UserError(
                f"'{path}' was trained with seed {seed}, and goes on with it alone, got "
                f"{self.model.seed}: drop --seed_everything, or start a new run"
            )

    def _logger(self, config: Any, step: int) -> Logger:
        """Make the logger of a new version, or of one that goes on, in which nobody else trains."""
        if self.given is not None and self.given.folder is not None:
            version = self.given.folder
            for name in (
                "summary.json",
                "config.yaml",
                "checkpoints/best.ckpt",
                "checkpoints/last.ckpt",
            ):
                if (version / name).is_dir():
                    raise UserError(
                        f"'{version / name}' is a folder, where a file is written: move it away"
                    )
            logger = Logger(
                version.parent.parent,
                version.parent.name,
                version.name,
                default_hp_metric=False,
                purge_step=step
                + 1,  # events past the checkpoint belong to steps that are now taken again
            )
            return logger.held_by(self.lock) if self.lock is not None else logger
        root = Path(config.get("default_root_dir") or "runs")
        name = self._get(self.config, "name")
        name = f"{self.run_name}-{self.datamodule.name}" if name is None else name
        check_name(name)
        check_writable(root / name, "--trainer.default_root_dir", "runs to ")
        return Logger(root, name, default_hp_metric=False)


def _several(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def keep_buffers(ddp: dict[str, Any]) -> None:
    """Broadcast no buffers in DDP, unless its settings say so: bases are equal on every rank."""
    old, new = "broadcast_buffers", "forward_sync_buffers"  # torch 2.13 renamed it
    if old not in ddp and new not in ddp:
        ddp[new if new in inspect.signature(DistributedDataParallel).parameters else old] = False


def command_line(
    callbacks: list[Callback], args: list[str] | None = None, run: bool = False, **settings: Any
) -> ZooCLI:
    """Parse a command line, and build task, data and trainer.

    Args:
        callbacks: of the trainer.
        args: words of the command line; the first is the subcommand, if it is to be run.
        run: whether to run the subcommand.
        settings: of `ZooCLI`.
    """
    return ZooCLI(
        ZooModule,
        ZooData,
        trainer_class=ZooTrainer,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        parser_class=Parser,
        trainer_defaults={
            "callbacks": callbacks,
            "enable_checkpointing": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "enable_autolog_hparams": False,
            "use_distributed_sampler": False,
        },
        save_config_callback=SaveConfig,
        save_config_kwargs={"overwrite": True},
        args=args,
        run=run,
        **settings,
    )


def run(argv: list[str], callbacks: Sequence[Callback] = ()) -> int:
    """Run a LightningCLI command, with more callbacks if wanted; returns the exit status."""
    quiet()
    stop, lock = Stop(), None
    try:
        # In place, as DDP starts its other processes with sys.argv.
        sys.argv[1:] = argv = kept(written_out(argv))
        trusted = Trust.of(argv)
        words = ["--json=true" if word == "--json" else word for word in trust.split(argv)[0]]
        ZooCLI.command = words[0]
        source = given(words, trusted)
        if words[0] == "fit" and source is not None and source.folder is not None and is_first():
            # Before the checkpoint is read, which somebody else may be about to replace.
            lock = locked(source.folder)
        rest = source.words() if source is not None else words[1:]
        with stop.listening():
            command_line(
                [Progress(), RunSummary(), Predictions(), *callbacks, stop],
                [words[0], *rest],
                True,
                given=source,
                run_name=run_name(words),
                trust=trusted,
                lock=lock,
            )
    except BrokenPipeError:  # `zoo validate | head`
        raise
    except Stopped as stopped:
        return stopped.status
    except (ProcessRaisedException, ProcessExitedException) as error:
        if stop.asked is None:
            raise UserError(str(error).strip().splitlines()[-1]) from error
        return Stopped(stop.asked).status
    except SystemExit as left:  # what Lightning makes of Ctrl-C
        if isinstance(left.__context__, KeyboardInterrupt):
            return 130
        raise
    except OSError as error:
        logger = getattr(stop.trainer, "logger", None)
        complain(
            file_error(error, logger.log_dir if stop.training and logger is not None else None)
        )
        return 2
    except Exception as error:
        if mistake := messages.user_error(error):
            complain(mistake)
            return 2
        raise
    finally:
        if lock is not None:
            lock.release()
    return 0
