"""The commands that train and test: any task in any parameterization, from the command line."""

import sys
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from tasks.text.corpus import kept
from zoo.cli.console import complain, file_error, is_first, quiet
from zoo.cli.fit import messages
from zoo.cli.fit.config_files import written_out
from zoo.cli.fit.lightning_cli import ZooCLI
from zoo.cli.fit.names import run_name
from zoo.cli.fit.params import ZooTrainer
from zoo.cli.fit.parsing import Parser
from zoo.cli.fit.run_config import given
from zoo.cli.fit.saved_config import SaveConfig
from zoo.errors import UserError
from zoo.files import trust
from zoo.files.trust import Trust
from zoo.training.callbacks import Predictions, Progress, RunSummary, Stop, Stopped
from zoo.training.module import ZooData, ZooModule
from zoo.training.tensorboard import locked


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
