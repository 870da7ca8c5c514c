"""Adapters on the Hugging Face hub: `push`, and the download behind `zoo.load`."""

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from zoo.api.record import record_of
from zoo.api.say import say
from zoo.errors import UserError
from zoo.runs.adapter_config import CONFIG
from zoo.runs.adapter_folder import TENSORS

LARGEST = 2**31
"""Bytes of an adapter's tensors that are downloaded at most, unless the user gives more."""
LARGEST_CONFIG = 2**24
ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_id(text: str) -> bool:
    """Say whether a text is how a hub names a repository, `user/name`."""
    return ID.fullmatch(text) is not None


def is_pinned(source: str) -> bool:
    """Say whether a source is a commit of a hub's repository, as `fetch` calls it."""
    repository, _, commit = source.partition(" at ")
    return is_id(repository) and re.fullmatch("[0-9a-f]{40}", commit) is not None


def push(
    model: nn.Module,
    repository: str,
    *,
    name: str | None = None,
    data: str | None = None,
    metrics: Mapping[str, float] | None = None,
    private: bool = True,
    revision: str | None = None,
) -> str:
    """Upload an adapter to the Hugging Face hub, as the folder that `zoo.save` writes.

        >>> zoo.push(net, "me/my_adapter")  # doctest: +SKIP
        '0123456789abcdef0123456789abcdef01234567'

    Who uploads is as `huggingface_hub` has it, by `hf auth login` or HF_TOKEN; no token is taken
    here, written or logged.

    Args:
        model: an adapted network.
        repository: `user/name`; it is made if it is not there.
        name: of the adapter; by default the one in use.
        data: what it was trained on, for the card.
        metrics: what it reached, by name, for the card.
        private: whether a repository that is made is private.
        revision: the branch.

    Returns:
        The commit's hash, with which `zoo.load(model, repository, revision=...)` gets just this.

    Raises:
        UserError: if there is no such adapter, or the hub refuses.
    """
    from zoo.api.saving import save

    if not (isinstance(repository, str) and is_id(repository)):
        raise UserError(f"a hub's repository is called user/name, got {repository!r}")
    record_of(model).in_use(name)
    library = _library()
    with tempfile.TemporaryDirectory() as folder:
        path = save(model, Path(folder) / "adapter", name=name, data=data, metrics=metrics)
        try:
            api = library.HfApi()
            api.create_repo(repository, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repository,
                folder_path=path,
                revision=revision,
                commit_message="Upload an adapter",
            )
        except Exception as error:  # of the library's many, and of the network
            raise UserError(f"{repository} cannot be written: {_reason(error)}") from None
    say(f"{repository}: uploaded as {commit.oid}")
    return str(commit.oid)


def fetch(
    repository: str,
    revision: str | None = None,
    largest: int = LARGEST,
    kinds: Mapping[str, Sequence[str]] = MappingProxyType({CONFIG: TENSORS}),
) -> tuple[Path, str]:
    """Download an adapter's two files, of one commit, after their sizes were looked at.

    Args:
        repository: `user/name`.
        revision: a branch, a tag or a commit.
        largest: bytes that the tensors may have.
        kinds: what tensors' files may be called beside a config of each name; by default zoo's.

    Returns:
        The folder with both, and what to call it, with the commit.

    Raises:
        UserError: if they are not there, too large, or the hub cannot be reached.
    """
    library = _library()
    try:
        info = library.HfApi().model_info(repository, revision=revision, files_metadata=True)
        sizes = {file.rfilename: file.size for file in info.siblings or ()}
        commit = str(info.sha)
    except Exception as error:  # of the library's many, and of the network
        raise UserError(f"{repository} cannot be read: {_reason(error)}") from None
    pairs = [(config, file) for config, files in kinds.items() for file in files]
    config, tensors = next((pair for pair in pairs if sizes.keys() >= {*pair}), ("", ""))
    if not config:
        wanted = " or ".join(f"{config} with {files[0]}" for config, files in kinds.items())
        kind = "adapter" if len(kinds) > 1 else "adapter of zoo's"
        raise UserError(f"{repository} holds no {kind}: it has no {wanted}")
    for file, most in ((config, LARGEST_CONFIG), (tensors, largest)):
        if type(sizes[file]) is not int or sizes[file] > most:
            raise UserError(
                f"{repository}: {file} has {sizes[file]} bytes, and {most:,} at most are "
                "downloaded: download it yourself and give the folder"
            )
    try:
        paths = [
            Path(library.hf_hub_download(repository, file, revision=commit))
            for file in (config, tensors)
        ]
    except Exception as error:
        raise UserError(f"{repository} cannot be read: {_reason(error)}") from None
    if paths[0].parent != paths[1].parent:
        raise UserError(f"{repository} was downloaded into several folders: use another cache")
    say(f"{repository}: commit {commit}")
    return paths[0].parent, f"{repository} at {commit}"


def _library() -> Any:
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise UserError(
            "this needs huggingface_hub, which is not installed: pip install -e '.[glue]'"
        ) from None
    return huggingface_hub


def _reason(error: Exception) -> str:
    """Return the first line of what was raised, without anything that looks like a token."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = re.sub(r"hf_\w+|(?i:bearer)\s+\S+", "...", lines[0])
    token = os.environ.get("HF_TOKEN")
    return (text.replace(token, "...") if token else text)[:200]
