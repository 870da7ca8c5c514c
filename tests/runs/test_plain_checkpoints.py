"""Pairs of checkpoints of any kind: their known difference, and files that cannot be compared."""

import functools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted import classifier, run
from conftest import refused
from fits import fit
from networks import disturb
from test_updates import close, refuse

from tasks import CharLM
from zoo.layers.convert import zoo_layers
from zoo.parameterizations import LoRA
from zoo.runs.updates import read

safetensors: Any = pytest.importorskip("safetensors.torch")


def state(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    shapes = {
        "encoder.0.weight": (6, 4),
        "encoder.1.weight": (4, 6),
        "encoder.1.bias": (4,),
        "same.weight": (3, 3),
        "word_embeddings.weight": (9, 4),
        "wte.weight": (9, 4),
        "filter.weight": (2, 2, 3),
    }
    return {name: torch.randn(shape).to(dtype) for name, shape in shapes.items()} | {
        "ids": torch.arange(6).view(2, 3)
    }


def changed(old: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    new = {
        name: t + torch.randn(t.shape).to(t.dtype) if t.is_floating_point() else t
        for name, t in old.items()
    }
    return new | {"same.weight": old["same.weight"].clone(), "ids": old["ids"] + 1}


def as_safetensors(tensors: dict[str, torch.Tensor], path: Path) -> Path:
    path.mkdir()
    safetensors.save_file(tensors, path / "model.safetensors")
    return path


def as_shards(tensors: dict[str, torch.Tensor], path: Path, kind: str = "safetensors") -> Path:
    path.mkdir()
    stem = "model" if kind == "safetensors" else "pytorch_model"
    places = {}
    for i, name in enumerate(tensors):
        places[name] = f"{stem}-{i % 2 + 1:05}-of-00002.{kind}"
    for file in set(places.values()):
        part = {name: tensors[name] for name in tensors if places[name] == file}
        (safetensors.save_file if kind == "safetensors" else torch.save)(part, path / file)
    (path / f"{stem}.{kind}.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": places})
    )
    return path


def as_bin(tensors: dict[str, torch.Tensor], path: Path) -> Path:
    path.mkdir()
    torch.save(tensors, path / "pytorch_model.bin")
    return path


def as_file(tensors: dict[str, torch.Tensor], path: Path) -> Path:
    path = path.with_suffix(".pt")
    torch.save(tensors, path)
    return path


def as_lightning(tensors: dict[str, torch.Tensor], path: Path) -> Path:
    path = path.with_suffix(".ckpt")
    torch.save(
        {"state_dict": {f"model.{name}": t for name, t in tensors.items()}, "epoch": 3}, path
    )
    return path


def as_model(tensors: dict[str, torch.Tensor], path: Path) -> Path:
    path = path.with_suffix(".pt")
    torch.save({"model": tensors, "optimizer": {"state": {}}}, path)
    return path


FORMATS = [
    as_safetensors,
    as_shards,
    functools.partial(as_shards, kind="bin"),
    as_bin,
    as_file,
    as_lightning,
    as_model,
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("write", FORMATS)
def test_a_pair_of_checkpoints_has_their_difference(write, dtype, tmp_path):
    old = state(dtype)
    new = changed(old)
    for after, before in ((write, as_safetensors), (as_bin, write)):
        shutil.rmtree(tmp_path / "x", ignore_errors=True)
        (tmp_path / "x").mkdir()
        paths = (
            str(after(new, tmp_path / "x" / "after")),
            str(before(old, tmp_path / "x" / "before")),
        )
        source = read(paths[0], before=paths[1])
        assert source.what == "dW" and source.task is None
        names = [
            name.rpartition("encoder")[1] + name.rpartition("encoder")[2] for name in source.updates
        ]
        assert names == ["encoder.0", "encoder.1"]
        for name, update in zip(names, source.updates.values(), strict=True):
            difference = new[f"{name}.weight"].float() - old[f"{name}.weight"].float()
            assert update.left.dtype == torch.float32 and torch.equal(update.matrix(), difference)
        assert source.notes == [
            "left out unless --layers names it: 2 embeddings",
            "left out, unchanged: 1 layer",
        ]


def test_embeddings_that_are_named_are_compared(tmp_path):
    old = state()
    new = changed(old) | {"more.weight": torch.ones(2, 2)}
    after, before = str(as_safetensors(new, tmp_path / "a")), str(as_bin(old, tmp_path / "b"))
    source = read(after, before=before, layers=["wte", "encoder.0"])
    assert list(source.updates) == ["encoder.0", "wte"]
    assert torch.equal(source.updates["wte"].matrix(), new["wte.weight"] - old["wte.weight"])
    assert source.notes == ["only in one of the two: 1 parameter"]


def test_a_run_beside_its_backbone(backbones, place):
    model = classifier(backbones("bert"), functools.partial(LoRA, rank=4))
    path = run(model, Path("run"))
    mine, pair = read(path), read(path, before=str(backbones("bert")))
    assert pair.updates.keys() == mine.updates.keys()
    for name, update in pair.updates.items():
        assert update.right is None
        close(update.matrix(), mine.updates[name].matrix(), 1e-6)
    assert (pair.parameterization, pair.notes) == ("LoRA", [])


def test_two_checkpoints_of_a_run(place, small):
    folder = fit("--config", "dct_half.yaml", *small)
    first = CharLM.load_from_checkpoint(folder / "checkpoints" / "last.ckpt", weights_only=True)
    old = {
        name: layer.effective_weight().detach().clone()
        for name, layer in zoo_layers(first.net).items()
    }
    disturb(first)
    run(first, Path("later"))
    source = read("later", before=str(folder))
    assert source.updates.keys() == old.keys()
    for name, layer in zoo_layers(first.net).items():
        close(source.updates[name].matrix(), layer.effective_weight().detach() - old[name])


# ---- Mistakes ------------------------------------------------------------------------------------


def test_pairs_that_cannot_be_compared(place):
    old = state()
    as_safetensors(old, Path("old"))
    refuse("'old'", "equal", "--before", path="old", before="old")
    refuse("'old'", "--before", path="old")
    refuse("'old/model.safetensors'", "--before", path="old/model.safetensors")
    as_safetensors(changed(old) | {"encoder.1.weight": torch.ones(5, 6)}, Path("other"))
    refuse(
        "encoder.1", "(5, 6) in 'other'", "(4, 6) in 'old'", "--layers", path="other", before="old"
    )
    assert list(read("other", before="old", layers=["encoder.0"]).updates) == ["encoder.0"]
    refuse("'nothing'", "encoder.0", path="other", before="old", layers=["nothing"])
    as_safetensors({"something.weight": torch.ones(2, 2)}, Path("strange"))
    refuse("'strange'", "no matrix in common", path="strange", before="old")
    as_safetensors({"wte.weight": torch.ones(9, 4)}, Path("tables"))
    refuse("only embeddings", "--layers", path="tables", before="old")
    as_safetensors(changed(old) | {"encoder.0.weight": torch.full((6, 4), torch.nan)}, Path("nan"))
    refuse("encoder.0", "NaN", "'nan' or 'old'", path="nan", before="old")
    refuse("encoder.0", "NaN", "'old' or 'nan'", path="old", before="nan")


def test_files_that_are_damaged(place):
    model = CharLM(
        "abc", functools.partial(LoRA, rank=2), block_size=8, layers=1, width=16, heads=2
    )
    path = Path(run(model, Path("run")))
    as_safetensors(state(), Path("old"))
    whole = (path / "checkpoints" / "last.ckpt").read_bytes()
    (path / "checkpoints" / "last.ckpt").write_bytes(whole[: len(whole) // 2])
    refuse("last.ckpt", "truncated", path="run")
    refuse("last.ckpt", "truncated", path="old", before="run")
    file = Path("old/model.safetensors")
    file.write_bytes(file.read_bytes()[:-5])
    refuse("model.safetensors", "truncated", path="old", before=str(as_bin(state(), Path("bin"))))
    torch.save([1, 2], "list.pt")
    refuse("'list.pt'", "state dict", path="bin", before="list.pt")
    torch.save({"model": {"a": 3}}, "empty.pt")
    refuse("'empty.pt'", "state dict", path="bin", before="empty.pt")
    torch.save({"run": Path.unlink}, "code.pt")
    refuse("'code.pt'", "code", "refused", path="bin", before="code.pt")
    refuse("'code.pt'", "code", "refused", path="code.pt")


@pytest.mark.parametrize(
    "text", ["seed_everything: 0\n", "", "{}", "# A title\n", "0123456789abcdef" * 9, "PK"]
)
def test_files_that_are_no_checkpoints(text, place):
    as_bin(state(), Path("old"))
    Path("notes.txt").write_text(text, encoding="latin-1")
    refuse("'notes.txt'", "use another one", path="old", before="notes.txt")
    refuse("'notes.txt'", "use another one", path="notes.txt")
    Path("notes.txt").rename("notes.safetensors")
    refuse("'notes.safetensors'", "use another one", path="notes.safetensors")


def test_an_index_that_is_damaged(place):
    as_bin(state(), Path("old"))
    folder = as_shards(state(), Path("new"))
    (folder / "model-00002-of-00002.safetensors").unlink()
    refuse("model-00002-of-00002.safetensors", "not there", path="new", before="old")
    for damaged in ('{"weight_map": 3}', "{}", '{"weight_map": {"a": 1}}'):
        (folder / "model.safetensors.index.json").write_text(damaged)
        refuse("index.json", "weight_map", path="new", before="old")
    (folder / "model.safetensors.index.json").write_text("{")
    refuse("index.json", "damaged", path="new", before="old")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(10**6, 10**6),
        torch.zeros(1).as_strided((10**6, 10**6), (0, 0)),
        torch.sparse_coo_tensor(
            torch.zeros(2, 1, dtype=torch.long),
            torch.ones(1),
            (10**6, 10**6),
            check_invariants=True,
        ),
        torch.zeros(10**6, 10**6, device="meta"),
    ],
    ids=["expanded", "strided", "sparse", "meta"],
)
def test_a_tensor_without_its_entries(tensor, place):
    """A file of a few bytes that would take terabytes."""
    as_bin(state(), Path("old"))
    Path("new").mkdir()
    torch.save(state() | {"encoder.0.weight": tensor}, "new/pytorch_model.bin")
    refuse("'new", path="new", before="old")
    refuse("'new", path="old", before="new")


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "."]
)
def test_an_index_that_leads_elsewhere(name, place):
    as_bin(state(), Path("old"))
    folder = as_shards(state(), Path("new"))
    safetensors.save_file(state(), "secret.safetensors")
    (folder / "a").mkdir()
    safetensors.save_file(state(), folder / "a" / "b.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"encoder.0.weight": name}})
    )
    refuse("index.json", "no file beside it", path="new", before="old")


@pytest.mark.parametrize("value", [1e30, 1e-30, torch.inf])
def test_matrices_beyond_measure(value, place):
    """Their squares are no numbers in float32."""
    old = {"a.weight": torch.zeros(8, 8)}
    as_safetensors(old, Path("old"))
    as_safetensors({"a.weight": torch.full((8, 8), value)}, Path("new"))
    refuse("a ", "'new' or 'old'", "checkpoint", path="new", before="old")


def test_factors_of_a_matrix_that_no_memory_holds(place):
    Path("adapter").mkdir()
    sides = {"A": torch.ones(1, 10**5), "B": torch.ones(10**5, 1)}
    wide = {f"base_model.model.x.lora_{side}.weight": tensor for side, tensor in sides.items()}
    safetensors.save_file(wide, "adapter/adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "init_lora_weights": True}
    Path("adapter/adapter_config.json").write_text(json.dumps(config))
    refuse("100,000 x 100,000", "--layers", path="adapter")


def test_pipes_are_not_waited_for(place, capsys):
    as_bin(state(), Path("old"))
    Path("run/checkpoints").mkdir(parents=True)
    for pipe in ("pipe.ckpt", "pipe.safetensors", "run/checkpoints/last.ckpt"):
        os.mkfifo(pipe)
    for path in ("pipe.ckpt", "pipe.safetensors", "run"):
        refuse(path, path=path)
        refuse(path, path="old", before=path)
        for command in ("analyze", "mask"):
            refused(capsys, [command, path], path)
