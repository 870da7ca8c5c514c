"""What is said on stderr, once for all ranks, and what Lightning is kept from saying."""

import logging
import sys
import warnings

from lightning.pytorch.utilities import rank_zero_only

from zoo.lab.texts import printable


def complain(what: object) -> None:
    """Print a line on stderr, once: what is wrong on one rank is wrong on all."""
    if is_first():
        print(f"zoo: {printable(what)}", file=sys.stderr)


def quiet() -> None:
    """Turn off what Lightning says on every run and no user can act on."""
    for message in (".*LeafSpec.*", ".*LightningCLI's args parameter.*", ".*smaller than the logging interval.*",
                    ".*does not have many workers.*", ".*exists and is not empty.*", ".*across ranks is zero.*"):
        warnings.filterwarnings("ignore", message=message)
    warnings.showwarning = lambda message, *_, **__: complain(message)
    for name in ("utilities.rank_zero", "accelerators.cuda", "trainer.connectors.checkpoint_connector"):
        logging.getLogger(f"lightning.pytorch.{name}").setLevel(logging.WARNING)
    for name in ("seed", "distributed"):
        logging.getLogger(f"lightning.fabric.utilities.{name}").setLevel(logging.WARNING)


def is_first() -> bool:
    """Whether this is the process of the first rank, as far as that is known before any was started."""
    return getattr(rank_zero_only, "rank", 0) == 0
