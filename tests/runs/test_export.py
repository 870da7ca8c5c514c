"""`zoo export`: equal outputs of a plain model and of one small file, and nothing half-written."""

import functools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import refused
from every import OF_EACH_KIND, factories, thinned
from fits import fit

from tasks import CharLM, GlueClassifier
from tasks.finetuning import Tuning
from zoo.__main__ import main
from zoo.cli.fit.run_config import given
from zoo.files.access import new_folder
from zoo.files.locks import hold
from zoo.files.tensors import read_tensors, write_tensors
from zoo.files.trust import NOBODY
from zoo.layers.convert import merge
from zoo.parameterizations import DCT, Dense, LoRA, RandLoRA
from zoo.runs import checkpoints
from zoo.training.module import ZooModule

transformers: Any = pytest.importorskip("transformers")
safetensors: Any = pytest.importorskip("safetensors.torch")

IDS = torch.arange(5, 35).view(3, 10)
FACTORIES = [
    functools.partial(LoRA, rank=4),
    functools.partial(RandLoRA, rank=4),
    functools.partial(DCT, ratio=0.3),
]


def classifier(backbone: Path, **settings: Any) -> GlueClassifier:
    """With updates that are not zero."""
    model = GlueClassifier(
        str(backbone), "rte", **{"parameterization": FACTORIES[0], **settings}
    ).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p) * 0.3)
    return model


def run(model: ZooModule, folder: Path = Path("run")) -> str:
    (folder / "checkpoints").mkdir(parents=True)
    torch.save(checkpoints.snapshot(model), folder / "checkpoints" / "last.ckpt")
    return str(folder)


def logits(model: ZooModule) -> torch.Tensor:
    return model.net(IDS).logits


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_dense_has_equal_logits(kind, factory, backbones, place):
    model = classifier(
        backbones(kind), parameterization=factory, tuning=Tuning(preset="all", scale=0.5)
    )
    assert main(["export", run(model), "--to", "dense"]) == 0
    plain, report = transformers.AutoModelForSequenceClassification.from_pretrained(
        "run/export-dense", output_loading_info=True
    )
    assert not any(report.values())
    assert plain.config.id2label == {0: "entailment", 1: "not_entailment"}
    # Large, random updates.
    torch.testing.assert_close(plain.eval()(IDS).logits, logits(model), rtol=1e-4, atol=1e-4)
    words = transformers.AutoTokenizer.from_pretrained("run/export-dense")("good film")["input_ids"]
    assert (
        words
        == transformers.AutoTokenizer.from_pretrained(backbones(kind))("good film")["input_ids"]
    )


def test_dense_of_full_finetuning(backbones, place):
    model = classifier(backbones("bert"), parameterization=Dense, tuning=Tuning(full=True))
    assert main(["export", run(model), "--to", "dense"]) == 0
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(
        "run/export-dense"
    ).eval()
    torch.testing.assert_close(plain(IDS).logits, logits(model), rtol=1e-4, atol=1e-4)


def test_dense_of_a_network_that_is_not_from_the_hub(place):
    model = CharLM(
        "abc", functools.partial(DCT, ratio=0.5), block_size=8, layers=1, width=16, heads=2
    ).eval()
    assert main(["export", run(model), "--to", "dense", "--output", "new/plain"]) == 0
    state, _ = read_tensors(Path("new/plain/model.safetensors"))
    plain = merge(model.net)
    assert state.keys() == plain.state_dict().keys()
    plain.load_state_dict({name: torch.zeros_like(value) for name, value in state.items()})
    plain.load_state_dict(state)
    ids = torch.tensor([[0, 1, 2]])
    torch.testing.assert_close(plain(ids), model(ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("factory", thinned(FACTORIES, 3))
def test_adapter_holds_coefficients_and_head_only(factory, backbones, place):
    """It has at most 4 bytes a number and 64 KiB; read wherever a run is, it gives equal logits."""
    model = classifier(backbones("bert"), parameterization=factory, targets=["*.layer.*"])
    assert main(["export", run(model), "--to", "safetensors"]) == 0
    path = Path("run/export-safetensors/adapter.safetensors")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(t.numel() for t in safetensors.load_file(path).values()) == trained
    assert path.stat().st_size <= 4 * trained + 64 * 1024
    rebuilt = checkpoints.rebuild(checkpoints.resolve("run/export-safetensors"))
    assert torch.equal(logits(rebuilt), logits(model))
    assert main(["export", str(path), "--to", "safetensors", "--output", "again"]) == 0
    (mine, settings), (again, same) = (
        read_tensors(path),
        read_tensors(Path("again/adapter.safetensors")),
    )
    assert settings == same
    assert mine.keys() == again.keys()
    assert all(torch.equal(mine[name], again[name]) for name in mine)
    assert main(["export", str(path), "--to", "dense", "--output", "dense"]) == 0
    plain = transformers.AutoModelForSequenceClassification.from_pretrained("dense").eval()
    torch.testing.assert_close(plain(IDS).logits, logits(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", thinned(factories(), lambda name: name in (*OF_EACH_KIND, "Sum")))
def test_every_class_is_exported(name, place):
    """As an adapter and as plain weights, with equal outputs."""
    model = CharLM("abc", factories()[name], block_size=8, layers=1, width=16, heads=2).eval()
    path, ids = run(model), torch.tensor([[0, 1, 2]])
    for to in ("safetensors", "dense"):
        assert main(["export", path, "--to", to]) == 0
    rebuilt = checkpoints.rebuild(checkpoints.resolve("run/export-safetensors"))
    assert torch.equal(rebuilt(ids), model(ids))
    state, _ = read_tensors(Path("run/export-dense/model.safetensors"))
    plain = merge(model.net)
    plain.load_state_dict(state)
    torch.testing.assert_close(plain(ids), model(ids), rtol=1e-4, atol=1e-4)


def test_adapter_of_the_character_model(place, small, capsys):
    folder = fit("--config", "dct_half.yaml", *small)
    assert main(["validate", "--ckpt_path", str(folder)]) == 0
    of_run = capsys.readouterr().out.splitlines()[-3:]
    assert of_run[0].startswith("validation loss")
    assert main(["export", str(folder), "--to", "safetensors", "--output", "small"]) == 0
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    assert main(["validate", "--ckpt_path", "small"]) == 0
    assert capsys.readouterr().out.splitlines() == of_run
    assert main(["generate", "--ckpt_path", "small", "--prompt", "the", "--length", "5"]) == 0
    assert sorted(Path().rglob("*")) == before


def test_a_matrix_of_two_layers_is_stored_once(tmp_path):
    weight = torch.randn(30, 20)
    state = {
        "embedding.weight": weight,
        "head.weight": weight,
        "head.bias": torch.zeros(30),
        "other": weight.clone(),
    }
    checkpoints.write_adapter(
        tmp_path / "a.safetensors",
        {
            "state_dict": state,
            "global_step": 1,
            "pytorch-lightning_version": "2.6.4",
        },
    )
    assert len(safetensors.load_file(tmp_path / "a.safetensors")) == 3
    loaded = checkpoints.load(tmp_path / "a.safetensors")["state_dict"]
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_trained_run_is_exported_with_sizes_and_error(tune, place, capsys):
    folder = fit(
        *tune,
        "--model.parameterization",
        "DCT",
        "--model.parameterization.ratio",
        "0.5",
        config="glue_rte lora_8",
    )
    capsys.readouterr()
    assert main(["export", str(folder), "--to", "peft", "--rank", "2"]) == 0
    lines = dict(
        line.split(maxsplit=1) for line in capsys.readouterr().out.replace(" ", "_", 1).splitlines()
    )
    text = str(lines)
    assert f"{folder}/export-peft" in text
    on_disk = sum(path.stat().st_size for path in (folder / "export-peft").iterdir())
    assert f"{on_disk:,} bytes" in text
    assert f"{4 * 4 * 32 * 32:,} bytes in float32, 4 layers" in text
    assert f"{4 * 4 * 512:,} bytes" in text
    assert "mean 0." in text


# ---- Mistakes ------------------------------------------------------------------------------------


@pytest.fixture
def char_run(place) -> str:
    """A run of a small character model."""
    return run(
        CharLM("abc", functools.partial(DCT, ratio=0.5), block_size=8, layers=1, width=16, heads=2)
    )


def test_mistakes_of_the_command(char_run, capsys):
    refused(capsys, ["export", "nowhere", "--to", "dense"], "'nowhere'")
    refused(capsys, ["export", char_run, "--to", "onnx"], "'onnx'", "dense")
    refused(capsys, ["export", char_run], "--to")
    refused(capsys, ["export", char_run, "--to", "peft", "--rank", "0"], "--rank", "at least 1")
    refused(capsys, ["export", char_run, "--to", "dense", "--rank", "2"], "--rank", "peft")
    refused(capsys, ["export", char_run, "--to", "peft"], "no frozen weight", "--to dense")


@pytest.mark.parametrize("to", ["dense", "safetensors", "peft"])
def test_output_is_not_overwritten(to, char_run, capsys):
    Path("full").mkdir()
    Path("full/mine").write_text("")
    refused(capsys, ["export", char_run, "--to", to, "--output", "full"], "'full'", "--output")
    refused(
        capsys, ["export", char_run, "--to", to, "--output", "full/mine"], "'full/mine'", "--output"
    )
    refused(
        capsys, ["export", char_run, "--to", to, "--output", "full/mine/x"], "full/mine", "--output"
    )


def test_an_empty_output_is_filled(char_run):
    Path("empty").mkdir()
    assert main(["export", char_run, "--to", "dense", "--output", "empty"]) == 0
    assert os.listdir("empty") == ["model.safetensors"]


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "a" / "b") as part:
        (part / "file").write_text("")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, 5, 0.5])
def test_adapter_is_truncated(size, char_run, capsys):
    assert main(["export", char_run, "--to", "safetensors", "--output", "small"]) == 0
    path = Path("small/adapter.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(size * len(whole)) if size < 1 else size])
    for argv in (["export", str(path), "--to", "dense"], ["validate", "--ckpt_path", str(path)]):
        refused(capsys, argv, "small/adapter.safetensors'", "truncated", "use another one")


@pytest.mark.parametrize("zoo", [None, "", "[]", "{}", '{"shared": {"a": "b"}}', '{"shared": {}}'])
def test_another_safetensors_file(zoo, place, capsys):
    safetensors.save_file(
        {"w": torch.ones(2)}, "other.safetensors", None if zoo is None else {"zoo": zoo}
    )
    refused(capsys, ["export", "other.safetensors", "--to", "dense"], "'other.safetensors'")


def test_adapter_of_another_task_or_basis(char_run, capsys):
    assert main(["export", char_run, "--to", "safetensors", "--output", "small"]) == 0
    path = Path("small/adapter.safetensors")
    tensors, metadata = read_tensors(path)
    settings = json.loads(metadata["zoo"])

    def with_settings(**changes: Any) -> list[str]:
        safetensors.save_file(tensors, path, {"zoo": json.dumps(settings | changes)})
        return ["export", str(path), "--to", "dense", "--output", "dense"]

    refused(
        capsys,
        with_settings(zoo_task="nowhere.Task"),
        "nowhere.Task",
        "not zoo's own",
        "--trust nowhere.Task",
    )
    refused(capsys, with_settings(zoo_task="os.getcwd"), "os.getcwd", "not zoo's own")
    refused(capsys, with_settings(zoo_task="zoo.files.access.size"), "no class")
    refused(capsys, with_settings(zoo_task="tasks.CharData"), "no ZooModule")
    refused(
        capsys,
        with_settings(zoo_fingerprints={"blocks.0.mlp.fc": "0" * 16}),
        "blocks.0.mlp.fc",
        "another basis",
    )
    hyper = settings["hyper_parameters"] | {"_instantiator": "os.system"}
    refused(capsys, with_settings(hyper_parameters=hyper), "cannot be rebuilt")
    assert main(with_settings()) == 0


def test_nothing_in_an_adapters_config_is_run_but_the_task(char_run, capsys):
    assert main(["export", char_run, "--to", "safetensors", "--output", "small"]) == 0
    path = Path("small/adapter.safetensors")
    tensors, metadata = read_tensors(path)
    profiler = {
        "class_path": "lightning.pytorch.profilers.SimpleProfiler",
        "init_args": {"dirpath": "here"},
    }
    trainer = {"profiler": profiler, "precision": 64}
    config = {"base": "dense.yaml", "model": {"class_path": "CharLM"}, "trainer": trainer}
    safetensors.save_file(tensors, path, {**metadata, "config": yaml.safe_dump(config)})
    found = given(["validate", "--ckpt_path", str(path)], NOBODY)
    assert found.config == {"model": config["model"], "trainer": {"precision": 64}}
    for damaged in ("[1]", "a: [", "trainer: 3"):
        safetensors.save_file(tensors, path, {**metadata, "config": damaged})
        refused(capsys, ["validate", "--ckpt_path", str(path)], "damaged")


def test_a_checkpoint_without_its_optimizer_is_not_gone_on_from(place, small, capsys):
    folder = fit("--config", "dct_half.yaml", *small)
    refused(
        capsys,
        ["fit", "--ckpt_path", str(folder / "checkpoints" / "best.ckpt")],
        "no optimizer state beside it",
        "folder of a run",
    )


def test_a_backbone_that_was_moved(backbones, place, tune, capsys):
    """A run whose backbone is elsewhere now says so, and is exported when told where."""
    shutil.copytree(backbones("bert"), "old")
    folder = fit(*tune, "--model.backbone=old", config="glue_rte lora_8")
    Path("old").rename("new")
    capsys.readouterr()
    assert main(["export", str(folder), "--to", "peft", "--output", "out"]) == 2
    assert "--backbone" in capsys.readouterr().err and not Path("out").exists()
    assert (
        main(["export", str(folder), "--to", "peft", "--output", "out", "--backbone", "new"]) == 0
    )
    assert Path("out/adapter_config.json").is_file()


def test_what_a_killed_process_left_is_removed(tmp_path):
    """What nobody holds is gone; what a process that lives writes stays."""
    left, alive = tmp_path / ".new.1.part", tmp_path / ".new.2.part"
    for folder in (left, alive):
        folder.mkdir()
    number = hold(alive)
    with new_folder(tmp_path / "new") as part:
        (part / "file").write_text("")
    os.close(number)
    assert sorted(path.name for path in tmp_path.iterdir()) == [alive.name, "new"]


def test_a_written_file_can_be_read_by_those_who_read_any_other(tmp_path):
    (tmp_path / "plain").write_text("")
    write_tensors(tmp_path / "file.safetensors", {"a": torch.zeros(2)})
    assert (tmp_path / "file.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
