"""Measures training steps and memory beside peft's, in one process, and prints CSV rows.

    python results/measure_peft.py BACKBONE >> results/peft.csv     # a save_pretrained folder of a BERT

Three pairs of equal trainable count on query and value: LoRA (r = 8), RandLoRA (r = 32) and, as the DCT's neighbour,
FourierFT with as many coefficients. Both sides of a pair have the same backbone, batch, precision, head and optimizer,
and take a whole step: forward, backward, AdamW. Steps alternate; a ratio is the median of ratios of neighbours, with
its quartiles. Memory is the peak of what one step allocates on top of weights and optimizer, from the profiler.
"""

import csv
import functools
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from statistics import median

import torch
import torch.nn.functional as F
from measure import alternate, commit, device, ratio
from torch import nn

from tasks.hub import library, load_network
from zoo.convert import convert
from zoo.parameterizations import DCT, LoRA, RandLoRA

BATCHES = ((32, 16), (32, 64), (32, 128))  # sentences, tokens each: about SST-2, RTE, and the longest that is read


def backbone(folder: str) -> nn.Module:
    """A classifier whose network is frozen."""
    network = load_network(folder, "SequenceClassification", num_labels=2)
    network.base_model.requires_grad_(False)
    return network


def pairs(folder: str) -> dict[str, tuple[nn.Module, nn.Module]]:
    """(zoo's model, peft's) by name."""
    peft = library("peft")
    count = 8 * 2 * backbone(folder).config.hidden_size  # coefficients of a square layer
    ours = {
        "LoRA": functools.partial(LoRA, rank=8), "RandLoRA": functools.partial(RandLoRA, rank=32),
        "DCT to FourierFT": functools.partial(DCT, coefficients=count),
    }
    settings = {"target_modules": ["query", "value"], "task_type": "SEQ_CLS"}
    theirs = {
        "LoRA": peft.LoraConfig(r=8, lora_alpha=8, **settings),
        "RandLoRA": peft.RandLoraConfig(r=32, randlora_alpha=640, **settings),
        "DCT to FourierFT": peft.FourierFTConfig(n_frequency=count, init_weights=True, **settings),
    }
    return {
        name: (convert(backbone(folder), ours[name], ["query", "value"], start="update"),
               peft.get_peft_model(backbone(folder), theirs[name]))
        for name in ours
    }


def trained_step(model: nn.Module, batch: dict[str, torch.Tensor], precision: str) -> Callable[[], object]:
    """One step of AdamW on a fixed batch."""
    model.train()
    labels = torch.arange(len(batch["input_ids"])) % 2
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = F.cross_entropy(model(**batch).logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def peak_bytes(step: Callable[[], object]) -> int:
    """The most that a call has allocated at one time beyond what there was before it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def main(folder: str, rounds: str = "24") -> None:
    """Print a row for each pair, batch and precision."""
    writer = None
    for precision in ("bfloat16", "float32"):
        for sentences, tokens in BATCHES:
            ids = torch.randint(1000, 20000, (sentences, tokens), generator=torch.Generator().manual_seed(0))
            batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            for name, models in pairs(folder).items():
                counts = [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in models]
                steps = [trained_step(model, batch, precision) for model in models]
                seconds = alternate(dict(zip(("zoo", "peft"), steps, strict=True)), int(rounds), 3)
                zoo_bytes, peft_bytes = (peak_bytes(step) for step in steps)
                row = {
                    "pair": name, "precision": precision, "sentences": sentences, "tokens": tokens,
                    "zoo_trainable": counts[0], "peft_trainable": counts[1],
                    **{f"{side}_ms": f"{1e3 * median(times):.1f}" for side, times in seconds.items()},
                    **ratio(seconds["zoo"], seconds["peft"]),
                    "zoo_MiB": f"{zoo_bytes / 2**20:.1f}", "peft_MiB": f"{peft_bytes / 2**20:.1f}",
                    "memory_ratio": f"{zoo_bytes / peft_bytes:.3f}", "peft": library("peft").__version__,
                    "command": "python results/measure_peft.py BACKBONE", "commit": commit(), "device": device(),
                    "date": datetime.now(UTC).date().isoformat(),
                }
                if writer is None:
                    writer = csv.DictWriter(sys.stdout, list(row), lineterminator="\n")
                    writer.writeheader()
                writer.writerow(row)
                sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
