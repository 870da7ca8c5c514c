"""Pretrained networks and their tokenizers, from a folder, the cache or the Hugging Face hub.

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

from zoo.errors import UserError, option

Head = Literal["SequenceClassification", "CausalLM"]
HUB_SECONDS = 3.0
"""A hub that has not answered by then is taken for unreachable: a refusal takes less than 10 s."""
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
"""Architectures that count positions from behind the padding token's id, 1, so have two fewer."""


def library(name: str) -> Any:
    """Import transformers, datasets or another library of the extra.

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
        module.logging.set_verbosity_error()  # it reports on every load; `load_network` checks that
        module.logging.disable_progress_bar()
    return module


def offline() -> bool:
    """Return whether the user has switched the hub off."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")


def reachable(seconds: float = HUB_SECONDS) -> bool:
    """Ask whether the hub answers, in a thread: a name look-up obeys no time-out."""
    answers = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(
                os.environ.get("HF_ENDPOINT", "https://huggingface.co"), timeout=seconds
            ).close()
        except urllib.error.HTTPError:
            pass  # it answers
        except Exception:  # whatever goes wrong, also with a damaged $HF_ENDPOINT, there is no hub
            return
        answers.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answers.is_set()


def is_path(name: str) -> bool:
    """Return whether a name can only mean a folder: hub names are `name` or `owner/name`."""
    return Path(name).exists() or name.startswith((".", "/", "~")) or name.count("/") > 1


def fetch(name: str, what: str, option: str, load: Callable[[bool], Any]) -> Any:
    """Call `load(local_files_only)`, first for a folder or the cache, then for the hub.

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
            f"no folder {name!r}: give one written by save_pretrained, or a name on the hub, as "
            f"{option}"
        )
    for file in Path(name).iterdir() if is_path(name) else ():
        regular = file.is_file() or file.is_dir()
        if file.exists() and not regular:  # the libraries would wait for a pipe
            raise UserError(
                f"{what} {name!r} has '{file.name}', which is no regular file; give another "
                f"{option}"
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
    """Load the configuration of a pretrained network.

    Raises:
        UserError: if there is none, or its architecture is unknown.
    """
    transformers = library("transformers")
    if Path(backbone).is_dir() and not (Path(backbone) / "config.json").is_file():
        raise UserError(
            f"folder {backbone!r} has no config.json: give {option('model.backbone')} one written "
            "by save_pretrained"
        )

    def load(local: bool) -> Any:
        return transformers.AutoConfig.from_pretrained(
            backbone, local_files_only=local, trust_remote_code=False
        )

    return fetch(backbone, "backbone", option("model.backbone"), load)


def load_skeleton(backbone: str, head: Head) -> Any:
    """Make a network without its weights, on the meta device: names and shapes.

    Raises:
        UserError: if the backbone cannot be had, or its architecture has no such head.
    """
    import torch

    config = load_config(backbone)
    with torch.device("meta"):
        return auto_class(backbone, config, head).from_config(config)


def auto_class(backbone: str, config: Any, head: Head) -> Any:
    """Return the class that makes a network with a head.

    Raises:
        UserError: if the architecture has no such head.
    """
    auto = getattr(library("transformers"), f"AutoModelFor{head}")
    if type(config) not in auto._model_mapping:
        wanted = "language-model head" if head == "CausalLM" else "classification head"
        raise UserError(
            f"backbone {backbone!r}: a {config.model_type} has no {wanted}; give another "
            f"{option('model.backbone')}"
        )
    return auto


def load_network(
    backbone: str, head: Head, dtype: str = "float32", frozen: bool = False, **settings: Any
) -> tuple[Any, frozenset[str]]:
    """Load a pretrained network with a head, in training mode.

    Named beside it is what of it no file of the backbone holds.

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

    if torch.get_default_device().type == "meta":  # names and shapes are wanted, nothing is read
        network = auto.from_config(config)
        report: dict[str, Any] = {"missing_keys": [], "mismatched_keys": []}
    else:
        network, report = fetch(backbone, "backbone", option("model.backbone"), load)
        if not getattr(network, "_keep_in_fp32_modules_strict", None):
            # DeBERTa's own biases would stay float32, and its forward pass fail.
            for parameter in network.parameters():
                parameter.data = parameter.data.to(getattr(torch, dtype))
    base, classifies = f"{network.base_model_prefix}.", head == "SequenceClassification"
    drawn = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    needed = [key for key in drawn if key.startswith(base) and ".pooler." not in key]
    if lacking := needed if classifies else drawn:
        raise UserError(
            f"the weights of backbone {backbone!r} do not fit its config.json: {lacking[0]} is "
            f"missing or of another shape ({len(lacking)} such); give another "
            f"{option('model.backbone')}"
        )
    drawn_names = frozenset(drawn)
    for name, parameter in network.named_parameters() if frozen else ():
        parameter.requires_grad_(name in drawn or classifies and not name.startswith(base))
    if classifies:
        network.config.pad_token_id = padding(config)  # by which a decoder finds the last token
        for name, module in network.named_children():
            if dtype != "float32" and f"{name}." != base:
                module.float().register_forward_pre_hook(_in_float32)
        for name, module in network.base_model.named_modules() if dtype != "float32" else ():
            own = (f"{base}{name}.{key}" for key, _ in module.named_parameters(recurse=False))
            if not drawn_names.isdisjoint(own):
                module.float().register_forward_pre_hook(_in_float32)
    # from_pretrained leaves it in eval mode, and dropout off.
    return network.train(), drawn_names


def resize_tokens(network: Any, tokens: int) -> frozenset[str]:
    """Give a network tables of another number of tokens, which are trained; new rows are drawn.

    Returns:
        The names of parameters and buffers that are of another shape.
    """
    before = {name: tensor.shape for name, tensor in network.state_dict().items()}
    network.resize_token_embeddings(tokens, mean_resizing=False)
    state = network.state_dict(keep_vars=True)
    changed = {name for name, tensor in state.items() if tensor.shape != before.get(name)}
    for name in changed & {name for name, _ in network.named_parameters(remove_duplicate=False)}:
        state[name].requires_grad_(True)
    return frozenset(changed)


def _in_float32(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Turn what a float32 head is given by a network of another dtype into float32."""
    return tuple(x.float() if getattr(x, "is_floating_point", bool)() else x for x in inputs)


def load_tokenizer(backbone: str) -> Any:
    """Load the tokenizer of a pretrained network.

    Raises:
        UserError: if it cannot be had.
    """
    transformers = library("transformers")
    load_config(backbone)  # says what is wrong with a folder

    def load(local: bool) -> Any:
        return transformers.AutoTokenizer.from_pretrained(
            backbone, local_files_only=local, trust_remote_code=False
        )

    tokenizer = fetch(backbone, "the tokenizer of", option("model.backbone"), load)
    # Of a folder without a tokenizer's files transformers makes one of special tokens alone.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise UserError(
            f"the tokenizer of {backbone!r} has no words: its files are missing; give another one"
        )
    return tokenizer


def padding(config: Any) -> int:
    """Return the id that fills up a batch.

    It is the padding token's, or where a network has none that of the end of text.
    """
    ends = getattr(config, "eos_token_id", None)
    several = ends if isinstance(ends, list) else [ends]  # Llama 3 has a list of them
    candidates = (getattr(config, "pad_token_id", None), *several, 0)
    return next(i for i in candidates if i is not None)


def check_length(backbone: str, length: int, option: str) -> None:
    """Refuse texts that are longer than the positions that a network has, if they are limited.

    Raises:
        UserError: naming the option that gave the length.
    """
    config = load_config(backbone)
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and config.model_type in PADDED_POSITIONS:
        longest -= 2
    if longest is not None and length > longest:
        raise UserError(f"{option} must be at most {longest} for {backbone!r}, got {length}")
