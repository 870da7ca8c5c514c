"""Where what can be made again is kept."""

import os
from pathlib import Path


def cache() -> Path:
    """zoo's folder in the user's cache, which may be one that cannot be made: then nothing is kept.

    So it is for a user who has no home and names no cache in $XDG_CACHE_HOME.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zoo"
    except RuntimeError:  # neither $HOME nor an entry in the list of users
        return Path(os.devnull) / "zoo"
