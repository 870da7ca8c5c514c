"""Training steps and memory beside peft's, on an encoder of BERT-base's size with random weights.

Pairs have equal trainable counts: LoRA (r = 8), RandLoRA (r = 32) and, as the DCT's neighbour,
FourierFT with as many coefficients. Both sides have the same backbone, batch, precision, head and
optimizer, and take a whole step: forward, backward, AdamW.
"""

import importlib.util
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from results.goals.goals import Goal, exact, goal, mib
from zoo.layers.convert import convert
from zoo.parameterizations import DCT, BlockDCT, LoRA, RandLoRA
from zoo.studies.bench.timing import Call, alternate, peak_memory, quartiles, ratio

RANK, BASIS_RANK = 8, 32
ALL = ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense")
"""Every linear layer of a block, as peft names them."""


class Batch(NamedTuple):
    """What is trained on, and which layers."""

    sentences: int
    tokens: int
    every: bool = False
    """Every linear layer of the encoder; else query and value."""

    def __str__(self) -> str:
        layers = "all layers" if self.every else "query and value"
        return f"{self.sentences}x{self.tokens} tokens, {layers}"


BATCHES = (Batch(4, 16), Batch(32, 16), Batch(32, 16, every=True))


class Pair(NamedTuple):
    """A parameterization and what peft has for it."""

    name: str
    factory: Any
    """A factory of the parameterization."""
    config: str
    """The name of peft's config."""
    options: dict[str, Any]
    limit: float
    recompute: bool = False
    """Build W again in backward; measured where every layer has an update, so no weight is kept."""


def pairs(width: int, every: bool) -> list[Pair]:
    """Return the pairs for an encoder, all of whose layers are trained or not."""
    count = 2 * RANK * width  # of LoRA on a square layer
    fourier = {"n_frequency": count, "init_weights": True}
    chosen = [
        Pair("LoRA", partial(LoRA, rank=RANK), "LoraConfig", {"r": RANK, "lora_alpha": RANK}, 1.0),
        Pair(
            "RandLoRA",
            partial(RandLoRA, rank=BASIS_RANK),
            "RandLoraConfig",
            {"r": BASIS_RANK, "randlora_alpha": 20 * BASIS_RANK},
            0.7,
        ),
        Pair("DCT", partial(DCT, coefficients=count), "FourierFTConfig", fourier, 0.5),
        Pair("BlockDCT", partial(BlockDCT, coefficients=count), "FourierFTConfig", fourier, 0.5),
    ]
    again = [pair._replace(name=f"{pair.name}, recompute", recompute=True) for pair in chosen[1:]]
    return chosen + (again if every else [])


def peft_pairs(
    say: Callable[[str], None],
    batches: Sequence[Batch] = BATCHES,
    sizes: Mapping[str, int] | None = None,
    rounds: int = 6,
) -> list[Goal]:
    """Compare time and peak memory of a step with peft's, under bfloat16 autocast.

    Args:
        say: takes pair and batch; or why nothing is measured.
        batches: what is trained on.
        sizes: of transformers' `BertConfig`, where they are not BERT-base's.
        rounds: of steps.
    """
    if missing := [
        name for name in ("transformers", "peft") if importlib.util.find_spec(name) is None
    ]:
        say(f'peft left out: {missing[0]} is not installed: pip install -e ".[test]"')
        return []
    goals = []
    for batch in batches:
        peers: dict[str, tuple[Call, nn.Module]] = {}
        ours: dict[str, tuple[Call, nn.Module]] = {}
        chosen = pairs(backbone(sizes).config.hidden_size, batch.every)
        for config in dict.fromkeys(pair.config for pair in chosen):
            group = [pair for pair in chosen if pair.config == config]
            say(f"peft {config.removesuffix('Config')}, {batch}")
            peers = {"peft": stepper(_peft(group[0], sizes, batch.every), batch)}
            ours = {pair.name: stepper(_zoo(pair, sizes, batch.every), batch) for pair in group}
            calls = {name: call for name, (call, _) in (peers | ours).items()}
            times = alternate(calls, rounds=rounds, warmup=2)
            peaks = {name: peak_memory(call) for name, call in calls.items()}
            theirs = config.removesuffix("Config").replace("Lora", "LoRA")
            for pair in group:
                case = f"{pair.name} to peft {theirs}, {batch}"
                counts = " to ".join(
                    f"{_count(model):,}" for _, model in (ours[pair.name], peers["peft"])
                )
                a, b = (1e3 * quartiles(times[name]).median for name in (pair.name, "peft"))
                note = f"bfloat16 autocast, {a:.0f} ms to {b:.0f} ms, {counts} trained"
                goals.append(
                    goal(f"step, {case}", pair.limit, ratio(times[pair.name], times["peft"]), note)
                )
                bytes_of_both = f"{mib(peaks[pair.name])} to {mib(peaks['peft'])}"
                memory = f"beyond weights and moments, MiB: {bytes_of_both}"
                share = exact(peaks[pair.name] / peaks["peft"])
                goals.append(goal(f"peak memory, {case}", pair.limit, share, memory))
    return goals


def backbone(sizes: Mapping[str, int] | None) -> Any:
    """Make a classifier of random weights whose encoder is frozen."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    network = BertForSequenceClassification(BertConfig(**(sizes or {})))  # type: ignore[arg-type]
    network.base_model.requires_grad_(False)
    return network


def _zoo(pair: Pair, sizes: Mapping[str, int] | None, every: bool) -> nn.Module:
    targets = [f"*.{name}" for name in ALL] if every else ["query", "value"]
    return convert(backbone(sizes), pair.factory, targets, start="update", recompute=pair.recompute)


def _peft(pair: Pair, sizes: Mapping[str, int] | None, every: bool) -> nn.Module:
    import peft

    targets = list(ALL) if every else ["query", "value"]
    config = getattr(peft, pair.config)(target_modules=targets, task_type="SEQ_CLS", **pair.options)
    with warnings.catch_warnings():  # peft asks transformers by a name that is going away
        warnings.simplefilter("ignore", FutureWarning)
        return peft.get_peft_model(backbone(sizes), config)


def stepper(model: nn.Module, batch: Batch) -> tuple[Call, nn.Module]:
    """Return one step of AdamW on a fixed batch, and the model."""
    model.train()
    shape, generator = (batch.sentences, batch.tokens), torch.Generator().manual_seed(0)
    ids = torch.randint(10, model.config.vocab_size, shape, generator=generator)  # type: ignore[union-attr, arg-type]
    inputs: dict[str, Tensor] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    labels = torch.arange(batch.sentences) % 2
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True
    )

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(**inputs).logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step, model


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
