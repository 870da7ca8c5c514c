"""The config.yaml of a run: all settings as they were read, written as training begins."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import SaveConfigCallback

from zoo.cli.fit.own_tasks import check_facts
from zoo.files.access import write_text
from zoo.training.module import ZooData
from zoo.training.tensorboard import Logger


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
