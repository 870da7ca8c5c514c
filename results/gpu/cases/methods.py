"""What the part characters trains, and how: methods of the first paper's table, as shipped."""

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import yaml

from results.gpu.frame.setting import Setting

if TYPE_CHECKING:
    from tasks import CharData, CharLM

CONFIG = Path(__file__).parents[3] / "configs" / "char_lm.yaml"


class Method(NamedTuple):
    """A parameterization, and the peak rate that it is trained at."""

    parameterization: str
    arguments: dict[str, Any]
    rate: float
    """The best of three on seed 0 after 400 steps."""
    shipped: float
    """What the shipped configs have."""
    trials: str
    """Where the rate was found: a file of `results/`, and what its trials' names begin with."""


SWEEP, BLOCKS = "char_lm_sweep.csv", "blocks.csv"
METHODS = {
    "dense": Method("Dense", {}, 0.008, 0.007, f"{SWEEP} Dense"),
    "DCT 1/2": Method("DCT", {"ratio": 0.5}, 0.008, 0.007, f"{SWEEP} DCT-ratio=0.5"),
    "LoRA 48": Method("LoRA", {"rank": 48}, 0.002, 0.002, f"{SWEEP} LoRA-ratio=0.5"),
    "random 1/2": Method(
        "RandomOrthonormal", {"ratio": 0.5}, 0.008, 0.007, f"{SWEEP} RandomOrthonormal-ratio=0.5"
    ),
    "BlockDCT 1/2": Method(
        "BlockDCT", {"ratio": 0.5}, 0.008, 0.007, f"{BLOCKS} BlockDCT-block=16-ratio=0.5"
    ),
    "DCT 1/10": Method("DCT", {"ratio": 0.1}, 0.008, 0.007, f"{SWEEP} DCT-ratio=0.1"),
    "zigzag 1/10": Method("Zigzag", {"ratio": 0.1}, 0.008, 0.007, f"{SWEEP} Zigzag-ratio=0.1"),
    "random 1/10": Method(
        "RandomOrthonormal", {"ratio": 0.1}, 0.008, 0.007, f"{SWEEP} RandomOrthonormal-ratio=0.1"
    ),
    "LoRA 1/10": Method("LoRA", {"ratio": 0.1}, 0.002, 0.002, f"{SWEEP} LoRA-ratio=0.1"),
    "DCT 1/20": Method("DCT", {"ratio": 0.05}, 0.004, 0.007, f"{SWEEP} DCT-ratio=0.05"),
    "zigzag 1/20": Method("Zigzag", {"ratio": 0.05}, 0.008, 0.007, f"{SWEEP} Zigzag-ratio=0.05"),
    "random 1/20": Method(
        "RandomOrthonormal", {"ratio": 0.05}, 0.004, 0.007, f"{SWEEP} RandomOrthonormal-ratio=0.05"
    ),
    "LoRA 1/20": Method("LoRA", {"ratio": 0.05}, 0.002, 0.002, f"{SWEEP} LoRA-ratio=0.05"),
}
"""In the order of worth."""


class Training(NamedTuple):
    """How all of the methods are trained."""

    corpus: str
    data_dir: str | None
    batch_size: int
    block_size: int
    network: dict[str, Any]
    """Sizes other than the task's own."""
    optimizer: dict[str, Any]
    steps: int
    interval: int
    """Steps between validations."""
    first: int
    """Steps that are compared with Lightning's; fewer than an interval."""
    seeds: tuple[int, ...]
    device: str

    def data(self, seed: int) -> "CharData":
        """Return the text, and the windows of a seed."""
        from tasks import CharData

        return CharData(self.corpus, self.data_dir, None, self.batch_size, self.block_size, seed)

    def model(self, method: Method, seed: int, vocabulary: str) -> "CharLM":
        """Make the task as `zoo fit --seed_everything` makes it."""
        from tasks import CharLM
        from zoo import parameterizations
        from zoo.training.optimizers import OptimizerConfig

        torch.manual_seed(seed)
        factory = partial(getattr(parameterizations, method.parameterization), **method.arguments)
        optimizer = OptimizerConfig(**{**self.optimizer, "lr": method.rate})
        return CharLM(
            vocabulary,
            factory,
            block_size=self.block_size,
            optimizer=optimizer,
            seed=seed,
            **self.network,
        )


@contextlib.contextmanager
def shipped(setting: Setting) -> Iterator[Training]:
    """Provide the shipped training; in small another text, a narrow network and few steps."""
    content = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    optimizer, data = content["model"]["init_args"]["optimizer"], content["data"]["init_args"]
    trainer, corpus = content["trainer"], data["corpus"]
    assert trainer["precision"] == "bf16-mixed"
    if not setting.small:
        yield Training(
            corpus,
            setting.data,
            data["batch_size"],
            data["block_size"],
            {},
            optimizer,
            trainer["max_steps"],
            trainer["val_check_interval"],
            50,
            (1, 2, 3, 4, 5),
            setting.device,
        )
        return
    from results.goals import loop

    network = {"layers": 1, "width": 48, "heads": 2}
    with loop.corpus() as folder:
        place = str(folder / "text.txt") if setting.data is None else corpus
        yield Training(
            place, setting.data, 2, 16, network, optimizer, 4, 4, 2, (1, 2), setting.device
        )
