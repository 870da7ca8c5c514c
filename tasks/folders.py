"""Where data is looked for, and where what can be made again is kept."""

import os
from pathlib import Path

from zoo.errors import UserError


def cache() -> Path:
    """Return zoo's folder in the user's cache, which may be one that cannot be made.

    Then nothing is kept. So it is for a user who has no home and names no cache in $XDG_CACHE_HOME.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zoo"
    except RuntimeError:  # neither $HOME nor an entry in the list of users
        return Path(os.devnull) / "zoo"


def data_folders(data_dir: str | None) -> list[Path]:
    """Return the folders that data is looked for in: the given one, then $ZOO_DATA.

    Raises:
        UserError: if the given one does not exist.
    """
    if data_dir is not None and not Path(data_dir).is_dir():
        raise UserError(f"no data folder {data_dir!r}: give an existing one as --data.data_dir")
    return [Path(folder) for folder in (data_dir, os.environ.get("ZOO_DATA")) if folder]
