"""Adapters as strangers have them: peft's, loralib's, zoo's own, and hostile ones.

Each function writes one and returns its path.
"""

import io
import json
import os
import struct
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

import zoo
from zoo.studies.census import running, worker

PREFIX = "base_model.model."
QUERY = "encoder.layer.{}.attention.self.query"
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 1234\n"


def factors(layers=2, out=24, into=20, rank=4, b_rank=None, seed=0):
    """Tensors by peft's names, of normal numbers."""
    stream = torch.Generator().manual_seed(seed)
    return {
        f"{PREFIX}{QUERY.format(i)}.lora_{part}.weight": torch.randn(*shape, generator=stream)
        for i in range(layers)
        for part, shape in (("A", (rank, into)), ("B", (out, rank if b_rank is None else b_rank)))
    }


def config(folder, rank=4, **more):
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "peft_type": "LORA",
        "base_model_name_or_path": "stranger/distilbert-base",
        "r": rank,
        "lora_alpha": 8,
        "target_modules": ["query"],
        **more,
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def peft(folder, tensors=None, rank=4, seed=0, **settings):
    folder = config(Path(folder), rank, **settings)
    held = factors(rank=rank, seed=seed) if tensors is None else tensors
    save_file(held, folder / "adapter_model.safetensors")
    return folder


def peft_binary(folder, tensors=None, seed=0):
    folder = config(Path(folder))
    torch.save(factors(seed=seed) if tensors is None else tensors, folder / "adapter_model.bin")
    return folder


def loralib(file, layers=2, out=24, into=20, rank=4, seed=0):
    file, stream = Path(file), torch.Generator().manual_seed(seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    shapes = {"A": (rank, into), "B": (out, rank)}
    state = {
        f"layer.{i}.query.lora_{part}": torch.randn(*shape, generator=stream)
        for i in range(layers)
        for part, shape in shapes.items()
    }
    torch.save({**state, "classifier.bias": torch.zeros(2)}, file)
    return file


def own(folder, seed=0):
    """What `zoo.save` writes."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(20, 24), nn.ReLU(), nn.Linear(24, 24)).eval()
    net = zoo.adapt(net, zoo.LoRA, targets="*", rank=4)
    with torch.no_grad():
        for p in zoo.trainable(net).values():
            p.normal_()
    return zoo.save(net, Path(folder))


class Evil:
    """A pickle of it makes a folder when it is read."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def pickled(folder, makes):
    """An adapter whose tensors are a pickle with code, which makes a folder."""
    folder = config(Path(folder))
    torch.save({"a": Evil(makes)}, folder / "adapter_model.bin")
    return folder


def nan(folder):
    tensors = factors()
    next(iter(tensors.values()))[0, 0] = float("nan")
    return peft(folder, tensors)


def pointer(folder):
    folder = config(Path(folder))
    (folder / "adapter_model.safetensors").write_text(POINTER)
    return folder


def header(folder, text, length=None, data=b""):
    """A safetensors file whose header is this text."""
    folder, content = config(Path(folder)), text.encode()
    start = struct.pack("<Q", len(content) if length is None else length)
    (folder / "adapter_model.safetensors").write_bytes(start + content + data)
    return folder


def many_tensors(folder, count=100_000):
    one = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    return header(folder, json.dumps({f"t{i}": one for i in range(count)}), data=bytes(4))


# ---- Without processes ---------------------------------------------------------------------------


class Ended:
    """A process that has ended."""

    returncode = 0

    def __init__(self):
        self.stdin = io.StringIO()

    def poll(self):
        return 0

    def kill(self):
        pass

    wait = kill


def in_this_process(monkeypatch):
    """Have a census do its jobs here, without a process for each; returns names as they begin."""
    begun = []

    def start(job, bounds, file):
        job = {**job, "memory": bounds.memory, "result": str(file)}
        begun.append(job["entry"]["name"] + (" tail" if "layer" in job else ""))
        file.write_text(json.dumps(worker.outcome(job)))
        return running._Running(job, Ended(), io.StringIO(), time.monotonic())

    monkeypatch.setattr(running, "_start", start)
    monkeypatch.setattr(running, "LOOK", 0.0)
    monkeypatch.setattr("zoo.studies.census.measuring.TAIL_DRAWS", 42)
    monkeypatch.setattr("zoo.studies.census.figures.census_figures", lambda census: {})
    return begun
