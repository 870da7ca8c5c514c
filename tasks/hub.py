"""Pretrained networks and their tokenizers: from a `save_pretrained` folder, the cache or the Hugging Face hub.

transformers and datasets are an extra, imported here only and only when used.
"""

import importlib
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from zoo.errors import UserError

Head = Literal["SequenceClassification", "CausalLM"]
HUB_SECONDS = 8.0
"""A hub that has not answered by then is taken for unreachable."""


def library(name: str) -> Any:
    """transformers, datasets or another library of the extra, imported.

    Raises:
        UserError: naming the extra, if it is not installed.
    """
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise UserError(f'Hugging Face models need {name}, which is not installed: pip install -e ".[glue]"') from None
    if name == "transformers":
        module.logging.set_verbosity_error()  # its report on every load; what matters is checked here
        module.logging.disable_progress_bar()
    return module


def reachable(seconds: float = HUB_SECONDS) -> bool:
    """Whether the hub answers; asked in a thread of its own, because a name look-up obeys no time-out."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return False
    answers = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), timeout=seconds).close()
        except urllib.error.HTTPError:
            pass  # it answers
        except OSError:
            return
        answers.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answers.is_set()


def is_path(name: str) -> bool:
    """Whether a name can only mean a folder: hub names are `name` or `owner/name`."""
    return Path(name).exists() or name.startswith((".", "/", "~")) or name.count("/") > 1


def fetch(name: str, what: str, option: str, load: Callable[[bool], Any]) -> Any:
    """`load(local_files_only)`, first from a folder or the cache, then from the hub.

    Raises:
        UserError: if a folder is none, a file in it is damaged, or the hub has it not or cannot be reached.
    """
    if is_path(name) and not Path(name).is_dir():
        raise UserError(f"no folder {name!r}: give one written by save_pretrained, or a name on the hub, as {option}")
    try:
        return load(True)
    except UserError:
        raise
    except Exception as error:  # whatever a damaged folder does to the libraries
        if is_path(name):
            raise UserError(f"{what} {name!r} cannot be loaded: {_first_line(error)}; give another {option}") from error
    if not reachable():
        raise UserError(
            f"{what} {name!r} is not in the cache, and the hub cannot be reached: give {option} a local folder"
        )
    try:
        return load(False)
    except Exception as error:
        raise UserError(f"{what} {name!r} cannot be had from the hub: {_first_line(error)}; check {option}") from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".;:")


def load_config(backbone: str) -> Any:
    """The configuration of a pretrained network.

    Raises:
        UserError: if there is none, or its architecture is unknown.
    """
    transformers = library("transformers")
    if Path(backbone).is_dir() and not (Path(backbone) / "config.json").is_file():
        raise UserError(f"folder {backbone!r} has no config.json: give --model.backbone one written by save_pretrained")

    def load(local: bool) -> Any:
        return transformers.AutoConfig.from_pretrained(backbone, local_files_only=local)

    return fetch(backbone, "backbone", "--model.backbone", load)


def load_network(backbone: str, head: Head, dtype: str = "float32", **settings: Any) -> Any:
    """A pretrained network with a head, in training mode.

    A head that the backbone lacks, or that has another number of labels, is drawn at random.

    Args:
        backbone: folder or name.
        head: which.
        dtype: of the network, `float32` or `bfloat16`; the head of a classifier is float32 all the same.
        settings: to change in its configuration, such as `num_labels`.

    Raises:
        UserError: if the architecture has no such head, or the backbone cannot be had.
    """
    import torch

    transformers = library("transformers")
    config = load_config(backbone)
    auto = getattr(transformers, f"AutoModelFor{head}")
    if type(config) not in auto._model_mapping:
        wanted = {"SequenceClassification": "classification head", "CausalLM": "language-model head"}[head]
        raise UserError(f"backbone {backbone!r}: a {config.model_type} has no {wanted}; give another --model.backbone")
    for key, value in settings.items():
        setattr(config, key, value)

    def load(local: bool) -> Any:
        return auto.from_pretrained(
            backbone, config=config, local_files_only=local, ignore_mismatched_sizes=True, dtype=getattr(torch, dtype),
        )

    network = fetch(backbone, "backbone", "--model.backbone", load)
    if head == "SequenceClassification":
        for name, module in network.named_children():
            if name != network.base_model_prefix:
                module.float()
    return network.train()  # from_pretrained leaves it in eval mode, and dropout off


def load_tokenizer(backbone: str) -> Any:
    """The tokenizer of a pretrained network; pads on the right, with the end of text where it has no padding.

    Raises:
        UserError: if it cannot be had.
    """
    transformers = library("transformers")
    load_config(backbone)  # says what is wrong with a folder

    def load(local: bool) -> Any:
        return transformers.AutoTokenizer.from_pretrained(backbone, local_files_only=local)

    tokenizer = fetch(backbone, "the tokenizer of", "--model.backbone", load)
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def longest_input(config: Any) -> int | None:
    """Positions that a network has, if they are limited."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None:
        return None
    return positions - 2 if config.model_type in ("roberta", "xlm-roberta", "camembert") else positions
