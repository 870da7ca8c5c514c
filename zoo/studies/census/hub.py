"""Adapters of a census that lie on the Hugging Face hub, peft's and zoo's."""

import dataclasses
import os

from zoo.api.hub import fetch, is_id
from zoo.errors import UserError
from zoo.runs import adapter_folder
from zoo.runs.adapter_config import CONFIG as OURS
from zoo.runs.peft.adapter import BINARY, CONFIG, TENSORS
from zoo.studies.census.entries import Entry


def at_hand(entry: Entry) -> Entry:
    """Return an entry whose files are here: of a hub's name they are downloaded, of one commit.

    Raises:
        UserError: if they cannot be had.
    """
    if os.path.exists(entry.what):
        return entry
    if not is_id(entry.what):
        raise UserError(f"no file or folder '{entry.what}'")
    kinds = {CONFIG: (TENSORS, BINARY), OURS: adapter_folder.TENSORS}
    folder, source = fetch(entry.what, entry.about.get("commit"), kinds=kinds)
    commit = source.partition(" at ")[2]
    about = {"repository": entry.what, **entry.about, "commit": commit}
    return dataclasses.replace(entry, what=str(folder), about=about)
