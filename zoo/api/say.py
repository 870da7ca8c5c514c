"""Say what was done to a network, through a logger that can be silenced.

logging.getLogger("zoo").setLevel(logging.WARNING)
"""

import logging
import os
import sys

LOGGER = logging.getLogger("zoo")


def say(text: str) -> None:
    """Log a line on the first of several processes; on stderr, unless the user has a handler."""
    if int(os.environ.get("RANK") or 0):
        return
    if LOGGER.level == logging.NOTSET:  # else the level of the root logger, a warning, would hold
        LOGGER.setLevel(logging.INFO)
    if LOGGER.hasHandlers():
        LOGGER.info(text)
    elif LOGGER.isEnabledFor(logging.INFO):
        print(text, file=sys.stderr)
