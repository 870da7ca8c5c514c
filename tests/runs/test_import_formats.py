"""`zoo import` of every kind of adapter: the logits of peft's own model; and training goes on from
them.
"""

import functools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SHARED, refused
from test_import import peft_adapter
from test_peft import IDS, base, close, disturb, safetensors, theirs, transformers
from torch import Tensor

from tasks import CausalLM, GlueClassifier
from tasks.finetuning import Tuning
from zoo.__main__ import main
from zoo.layers.convert import zoo_layers
from zoo.parameterizations import DCT, LoRA, RandLoRA
from zoo.runs import checkpoints, peft
from zoo.runs.updates import read
from zoo.training.module import ZooModule

pytestmark = [
    # peft calls transformers by a name that is going away.
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:(Sparse invariant checks|Adapter 'default'):UserWarning"),
    pytest.mark.filterwarnings(
        "ignore:.*(tie_word_embeddings|save_embedding_layers|resized).*:UserWarning"
    ),
    pytest.mark.filterwarnings(
        "ignore:(Found missing adapter keys|fan_in_fan_out|Specified to not save):UserWarning"
    ),
]


def imported(*words: str) -> ZooModule:
    assert main(["import", "adapter", "--output", "run", *words]) == 0
    return checkpoints.rebuild(checkpoints.resolve("run"))


@pytest.fixture
def untied(backbones: Callable[[str], Path], place: Path) -> Path:
    """GPT-2 whose head is a matrix of its own."""
    network = transformers.AutoModelForCausalLM.from_pretrained(
        backbones("gpt2"), tie_word_embeddings=False
    )
    network.lm_head.weight = torch.nn.Parameter(torch.randn_like(network.lm_head.weight) * 0.1)
    network.save_pretrained("untied")
    transformers.AutoTokenizer.from_pretrained(backbones("gpt2")).save_pretrained("untied")
    return Path("untied")


# ---- Every format --------------------------------------------------------------------------------

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "AdaLoRA": ("AdaLora", {"init_r": 3, "target_r": 2, "total_step": 9}),
    "Circulant": ("C3A", {"block_size": 8}),
    "DoRA": ("Lora", {"r": 3, "use_dora": True, "trainable_token_indices": [6, 9], "bias": "all"}),
    "Fourier": ("FourierFT", {"n_frequency": 50, "bias": "all"}),
    "HiRA": ("Hira", {"r": 3}),
    "Householder": ("HRA", {"r": 4}),
    "Kronecker": ("LoKr", {"r": 2}),
    "LoHa": ("LoHa", {"r": 2}),
    "LoRA": ("Lora", {"r": 3, "lora_bias": True, "bias": "lora_only", "lora_alpha": 5}),
    "MiSS": ("Miss", {"r": 5}),
    "OFT": ("OFT", {"oft_block_size": 8, "bias": "oft_only"}),
    "Dense": ("Shira", {"r": 2}),
    "VeRA": ("Vera", {"r": 6, "bias": "vera_only"}),
}
"""By the class that holds its updates, each format of peft's and settings."""
CONV1D = ("AdaLoRA", "DoRA", "Fourier", "HiRA", "VeRA")
"""Those that peft has for GPT-2's layers."""


@pytest.mark.parametrize(
    ("kind", "name"),
    [*(("bert", name) for name in FORMATS), *(("gpt2", name) for name in CONV1D)],
)
def test_an_adapter_of_any_format_comes_and_goes(kind, name, backbones, place):
    """Logits of the run are peft's, of layers of that class, and so are those of its export."""
    torch.manual_seed(3)
    config, settings = FORMATS[name]
    if kind == "bert":
        task, modules = "SequenceClassification", ["query", "intermediate.dense"]
    else:
        task, modules = "CausalLM", ["c_attn", "mlp.c_proj"]
        settings = {**settings, "fan_in_fan_out": True}
    settings = {**settings, "task_type": "SEQ_CLS" if kind == "bert" else "CAUSAL_LM"}
    config = getattr(theirs, f"{config}Config")(target_modules=modules, **settings)
    model = theirs.get_peft_model(base(backbones(kind), task), config).eval()
    disturb(model)
    model.save_pretrained("adapter")
    logits = model(IDS).logits
    run = imported(*(["--task", "rte"] if kind == "bert" else []))
    close(run.net(IDS).logits, logits)
    kinds = {type(layer.parameterization).__name__ for layer in zoo_layers(run.net).values()}
    assert kinds == {name}
    assert main(["export", "run", "--to", "peft", "--output", "again"]) == 0
    if name != "Dense":
        again = theirs.PeftModel.from_pretrained(base(backbones(kind), task), "again").eval()
        close(again(IDS).logits, logits)


# ---- RandLoRA ------------------------------------------------------------------------------------


def randlora(network: Any, folder: Path, task: str, **settings: Any) -> Tensor:
    torch.manual_seed(3)
    settings = {"task_type": task, "r": 5, "randlora_alpha": 10, **settings}
    model = theirs.get_peft_model(network, theirs.RandLoraConfig(**settings)).eval()
    disturb(model)
    model.save_pretrained(folder)
    return model(IDS).logits


@pytest.mark.parametrize(
    "settings", [{}, {"sparse": True}, {"very_sparse": True}, {"randlora_alpha": 7}]
)
def test_randlora_of_peft(settings, backbones, place):
    """Square and tall layers in one; bases that zoo cannot draw again leave dense updates."""
    network, modules = base(backbones("bert")), ["query", "intermediate.dense", "output.dense"]
    logits = randlora(network, Path("adapter"), "SEQ_CLS", target_modules=modules, **settings)
    model = imported("--task", "rte")
    close(model.net(IDS).logits, logits)
    assert {type(layer.parameterization).__name__ for layer in zoo_layers(model.net).values()} == {
        "Dense"
    }


def test_randlora_of_peft_in_a_decoder(backbones, place):
    """Conv1D, wide and tall."""
    settings = {"target_modules": ["c_attn", "mlp.c_proj"], "fan_in_fan_out": True}
    logits = randlora(base(backbones("gpt2"), "CausalLM"), Path("adapter"), "CAUSAL_LM", **settings)
    close(imported().net(IDS).logits, logits)


def test_randlora_of_a_head(untied, backbones, place, capsys):
    """Of its own, or tied to the embedding; peft stores its weight with the update."""
    settings = {"target_modules": ["lm_head", "c_attn"], "fan_in_fan_out": True}
    for folder in (untied, backbones("gpt2")):
        logits = randlora(base(folder, "CausalLM"), Path("adapter"), "CAUSAL_LM", **settings)
        assert any(
            "lm_head.base_layer" in name
            for name in safetensors.load_file(Path("adapter") / peft.TENSORS)
        )
        close(imported().net(IDS).logits, logits)
        shutil.rmtree("run")
    refused(
        capsys,
        ["import", "adapter", "--backbone", str(untied)],
        "another lm_head.weight",
        "--backbone",
    )


def test_randlora_without_its_bases(backbones, place, capsys):
    randlora(
        base(backbones("bert")),
        Path("adapter"),
        "SEQ_CLS",
        target_modules=["query"],
        save_projection=False,
    )
    refused(
        capsys, ["import", "adapter", "--task", "rte"], "'adapter'", "no bases", "save_projection"
    )


@pytest.mark.parametrize("settings", [{}, {"num_bases": 3}, {"seed": 5}, {"scaling": "paper"}])
def test_randlora_of_zoo_comes_back_as_itself(settings, backbones, place):
    model = GlueClassifier(
        str(backbones("bert")),
        "rte",
        functools.partial(RandLoRA, rank=4, **settings),
        ["query", "intermediate.dense"],
        tuning=Tuning(scale=0.5),
    ).eval()
    disturb(model)
    Path("adapter").mkdir()
    peft.write(Path("adapter"), model.net, model.peft_fields())
    again = imported("--task", "rte")
    close(again.net(IDS).logits, model.net(IDS).logits)
    for name, layer in zoo_layers(again.net).items():
        mine: Any = zoo_layers(model.net)[name].parameterization
        assert isinstance(layer.parameterization, RandLoRA)
        assert layer.parameterization.num_trainable == mine.num_trainable
        close(layer.parameterization.basis_B, mine.basis_B)


def test_randlora_is_damaged(backbones, place, capsys):
    randlora(base(backbones("bert")), Path("adapter"), "SEQ_CLS", target_modules=["query"])
    path, argv = Path("adapter") / peft.TENSORS, ["import", "adapter", "--task", "rte"]
    whole = safetensors.load_file(path)
    name = next(name for name in whole if name.endswith("randlora_lambda"))
    own = next(name for name in whole if name.endswith("query.randlora_A"))
    changes: list[tuple[str, Tensor, str]] = [
        (name, torch.ones(2, 2), "(r, N)"),
        (own, torch.ones(5, 1, 32), "other bases"),
        (name, torch.full_like(whole[name], torch.nan), "NaN"),
    ]
    for key, tensor, words in changes:
        safetensors.save_file(whole | {key: tensor}, path)
        refused(capsys, argv, words)
    wrong = {
        key: torch.ones(3) if key.endswith("randlora_B") else value for key, value in whole.items()
    }
    safetensors.save_file(wrong, path)
    refused(capsys, argv, "(M, N, r)")
    safetensors.save_file(whole, path)
    config = json.loads((path.parent / peft.CONFIG).read_text())
    (path.parent / peft.CONFIG).write_text(json.dumps(config | {"r": 0}))
    refused(capsys, argv, "r is damaged, 0")


# ---- Heads and embeddings ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["lm_head"]},
        {"target_modules": ["lm_head", "c_attn"], "fan_in_fan_out": True},
    ],
)
def test_an_update_of_a_head_of_its_own(settings, untied, capsys):
    logits = peft_adapter(untied, Path("adapter"), "CausalLM", r=4, **settings)
    assert any(
        "lm_head.base_layer" in name
        for name in safetensors.load_file(Path("adapter") / peft.TENSORS)
    )
    close(imported().net(IDS).logits, logits)
    shutil.rmtree("run")
    path = Path("adapter") / peft.TENSORS
    tensors = safetensors.load_file(path)
    tensors["base_model.model.lm_head.base_layer.weight"] += 1
    safetensors.save_file(tensors, path)
    refused(capsys, ["import", "adapter"], "another lm_head.weight", "--backbone")


TIED = {
    "head updated": {"target_modules": ["lm_head"]},
    "embedding": {"modules_to_save": ["wte"]},
    "head": {"modules_to_save": ["lm_head"]},
    "both": {"modules_to_save": ["wte", "lm_head"]},
    "head updated, embedding": {"target_modules": ["lm_head"], "modules_to_save": ["wte"]},
}


@pytest.mark.parametrize("name", TIED)
def test_a_head_that_peft_trains_apart_from_its_embedding(name, backbones, place, capsys):
    """The difference is a dense update; exported again, both are stored whole."""
    settings = {"target_modules": ["c_attn"], **TIED[name]}
    settings["fan_in_fan_out"] = "c_attn" in settings["target_modules"]
    logits = peft_adapter(backbones("gpt2"), Path("adapter"), "CausalLM", r=4, **settings)
    model = imported()
    close(model.net(IDS).logits, logits)
    if name == "head updated, embedding":
        refused(
            capsys, ["export", "run", "--to", "peft"], "no layer has an update alone", "--to dense"
        )
        return
    assert main(["export", "run", "--to", "peft", "--output", "again", "--rank", "32"]) == 0
    loaded = theirs.PeftModel.from_pretrained(base(backbones("gpt2"), "CausalLM"), "again").eval()
    close(loaded(IDS).logits, logits)


@pytest.mark.parametrize("indices", [None, [3, 305]])
@pytest.mark.parametrize("tokens", [250, 310])
def test_a_resized_vocabulary(tokens, indices, backbones, place):
    """Of fewer tokens or more, also where a few rows are trained, in and out."""

    def resized() -> Any:
        network = base(backbones("gpt2"), "CausalLM")
        torch.manual_seed(4)
        network.resize_token_embeddings(tokens, mean_resizing=False)
        return network

    if indices is not None and tokens < max(indices):
        pytest.skip("no such row")
    network = resized()
    settings = theirs.LoraConfig(
        task_type="CAUSAL_LM",
        r=4,
        target_modules=["c_attn"],
        fan_in_fan_out=True,
        trainable_token_indices=indices,
    )
    model = theirs.get_peft_model(network, settings).eval()
    disturb(model)
    model.save_pretrained("adapter", save_embedding_layers=True)
    run = imported()
    close(run.net(IDS).logits, model(IDS).logits)
    assert main(["export", "run", "--to", "peft", "--output", "again"]) == 0
    close(
        theirs.PeftModel.from_pretrained(resized(), "again").eval()(IDS).logits, model(IDS).logits
    )
    assert main(["export", "run", "--to", "dense", "--output", "dense"]) == 0
    dense = base(Path("dense"), "CausalLM")
    assert len(dense.get_input_embeddings().weight) == tokens
    close(dense(IDS).logits, model(IDS).logits)


# ---- Files ---------------------------------------------------------------------------------------


def as_bin(folder: Path) -> None:
    torch.save(safetensors.load_file(folder / peft.TENSORS), folder / "adapter_model.bin")
    (folder / peft.TENSORS).unlink()


def test_a_bin_in_a_folder_inside(backbones, place, capsys):
    logits = peft_adapter(backbones("bert"), Path("adapter/inner"), r=4, target_modules=["query"])
    as_bin(Path("adapter/inner"))
    close(imported("--task", "rte").net(IDS).logits, logits)
    shutil.copytree("adapter/inner", "adapter/other")
    refused(capsys, ["import", "adapter", "--task", "rte"], "'adapter/inner'", "'adapter/other'")
    assert (
        main(["import", "adapter/inner/adapter_model.bin", "--task", "rte", "--output", "again"])
        == 0
    )


@pytest.mark.parametrize("content", ["code", "list", "huge", "cut"])
def test_a_bin_that_is_something_else(content, backbones, place, capsys):
    peft_adapter(backbones("bert"), Path("adapter"), r=4, target_modules=["query"])
    as_bin(Path("adapter"))
    path = Path("adapter/adapter_model.bin")

    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, ("executed",)

    if content == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    else:
        torch.save(
            {"code": {"x": Code()}, "list": [1], "huge": {"x": torch.zeros(1).expand(2**40)}}[
                content
            ],
            path,
        )
    refused(capsys, ["import", "adapter", "--task", "rte"], "adapter_model.bin")
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    "path", ["run", "run/checkpoints/last.ckpt", "adapter.safetensors", "folder"]
)
def test_what_zoo_has_written_needs_no_import(path, handed, capsys):
    Path("folder").mkdir()
    shutil.copy("adapter.safetensors", "folder")
    refused(capsys, ["import", path], f"'{path}'", "needs no import")


def test_no_command_sends_the_user_in_a_circle(backbones, place, capsys):
    """What the others send to `zoo import` is taken there, by the very name that they give."""
    peft_adapter(backbones("bert"), Path("around/adapter"), r=4, target_modules=["query"])
    for i, path in enumerate(
        ("around", "around/adapter", "around/adapter/adapter_model.safetensors")
    ):
        for argv in (
            ["mask", path, "--save", "--out", "masks"],
            ["validate", "--ckpt_path", path],
            ["export", path, "--to", "dense"],
        ):
            refused(capsys, argv, f"zoo import {path}")
        assert main(["import", path, "--task", "rte", "--output", f"run-{i}"]) == 0


def test_a_run_is_no_adapter_for_its_export_inside(backbones, place):
    peft_adapter(backbones("bert"), Path("adapter"), r=4, target_modules=["query"])
    imported("--task", "rte")
    assert main(["export", "run", "--to", "peft"]) == 0
    assert peft.find(Path("run")) is None and peft.find(Path("run/export-peft")) == Path(
        "run/export-peft"
    )
    assert read("run").path == "run" and read("run/export-peft").network == "bert"


def test_fused_experts_are_not_imported(backbones, place, capsys):
    """But looked into (`test_peft_formats`)."""
    peft_adapter(backbones("bert"), Path("adapter"), r=2, target_modules=["query"])
    path = Path("adapter") / peft.TENSORS
    prefix = f"{peft.PREFIX}bert.experts"
    stack = {
        f"{prefix}.lora_A.weight": torch.ones(6, 4),
        f"{prefix}.lora_B.weight": torch.ones(4, 6),
    }
    safetensors.save_file(safetensors.load_file(path) | stack, path)
    config = json.loads((path.parent / peft.CONFIG).read_text())
    config |= {"target_parameters": ["experts.gate_up"]}
    (path.parent / peft.CONFIG).write_text(json.dumps(config))
    refused(capsys, ["import", "adapter", "--task", "rte"], "bert.experts", "zoo analyze")
    assert "bert.experts.parameter0.2" in read("adapter").updates


def test_randlora_is_analysed_as_a_run(backbones, place, capsys):
    """Its file does not say how large a matrix is."""
    randlora(base(backbones("bert")), Path("adapter"), "SEQ_CLS", target_modules=["query"])
    refused(capsys, ["analyze", "adapter"], "RANDLORA", "zoo import adapter")
    imported("--task", "rte")
    assert len(read("run").updates) == 2


# ---- loralib -------------------------------------------------------------------------------------


def loralib(backbone: Path) -> tuple[GlueClassifier, dict[str, Tensor]]:
    """A classifier, and what `loralib.lora_state_dict` gives of it, with the head."""
    model = GlueClassifier(
        str(backbone),
        "mnli",
        functools.partial(LoRA, rank=4),
        ["query", "value"],
        tuning=Tuning(scale=16 / 4),
    ).eval()
    disturb(model)
    state = {
        name.replace("parameterization.", ""): tensor
        for name, tensor in model.net.state_dict().items()
        if ".lora_" in name or name.startswith("classifier")
    }
    return model, state


@pytest.mark.parametrize("nested", [False, True])
def test_loralib(nested, backbones, place, capsys):
    model, state = loralib(backbones("roberta"))
    torch.save({"model_state_dict": state} if nested else state, "mnli.bin")
    argv = ["import", "mnli.bin", "--backbone", str(backbones("roberta")), "--task", "mnli"]
    refused(capsys, argv, "does not say alpha", "--alpha 16")
    refused(capsys, [*argv, "--alpha", "0"], "--alpha", "finite")
    refused(capsys, ["import", "mnli.bin", "--alpha", "16", "--task", "mnli"], "--backbone")
    assert main([*argv, "--alpha", "16"]) == 0
    again = checkpoints.rebuild(checkpoints.resolve("runs/mnli"))
    close(again.net(IDS).logits, model.net(IDS).logits)


def test_loralib_of_other_layers(backbones, place, capsys):
    argv = ["import", "gpt.bin", "--backbone", str(backbones("gpt2")), "--alpha", "16"]
    merged = {
        "transformer.h.0.attn.c_attn.lora_A": torch.ones(8, 32),
        "transformer.h.0.attn.c_attn.lora_B": torch.ones(64, 4),
    }
    torch.save(merged, "gpt.bin")
    refused(capsys, argv, "transformer.h.0.attn.c_attn", "MergedLinear", "--enable_lora true,false")
    refused(capsys, [*argv, "--enable_lora", "true,false"], "2 of them", "--enable_lora")
    refused(capsys, [*argv, "--enable_lora", "yes"], "--enable_lora must be like", "'yes'")
    torch.save({"weight": torch.ones(3)}, "gpt.bin")
    refused(capsys, argv, "'gpt.bin'", "no layers")
    peft_adapter(backbones("bert"), Path("adapter"), r=4, target_modules=["query"])
    refused(capsys, ["import", "adapter", "--task", "rte", "--alpha", "3"], "drop --alpha")


def test_merged_layers_of_loralib(backbones, place):
    """Its own way: a convolution with a group for each enabled part, whose rows are put apart."""
    network = base(backbones("gpt2"), "CausalLM")
    enabled, state = [True, False, True], {}
    for i in range(2):
        name = f"transformer.h.{i}.attn.c_attn"
        a, b = torch.randn(8, 32) * 0.3, torch.randn(64, 4)
        state |= {f"{name}.lora_A": a, f"{name}.lora_B": b}
        rows = torch.tensor(enabled).repeat_interleave(32)
        delta = torch.zeros(96, 32)
        delta[rows] = torch.nn.functional.conv1d(a[None], b[:, :, None], groups=2)[0]
        network.get_submodule(name).weight.data += 16 / 4 * delta.mT
    torch.save(state, "gpt.bin")
    words = ["--backbone", str(backbones("gpt2")), "--alpha", "16"]
    assert main(["import", "gpt.bin", *words, "--enable_lora", "true,false,true"]) == 0
    close(checkpoints.rebuild(checkpoints.resolve("runs/gpt")).net(IDS).logits, network(IDS).logits)


FILE = SHARED / "adapters" / "loralib" / "roberta_base_lora_mnli.bin"


@pytest.mark.skipif(not FILE.is_file(), reason="the LoRA authors' file is not here")
def test_the_authors_own_file():
    """r 8, alpha 16: query and value of twelve layers, and a head of three labels."""
    found = peft.read(FILE, 16)
    state = torch.load(FILE, weights_only=True, map_location="cpu")
    assert len(found.updates) == 24
    for name, update in found.updates.items():
        want = 16 / 8 * state[f"{name}.lora_B"] @ state[f"{name}.lora_A"]
        assert update.fits((768, 768))
        close(update.matrix((768, 768)), want)
    assert found.saved["classifier.out_proj.weight"].shape == (3, 768)


# ---- Training goes on ----------------------------------------------------------------------------


@pytest.mark.slow
def test_training_starts_from_an_imported_adapter(backbones, glue, place, capsys):
    """In a folder of its own, at step 0, from its weights; what was imported stays as it is."""
    peft_adapter(backbones("bert"), Path("adapter"), r=4, target_modules=["query"])
    assert main(["import", "adapter", "--task", "rte"]) == 0
    before = {
        path: path.stat().st_mtime_ns for path in Path("runs/adapter").rglob("*") if path.is_file()
    }
    words = ["--data.data_dir", str(glue), "--data.max_length", "32", "--trainer.max_steps", "2"]
    capsys.readouterr()
    assert (
        main(
            [
                "fit",
                "--ckpt_path",
                "runs/adapter",
                *words,
                "--model.optimizer.lr",
                "0",
                "--name",
                "still",
            ]
        )
        == 0
    )
    assert (
        "a new run starts from the weights of 'runs/adapter/checkpoints/last.ckpt'"
        in capsys.readouterr().err
    )
    start = checkpoints.rebuild(checkpoints.resolve("runs/adapter")).trained_state()
    still = checkpoints.rebuild(checkpoints.resolve("runs/still/version_0")).trained_state()
    assert start.keys() == still.keys() and all(
        torch.equal(start[name], still[name]) for name in start
    )
    assert (
        main(
            ["fit", "--ckpt_path", "runs/adapter", *words, "--name", "on", "--seed_everything", "3"]
        )
        == 0
    )
    moved = checkpoints.load(Path("runs/on/version_0/checkpoints/last.ckpt"))
    assert moved["global_step"] == 2
    assert any(not torch.equal(start[name], moved["state_dict"][name]) for name in start)
    assert {
        path: path.stat().st_mtime_ns for path in Path("runs/adapter").rglob("*") if path.is_file()
    } == before
    # A run as any other.
    assert main(["fit", "--ckpt_path", "runs/on/version_0", "--trainer.max_steps", "3"]) == 0
    summary = json.loads(Path("runs/on/version_0/summary.json").read_text())
    assert (summary["steps"], summary["resumed_at"]) == (3, 2)
    Path("runs/on/version_0/checkpoints/last.resume_3.pt").unlink()
    refused(capsys, ["fit", "--ckpt_path", "runs/on/version_0"], "no optimizer state")


def test_training_starts_from_an_adapter_of_zoo(handed, small, capsys):
    capsys.readouterr()
    assert (
        main(
            [
                "fit",
                "--ckpt_path",
                "adapter.safetensors",
                *small,
                "--trainer.max_steps=3",
                "--name",
                "on",
            ]
        )
        == 0
    )
    assert (
        "a new run starts from the weights of 'adapter.safetensors', at step 0"
        in capsys.readouterr().err
    )
    assert json.loads(Path("runs/on/version_0/summary.json").read_text())["steps"] == 3


def test_exports_of_a_tied_and_trained_embedding(backbones, place):
    """With an update of the head, and without."""
    for targets in (["attn.c_attn", "lm_head"], ["attn.c_attn"]):
        factory, tuning = functools.partial(DCT, ratio=0.5), Tuning(train=["*wte"])
        model = CausalLM(str(backbones("gpt2")), factory, targets, tuning=tuning)
        disturb(model.eval())
        folder = Path(f"adapter-{len(targets)}")
        folder.mkdir()
        peft.write(folder, model.net, model.peft_fields(), 32, model.backbone_state())
        loaded = theirs.PeftModel.from_pretrained(
            base(backbones("gpt2"), "CausalLM"), folder
        ).eval()
        close(loaded(IDS).logits, model(IDS))
        assert main(["import", str(folder)]) == 0
        close(checkpoints.rebuild(checkpoints.resolve(f"runs/{folder}"))(IDS), model(IDS))
