"""The commands that train and test, as a LightningCLI: any task, any parameterization, from one yaml."""

import argparse
import atexit
import inspect
import json
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only
from torch.nn.parallel import DistributedDataParallel

import tasks
import zoo.parameterizations  # noqa: F401  so that short names are known
from zoo import checkpoints, messages
from zoo.callbacks import Checkpoint, Progress, RunSummary, SpectralEnergy, StableRank
from zoo.config_files import ConfigFile
from zoo.convert import counts, table
from zoo.errors import UserError
from zoo.files import check_writable
from zoo.module import ZooData, ZooModule
from zoo.tensorboard import Logger
from zoo.trust import NOBODY, Trust


class EpochLoop(_TrainingEpochLoop):
    """Lightning's loop, which also validates at the end of an epoch and of training, whatever the interval."""

    def _should_check_val_fx(self, data_fetcher: Any) -> bool:
        last_step = self.global_step == self.max_steps and not self._should_accumulate()
        last = self.batch_progress.is_last_batch or last_step
        return super()._should_check_val_fx(data_fetcher) or (last and self._should_check_val_epoch())


class ZooTrainer(Trainer):
    """Lightning's trainer, with the commands that look at a model."""

    def params(self, model: ZooModule, datamodule: ZooData | None = None, json: bool = False) -> None:
        """Print what is swapped for what, and the counts.

        Args:
            model: the task.
            datamodule: its data.
            json: print JSON instead of a table.
        """
        print(params_json(model) if json else params_table(model))


def params_json(model: ZooModule) -> str:
    """Layers and counts as JSON."""
    return json.dumps({"layers": table(model.net), **counts(model.net)}, indent=2)


def params_table(model: ZooModule) -> str:
    """Layers and counts as a table that fits 80 columns; what all names begin with is said once."""
    rows = table(model.net)
    names = [str(row["layer"]) for row in rows]
    prefix = os.path.commonprefix(names).rpartition(".")[0] if len(names) > 1 else ""
    prefix = prefix + "." if len(prefix) > 12 else ""
    cells = [("layer", "shape", "kind", "trainable", "weights", "lr_mult")]
    for name, row in zip(names, rows, strict=True):
        shape = "x".join(map(str, row["shape"]))  # type: ignore[call-overload]
        numbers = (f"{row['trainable']:,}", f"{row['weights']:,}", f"{row['lr_mult']:.2f}")
        cells.append((name.removeprefix(prefix), shape, str(row["parameterization"]), *numbers))
    widths = [max(len(cell[i]) for cell in cells) for i in range(6)]
    lines = [
        f"{layer:<{widths[0]}} {shape:>{widths[1]}}  {kind:<{widths[2]}}  {trainable:>{widths[3]}} of "
        f"{weights:>{widths[4]}} {mult:>{widths[5]}}".rstrip()
        for layer, shape, kind, trainable, weights, mult in cells
    ]
    if prefix:
        lines.insert(0, f"in {prefix}*")
    total = counts(model.net)
    lines += [
        "",
        f"coefficients  {total['coefficients']:>9,} for {total['replaced']:,} weights",
        f"trainable     {total['trainable']:>9,} of {total['total']:,} parameters of the dense model",
    ]
    return "\n".join(lines)


class Parser(LightningArgumentParser):
    """Says what is wrong in one line."""

    def parse_args(self, args: Any = None, *rest: Any, **options: Any) -> Any:
        """Parse, with null for nested settings: jsonargparse hands them down as the word None."""
        if isinstance(args, list):
            args = [re.sub(r"^(--[\w.]+=)None$", r"\1null", word) for word in args]
        return super().parse_args(args, *rest, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # a parser inside a parser: the outer one reports
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        sys.stderr.write(f"zoo: {messages.explain(str(message), parser)}\n")
        self.exit(2)
        raise SystemExit(2)


class SaveConfig(SaveConfigCallback):
    """Keeps the resolved config with the run, for fit only."""

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Nothing yet: a fit that fails before its first step writes nothing."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.logger is not None:
            self.config = self.config.clone()
            data = trainer.datamodule  # type: ignore[attr-defined]
            for key, value in (data.settings() if isinstance(data, ZooData) else {}).items():
                self.config.data.init_args[key] = value
            for key in ("ckpt_path", "weights_only", "config", "base"):  # of this command, while the file serves all
                self.config.pop(key, None)
            super().setup(trainer, pl_module, "fit")


class ZooCLI(LightningCLI):
    """Groups `trainer`, `model` and `data`; and one for each callback that is on by default."""

    run_name = "run"
    run_folder: Path | None = None
    command: str | None = None

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The one that is asked for, where that is known: a parser takes 0.06 s to build."""
        commands = {**LightningCLI.subcommands(), "params": {"model", "datamodule"}}
        return {name: skip for name, skip in commands.items() if ZooCLI.command in (None, name)}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        parser = self.parser_class(**kwargs, allow_abbrev=False)  # or --trainer.max_step would pass as max_steps
        parser.add_argument("-c", "--config", action=ConfigFile, help="path or name of a shipped config; repeatable")
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--base", type=list[str] | str | None, default=None, help=argparse.SUPPRESS)
        parser.add_argument("--name", type=str | None, default=None, help="of the run; else of config and data")
        parser.add_lightning_class_args(StableRank, "stable_rank")
        parser.add_lightning_class_args(SpectralEnergy, "spectral_energy")
        parser.add_lightning_class_args(Checkpoint, "checkpoint")  # after those whose state it saves
        for source, target in tasks.LINKS.items():
            parser.link_arguments(source, target, apply_on="instantiate")
        for source, target in tasks.SETTINGS.items():
            parser.link_arguments(source, target)
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "model.init_args.seed", compute_fn=int)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        super().parse_arguments(parser, args)
        self.config.get(str(self.config.get("subcommand")), self.config).pop("base", None)

    def _parse_ckpt_path(self) -> None:
        """Nothing: Lightning would let the checkpoint's settings override the command line (its PR 21455).

        `run` puts the run's own config in front of the command line instead.
        """

    def before_instantiate_classes(self) -> None:
        if not self._get(self.config, "model") or not self._get(self.config, "data"):
            raise UserError(messages.NOTHING)
        if self.subcommand in LightningCLI.subcommands():
            self.config[self.subcommand].weights_only = True  # never execute what a checkpoint holds
        if self.subcommand in ("validate", "test"):
            self.config[self.subcommand].verbose = False  # RunSummary prints a table of its own

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        ckpt_path = self._get(self.config, "ckpt_path")
        step = 0
        if ckpt_path is not None:
            checkpoint = checkpoints.load(Path(ckpt_path))
            checkpoints.check(Path(ckpt_path), checkpoint, self.model)
            if self.subcommand == "fit" and "optimizer_states" not in checkpoint:
                lacking = f"'{ckpt_path}' has no optimizer state beside it to go on from"
                raise UserError(f"{lacking}: give the folder of a run")
            step = checkpoint["global_step"]
        config = self._get(self.config_init, "trainer")
        if config.get("logger") in (None, True):
            kwargs["logger"] = self._logger(config, step) if self.subcommand == "fit" else False
        trainer = super().instantiate_trainer(**kwargs)
        trainer.strategy.checkpoint_io = checkpoints.CheckpointFiles()
        if isinstance(trainer.strategy, DDPStrategy):
            keep_buffers(trainer.strategy._ddp_kwargs)
        loop = trainer.fit_loop.epoch_loop
        trainer.fit_loop.epoch_loop = EpochLoop(trainer, loop.min_steps, loop.max_steps)
        return trainer

    def _logger(self, config: Any, step: int) -> Logger:
        """A new version of the run, or the one that is resumed."""
        if self.run_folder is not None:
            version = self.run_folder
            return Logger(
                version.parent.parent, version.parent.name, version.name, default_hp_metric=False,
                purge_step=step + 1,  # events past the checkpoint belong to steps that are now taken again
            )
        root = Path(config.get("default_root_dir") or "runs")
        name = self._get(self.config, "name") or f"{self.run_name}-{self.datamodule.name}"
        if Path(name).name != name:
            raise UserError(f"--name is no path, got {name!r}; --trainer.default_root_dir takes one")
        check_writable(root / name, "--trainer.default_root_dir", "runs to ")
        return Logger(root, name, default_hp_metric=False)


def keep_buffers(ddp: dict[str, Any]) -> None:
    """Broadcast no buffers in DDP, unless its settings say so: bases are buffers, and equal on every rank."""
    old, new = "broadcast_buffers", "forward_sync_buffers"  # torch 2.13 renamed it
    if old not in ddp and new not in ddp:
        ddp[new if new in inspect.signature(DistributedDataParallel).parameters else old] = False


def run_name(argv: list[str]) -> str:
    """From the configs' names and what the command line changes of the parameterization: `dct_half+ratio=0.1`."""
    pairs = []
    for i, word in enumerate(argv):
        if word.startswith("-"):
            key, equals, value = word.partition("=")
            pairs.append((key, value if equals else (argv[i + 1] if i + 1 < len(argv) else "")))
    stems = [Path(value).stem for key, value in pairs if key in ("-c", "--config") and "{" not in value]
    option = "--model.parameterization"
    stems += [value.rpartition(".")[2] for key, value in pairs if key == option]
    stems += [f"{key.rpartition('.')[2]}={value}" for key, value in pairs if key.startswith(f"{option}.")]
    return re.sub(r"[^\w.+=-]+", "_", "+".join(stems)) or "run"


def with_run_config(argv: list[str]) -> tuple[list[str], Path | None]:
    """A checkpoint in a run's folder brings the run's config, in front of what the command line says.

    A run's folder itself stands for its last checkpoint. Returns the arguments, and the folder.
    """
    for i, word in enumerate(argv):
        key, equals, value = word.partition("=")
        if key != "--ckpt_path" or not (equals or i + 1 < len(argv)):
            continue
        path = checkpoints.resolve(value if equals else argv[i + 1])
        if path.suffix == ".safetensors":  # Lightning reads its own format only
            folder = tempfile.TemporaryDirectory()
            atexit.register(folder.cleanup)
            path = checkpoints.unpack(path, Path(folder.name))
        rest = [*argv[1:i], "--ckpt_path", str(path), *argv[i + (1 if equals else 2) :]]
        run = checkpoints.run_folder(path)
        return [argv[0], *(["--config", str(run / "config.yaml")] if run else []), *rest], run
    return argv, None


def complain(what: object) -> None:
    """Print a line on stderr, once: what is wrong on one rank is wrong on all."""
    if getattr(rank_zero_only, "rank", 0) == 0:
        print(f"zoo: {what}", file=sys.stderr)


def quiet() -> None:
    """Turn off what Lightning says on every run and no user can act on."""
    for message in (".*LeafSpec.*", ".*smaller than the logging interval.*", ".*does not have many workers.*",
                    ".*exists and is not empty.*"):
        warnings.filterwarnings("ignore", message=message)
    warnings.showwarning = lambda message, *_, **__: complain(message)
    for name in ("utilities.rank_zero", "accelerators.cuda", "trainer.connectors.checkpoint_connector"):
        logging.getLogger(f"lightning.pytorch.{name}").setLevel(logging.WARNING)
    for name in ("seed", "distributed"):
        logging.getLogger(f"lightning.fabric.utilities.{name}").setLevel(logging.WARNING)


def command_line(callbacks: list[Callback], args: list[str] | None = None) -> ZooCLI:
    """Parse, build task, data and trainer, and run the subcommand; with `args`, which have none, build only."""
    return ZooCLI(
        ZooModule, ZooData, trainer_class=ZooTrainer, subclass_mode_model=True, subclass_mode_data=True,
        seed_everything_default=0, auto_configure_optimizers=False, parser_class=Parser,
        trainer_defaults={
            "callbacks": callbacks, "enable_checkpointing": False, "enable_model_summary": False,
            "num_sanity_val_steps": 0, "enable_autolog_hparams": False, "use_distributed_sampler": False,
        },
        save_config_callback=SaveConfig, save_config_kwargs={"overwrite": True}, args=args, run=args is None,
    )


def open_run(
    path: str, backbone: str | None = None, options: Sequence[str] = (), trust: Trust = NOBODY
) -> tuple[ZooModule, ZooData, Trainer]:
    """A run as it was trained, its data, and a trainer that evaluates it in silence, in float32 on one device.

    Args:
        path: of the run's folder, a checkpoint in one or an adapter.safetensors.
        backbone: where the pretrained network is now, if it was moved.
        options: more of the command line, as in `--data.data_dir=FOLDER`.

    Raises:
        UserError: if there is no run, it has no config, or it cannot be built here.
    """
    quiet()
    warnings.filterwarnings("ignore", message=".*LightningCLI's args parameter.*")
    words, run_folder = with_run_config(["validate", "--ckpt_path", path])
    if run_folder is None:
        raise UserError(f"{path!r} has no config.yaml that says what its data is: give the folder of a run")
    args = [*words[1:-2], "--trainer.logger=false", "--trainer.callbacks=null", "--trainer.enable_progress_bar=false",
            "--trainer.strategy=auto", "--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.precision=32-true"]
    try:
        cli = command_line([], [*args, *([f"--model.backbone={backbone}"] if backbone else []), *options])
        checkpoint = checkpoints.load(Path(words[-1]))
        checkpoints.check(Path(words[-1]), checkpoint, cli.model)
    except Exception as error:
        if mistake := messages.user_error(error):
            raise UserError(mistake) from error
        raise
    cli.model.load_state_dict(checkpoint["state_dict"])
    return cli.model, cli.datamodule, cli.trainer


def run(argv: list[str], callbacks: Sequence[Callback] = ()) -> int:
    """One of the LightningCLI commands, with more callbacks if wanted; returns the exit status."""
    quiet()
    try:
        argv = ["--json=true" if word == "--json" else word for word in argv]
        ZooCLI.command, ZooCLI.run_name = argv[0], run_name(argv)
        argv, ZooCLI.run_folder = with_run_config(argv)
        sys.argv[1:] = argv  # in place: DDP starts its other processes with sys.argv
        command_line([Progress(), RunSummary(), *callbacks])
    except BrokenPipeError:  # `zoo validate | head`
        raise
    except OSError as error:
        complain(f"{error.strerror or error}: {error.filename or 'no file'}")
        return 2
    except Exception as error:
        if mistake := messages.user_error(error):
            complain(mistake)
            return 2
        raise
    return 0
