"""What no file of a backbone holds: it is in the checkpoint and in every export, whether it is
trained or frozen.
"""

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import configuration, ids
from conftest import refused
from every import thinned
from test_peft import close, run
from torch import nn

from tasks import GlueClassifier
from tasks.finetuning import Tuning
from tasks.hub import load_skeleton
from zoo.__main__ import main
from zoo.errors import UserError
from zoo.layers.convert import linear_layers
from zoo.parameterizations import LoRA, RandLoRA
from zoo.runs import checkpoints
from zoo.training.module import ZooModule

transformers: Any = pytest.importorskip("transformers")
theirs: Any = pytest.importorskip("peft")
safetensors: Any = pytest.importorskip("safetensors.torch")

pytestmark = [
    # peft calls transformers by a name that is going away.
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    # peft looks for the bases in each layer.
    pytest.mark.filterwarnings("ignore:Found missing adapter keys:UserWarning"),
]
HEADS = (
    "albert",
    "bert",
    "deberta-v2",
    "distilbert",
    "electra",
    "modernbert",
    "roberta",
    "gpt2",
    "qwen3",
)
LORA, RANDLORA = functools.partial(LoRA, rank=2), functools.partial(RandLoRA, rank=3)
CASES = [
    *((kind, True, LORA) for kind in HEADS),
    ("bert", False, LORA),
    ("llama", False, LORA),
    ("roberta", True, RANDLORA),
]
"""The architecture, whether layers of the head and the missing pooler have updates too, and which
ones."""


@pytest.fixture(scope="session")
def headless(
    tmp_path_factory: pytest.TempPathFactory, backbones: Callable[[str], Path]
) -> Callable[..., Path]:
    """The folder of a tiny network without a head, and without its pooler if it has one; some
    tokenizer beside it.
    """
    root = tmp_path_factory.mktemp("headless")

    def save(kind: str) -> Path:
        folder = root / kind
        if not folder.is_dir():
            torch.manual_seed(1)
            network = transformers.AutoModel.from_config(configuration(kind))
            state = {
                name: value for name, value in network.state_dict().items() if "pooler" not in name
            }
            network.save_pretrained(folder, state_dict=state)
            transformers.AutoTokenizer.from_pretrained(backbones("bert")).save_pretrained(folder)
        return folder

    return save


def trained(folder: Path, head: bool, factory: Any) -> GlueClassifier:
    """A classifier of three labels after two steps of training; the head's layers have updates,
    too, if wanted.
    """
    settings: dict[str, Any] = {"parameterization": factory}
    if head:
        names = list(linear_layers(load_skeleton(str(folder), "SequenceClassification")))
        inner = [name for name in names if any(part.isdigit() for part in name.split("."))]
        settings["targets"] = [inner[0], *(name for name in names if name not in inner)]
    torch.manual_seed(2)
    model = GlueClassifier(str(folder), "mnli", tuning=Tuning(scale=0.5), **settings).eval()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.5)
    for _ in range(2):
        optimizer.zero_grad()
        model.loss(model.net(input_ids=ids()).logits, torch.tensor([0, 2])).backward()
        optimizer.step()
    return model


def logits(network: Any) -> torch.Tensor:
    return network(input_ids=ids()).logits


def held_against(model: GlueClassifier, folder: Path) -> None:
    """Rebuilt under two seeds, and exported in each way: equal logits."""
    want, path = logits(model.net), checkpoints.resolve(str(run(model, Path("run"))))
    for seed in (5, 6):
        torch.manual_seed(seed)
        close(logits(checkpoints.rebuild(path).net), want)
    for to in ("safetensors", "dense", "peft"):
        assert (
            main(["export", "run", "--to", to, "--output", to, *["--rank=16"] * (to == "peft")])
            == 0
        )
    torch.manual_seed(7)
    close(logits(checkpoints.rebuild(checkpoints.resolve("safetensors")).net), want)
    auto = transformers.AutoModelForSequenceClassification
    close(logits(auto.from_pretrained("dense").eval()), want)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of peft's, about layers of GPT-2
        loaded = theirs.PeftModel.from_pretrained(
            auto.from_pretrained(folder, num_labels=3), "peft"
        ).eval()
    loaded.config.pad_token_id = 0
    close(logits(loaded), want)


@pytest.mark.parametrize(("kind", "head", "factory"), thinned(CASES, 10))
def test_outputs_do_not_depend_on_the_seed(kind, head, factory, headless, place):
    held_against(trained(headless(kind), head, factory), headless(kind))


def test_a_checkpoint_that_lacks_what_was_drawn(headless, place, capsys):
    """As they were written once, without the frozen weights of a pooler's layer."""
    model = trained(headless("bert"), True, LORA)
    checkpoint = checkpoints.snapshot(model)
    del checkpoint["state_dict"]["net.bert.pooler.dense.weight"]
    torch.save(checkpoint, "old.ckpt")
    refused(
        capsys,
        ["export", "old.ckpt", "--to", "peft"],
        "old.ckpt",
        "net.bert.pooler.dense.weight",
        "backbone",
    )


class Drawn(ZooModule):
    """A task of somebody's own: updates of weights that it draws at random, and does not read."""

    def __init__(self, names: tuple[str, ...] = ()) -> None:
        super().__init__(LORA, ["0"])
        self.save_settings()
        self.drawn = frozenset(names)
        net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
        net.requires_grad_(False)
        self.net = self.parameterize(net, "update")


def test_a_task_that_draws_what_it_freezes(place):
    """Refused where another network would stand below the update; or all of it is in the
    checkpoint.
    """
    for names in ((), ("net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias")):
        model = Drawn(names)
        checkpoint = checkpoints.snapshot(model)
        other = Drawn(names)
        assert not torch.equal(other.net[2].weight, model.net[2].weight)
        if names:
            assert set(names) <= checkpoint["state_dict"].keys()
            checkpoints.check(Path("a.ckpt"), checkpoint, other)
            other.load_state_dict(checkpoint["state_dict"])
            assert torch.equal(other.net[2].weight, model.net[2].weight)
        else:
            checkpoints.check(Path("a.ckpt"), checkpoints.snapshot(model), model)
            with pytest.raises(UserError, match=r"frozen weights are not those .* self.drawn"):
                checkpoints.check(Path("a.ckpt"), checkpoint, other)
