"""Pretrained networks and their tokenizers: from a `save_pretrained` folder, the cache or the Hugging Face hub.

transformers and datasets are an extra, imported here only and only when used. Python code that
comes with a backbone is refused: without `trust_remote_code=False`, transformers asks on the
terminal whether to run it.
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
HUB_SECONDS = 3.0
"""A hub that has not answered by then is taken for unreachable: well within 10 s, imports and all."""
PADDED_POSITIONS = (
    "camembert",
    "data2vec-text",
    "esm",
    "ibert",
    "longformer",
    "luke",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)
"""Architectures whose positions are counted from behind the padding token's id, 1, and so are two fewer."""


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
        raise UserError(
            f'Hugging Face models need {name}, which is not installed: pip install -e ".[glue]"'
        ) from None
    if name in ("transformers", "datasets"):
        module.logging.set_verbosity_error()  # its report on every load; what matters is checked here
        module.logging.disable_progress_bar()
    return module


def offline() -> bool:
    """Whether the user has switched the hub off."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")


def reachable(seconds: float = HUB_SECONDS) -> bool:
    """Whether the hub answers; asked in a thread of its own, because a name look-up obeys no time-out."""
    answers = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(
                os.environ.get("HF_ENDPOINT", "https://huggingface.co"), timeout=seconds
            ).close()
        except urllib.error.HTTPError:
            pass  # it answers
        except (
            Exception
        ):  # whatever goes wrong here, also with a damaged $HF_ENDPOINT, there is no hub
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

    Args:
        name: a folder, or a name on the hub.
        what: it is, for the user; its name follows.
        option: that gives another.
        load: returns it, or raises anything.

    Raises:
        UserError: if a folder is none, a file in it is damaged, or the hub has it not or cannot be
            reached.
    """
    if is_path(name) and not Path(name).is_dir():
        raise UserError(
            f"no folder {name!r}: give one written by save_pretrained, or a name on the hub, as {option}"
        )
    for file in Path(name).iterdir() if is_path(name) else ():
        if file.exists() and not (
            file.is_file() or file.is_dir()
        ):  # the libraries would wait for a pipe
            raise UserError(
                f"{what} {name!r} has '{file.name}', which is no regular file; give another {option}"
            )
    try:
        return load(True)
    except UserError:
        raise
    except Exception as error:  # whatever a damaged folder does to the libraries
        if is_path(name):
            raise UserError(
                f"{what} {name!r} cannot be loaded: {_first_line(error)}; give another {option}"
            ) from error
    if offline() or not reachable():
        why = "HF_HUB_OFFLINE is set" if offline() else "the hub cannot be reached"
        raise UserError(
            f"{what} {name!r} is not whole in the cache, and {why}: give {option} a local folder"
        )
    try:
        return load(False)
    except Exception as error:
        raise UserError(
            f"{what} {name!r} cannot be had from the hub: {_first_line(error)}; check {option}"
        ) from error


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
        raise UserError(
            f"folder {backbone!r} has no config.json: give --model.backbone one written by save_pretrained"
        )

    def load(local: bool) -> Any:
        return transformers.AutoConfig.from_pretrained(
            backbone, local_files_only=local, trust_remote_code=False
        )

    return fetch(backbone, "backbone", "--model.backbone", load)


def load_skeleton(backbone: str, head: Head) -> Any:
    """A network without its weights, on the meta device: names and shapes.

    Raises:
        UserError: if the backbone cannot be had, or its architecture has no such head.
    """
    import torch

    config = load_config(backbone)
    with torch.device("meta"):
        return auto_class(backbone, config, head).from_config(config)


def auto_class(backbone: str, config: Any, head: Head) -> Any:
    """The class that makes a network with a head.

    Raises:
        UserError: if the architecture has no such head.
    """
    auto = getattr(library("transformers"), f"AutoModelFor{head}")
    if type(config) not in auto._model_mapping:
        wanted = {
            "SequenceClassification": "classification head",
            "CausalLM": "language-model head",
        }[head]
        raise UserError(
            f"backbone {backbone!r}: a {config.model_type} has no {wanted}; give another --model.backbone"
        )
    return auto


def load_network(
    backbone: str, head: Head, dtype: str = "float32", frozen: bool = False, **settings: Any
) -> tuple[Any, frozenset[str]]:
    """A pretrained network with a head, in training mode; and what of it no file of the backbone holds.

    A classifier's head that the backbone lacks, or that has another number of labels, is drawn at
    random; so is a pooler. Nothing else may be missing.

    Args:
        backbone: folder or name.
        head: which.
        dtype: of the network, `float32` or `bfloat16`; a classifier's head and what was drawn are
            float32 all the same.
        frozen: whether nothing but a classifier's head is trained, and what was drawn.
        settings: to change in its configuration, such as `num_labels`.

    Returns:
        The network, and the names of its parameters and buffers that were drawn at random; none on
        the meta device, where nothing is read.

    Raises:
        UserError: if the architecture has no such head, or the backbone cannot be had, or not all
            of it.
    """
    import torch

    config = load_config(backbone)
    auto = auto_class(backbone, config, head)
    for key, value in settings.items():
        setattr(config, key, value)

    def load(local: bool) -> Any:
        return auto.from_pretrained(
            backbone,
            config=config,
            local_files_only=local,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            dtype=getattr(torch, dtype),
            trust_remote_code=False,
        )

    if (
        torch.get_default_device().type == "meta"
    ):  # names and shapes are asked for, and nothing is read
        network = auto.from_config(config)
        report: dict[str, Any] = {"missing_keys": [], "mismatched_keys": []}
    else:
        network, report = fetch(backbone, "backbone", "--model.backbone", load)
        if not getattr(network, "_keep_in_fp32_modules_strict", None):
            for parameter in (
                network.parameters()
            ):  # DeBERTa's own biases stay float32, and its forward pass fails
                parameter.data = parameter.data.to(getattr(torch, dtype))
    base = f"{network.base_model_prefix}."
    drawn = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    if lacking := [
        key for key in drawn if head == "CausalLM" or key.startswith(base) and ".pooler." not in key
    ]:
        raise UserError(
            f"the weights of backbone {backbone!r} do not fit its config.json: {lacking[0]} is missing or of another "
            f"shape ({len(lacking)} such); give another --model.backbone"
        )
    for name, parameter in network.named_parameters() if frozen else ():
        parameter.requires_grad_(
            name in drawn or head == "SequenceClassification" and not name.startswith(base)
        )
    if head == "SequenceClassification":
        network.config.pad_token_id = padding(config)  # by which a decoder finds the last token
        for name, module in network.named_children():
            if dtype != "float32" and f"{name}." != base:
                module.float().register_forward_pre_hook(_in_float32)
        for name, module in network.base_model.named_modules() if dtype != "float32" else ():
            if any(
                f"{base}{name}.{key}" in drawn for key, _ in module.named_parameters(recurse=False)
            ):
                module.float().register_forward_pre_hook(_in_float32)
    return network.train(), frozenset(
        drawn
    )  # from_pretrained leaves it in eval mode, and dropout off


def _in_float32(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a float32 head is given by a network of another dtype."""
    return tuple(x.float() if getattr(x, "is_floating_point", bool)() else x for x in inputs)


def load_tokenizer(backbone: str) -> Any:
    """The tokenizer of a pretrained network.

    Raises:
        UserError: if it cannot be had.
    """
    transformers = library("transformers")
    load_config(backbone)  # says what is wrong with a folder

    def load(local: bool) -> Any:
        return transformers.AutoTokenizer.from_pretrained(
            backbone, local_files_only=local, trust_remote_code=False
        )

    tokenizer = fetch(backbone, "the tokenizer of", "--model.backbone", load)
    if len(tokenizer) <= len(
        tokenizer.all_special_ids
    ):  # what transformers makes of a folder without its files
        raise UserError(
            f"the tokenizer of {backbone!r} has no words: its files are missing; give another one"
        )
    return tokenizer


def padding(config: Any) -> int:
    """The id that fills up a batch: the padding token's, or where a network has none that of the end of text."""
    ends = getattr(config, "eos_token_id", None)
    candidates = (
        getattr(config, "pad_token_id", None),
        *(ends if isinstance(ends, list) else [ends]),
        0,
    )
    return next(i for i in candidates if i is not None)


def check_length(backbone: str, length: int, option: str) -> None:
    """Refuse texts that are longer than the positions that a network has, if they are limited.

    Raises:
        UserError: naming the option that gave the length.
    """
    config = load_config(backbone)
    positions = getattr(config, "max_position_embeddings", None)
    longest = (
        positions - 2
        if positions is not None and config.model_type in PADDED_POSITIONS
        else positions
    )
    if longest is not None and length > longest:
        raise UserError(f"{option} must be at most {longest} for {backbone!r}, got {length}")
