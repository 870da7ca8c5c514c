"""What a run, an adapter and a pair of checkpoints changed, beside what transformers, peft and
torch say of them.
"""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted import QUERY, classifier, run
from networks import disturb

from tasks import CharLM, GlueClassifier
from tasks.finetuning import Tuning
from zoo.__main__ import main
from zoo.errors import UserError
from zoo.layers.convert import merge, zoo_layers
from zoo.parameterizations import DCT, Dense, LoRA, RandLoRA
from zoo.runs.updates import Source, Update, read

transformers: Any = pytest.importorskip("transformers")
safetensors: Any = pytest.importorskip("safetensors.torch")
theirs: Any = pytest.importorskip("peft")


def base_weights(backbone: Path) -> dict[str, torch.Tensor]:
    """As transformers has them, by the names that they have in a classifier."""
    return {
        f"bert.{k}": v
        for k, v in transformers.AutoModel.from_pretrained(backbone).state_dict().items()
    }


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=tolerance)


# ---- Algebra -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7, 5, 2), (5, 7, 1), (6, 6, 6), (4, 9, 20), (9, 4, 20)])
def test_singular_values_are_those_of_the_product(shape):
    m, n, r = shape
    left, right = torch.randn(m, r, dtype=torch.float64), torch.randn(r, n, dtype=torch.float64)
    update, product = Update(left, right), left @ right
    expected = torch.linalg.svdvals(product)[: min(shape)]
    close(update.singular_values(), expected, 1e-12)
    close(Update(product).singular_values(), torch.linalg.svdvals(product), 1e-12)
    assert update.singular_values().diff().le(0).all()
    assert update.shape == Update(product).shape == (m, n)
    assert abs(update.norm() - product.norm()) < 1e-12
    close(update.matrix(), product.float())


# ---- Runs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_factors_are_what_was_merged(scale, backbones, place):
    """Merged weights as transformers loads them, minus the backbone's."""
    model = classifier(
        backbones("bert"), functools.partial(LoRA, rank=4), tuning=Tuning(preset="all", scale=scale)
    )
    path = run(model, Path("run"))
    assert main(["export", path, "--to", "dense", "--output", "dense"]) == 0
    merged = transformers.AutoModelForSequenceClassification.from_pretrained("dense").state_dict()
    base, source = base_weights(backbones("bert")), read(path)
    assert (source.what, len(source.updates), source.notes) == ("dW", 12, [])
    for name, update in source.updates.items():
        assert update.right is not None and update.left.shape[1] == 4
        close(update.matrix(), merged[f"{name}.weight"] - base[f"{name}.weight"])
        exact = torch.linalg.svdvals(update.left.double() @ update.right.double())
        close(update.singular_values(), exact[:4], 1e-10)


def test_a_lora_update_is_never_taken_apart_whole(backbones, place, monkeypatch):
    path = run(classifier(backbones("bert"), functools.partial(LoRA, rank=3)), Path("run"))

    def small_only(function: Any) -> Any:
        def guarded(matrix: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            assert max(matrix.shape) <= 3
            return function(matrix, *args, **kwargs)

        return guarded

    monkeypatch.setattr(torch.linalg, "svd", small_only(torch.linalg.svd))
    monkeypatch.setattr(torch.linalg, "svdvals", small_only(torch.linalg.svdvals))
    for update in read(path).updates.values():
        assert update.singular_values().shape == (3,)


@pytest.mark.parametrize(
    "factory", [functools.partial(DCT, ratio=0.3), functools.partial(RandLoRA, rank=4)]
)
def test_other_updates_are_dense(factory, backbones, place):
    model = classifier(backbones("bert"), factory, tuning=Tuning(scale=0.5))
    merged, base = merge(model.net).state_dict(), base_weights(backbones("bert"))
    for name, update in read(run(model, Path("run"))).updates.items():
        assert update.right is None
        close(update.matrix(), merged[f"{name}.weight"] - base[f"{name}.weight"])
        close(update.singular_values(), torch.linalg.svdvals(update.left.double()))


def test_a_conv1d_has_its_update_as_out_in(backbones, place):
    model = classifier(backbones("gpt2"), functools.partial(LoRA, rank=2))
    source = read(run(model, Path("run")))
    merged = merge(model.net).state_dict()
    base = transformers.AutoModel.from_pretrained(backbones("gpt2")).state_dict()
    for name, update in source.updates.items():
        old = base[f"{name.removeprefix('transformer.')}.weight"]
        close(update.matrix().mT, merged[f"{name}.weight"] - old)
    pair = read("run", before=str(backbones("gpt2")))
    assert pair.updates.keys() == source.updates.keys()
    for name, update in pair.updates.items():
        close(update.matrix().mT, source.updates[name].matrix())


def test_full_finetuning_is_what_left_the_backbone(backbones, place):
    model = classifier(backbones("bert"), Dense, tuning=Tuning(full=True))
    path = run(model, Path("run"))
    assert main(["export", path, "--to", "dense", "--output", "dense"]) == 0
    merged = safetensors.load_file("dense/model.safetensors")
    base, source = base_weights(backbones("bert")), read(path)
    assert source.what == "dW" and list(source.updates) == list(zoo_layers(model.net))
    for name, update in source.updates.items():
        close(update.matrix(), merged[f"{name}.weight"] - base[f"{name}.weight"])
    assert any("targets" in note for note in source.notes)
    # The same, and every other matrix that changed.
    pair = read("dense", before=str(backbones("bert")))
    assert pair.updates.keys() > source.updates.keys()
    assert not any("embed" in name for name in pair.updates)
    for name, update in source.updates.items():
        close(update.matrix(), pair.updates[name].matrix())


@pytest.mark.parametrize(
    "factory", [functools.partial(DCT, ratio=0.5), functools.partial(LoRA, rank=4)]
)
def test_full_finetuning_starts_at_the_projection(factory, backbones, place):
    model = GlueClassifier(
        str(backbones("bert")), "rte", parameterization=factory, tuning=Tuning(full=True)
    )
    start = {
        name: layer.effective_weight().detach().clone()
        for name, layer in zoo_layers(model.net).items()
    }
    disturb(model)
    source = read(run(model, Path("run")))
    assert source.updates.keys() == start.keys()
    for name, layer in zoo_layers(model.net).items():
        close(source.updates[name].matrix(), layer.effective_weight().detach() - start[name])
    # Near W0, and not at it.
    close(start[QUERY], base_weights(backbones("bert"))[f"{QUERY}.weight"], 0.1)
    assert (start[QUERY] - base_weights(backbones("bert"))[f"{QUERY}.weight"]).abs().max() > 1e-4


def test_what_started_at_random_is_left_out(backbones, place):
    model = classifier(
        backbones("bert"), Dense, targets=["query", "classifier"], tuning=Tuning(full=True)
    )
    source = read(run(model, Path("run")))
    assert "classifier" not in source.updates and QUERY in source.updates
    assert any("random" in note and "1 layer" in note for note in source.notes)


@pytest.mark.parametrize(
    "factory", [functools.partial(LoRA, rank=3), functools.partial(DCT, ratio=0.5)]
)
def test_from_scratch_the_weight_itself(factory, place):
    model = CharLM("abc", factory, block_size=8, layers=1, width=16, heads=2).eval()
    source = read(run(model, Path("run")))
    assert source.what == "W" and "from scratch" in source.notes[0]
    plain = merge(model.net).state_dict()
    assert len(source.updates) == len(zoo_layers(model.net)) > 3
    for name, update in source.updates.items():
        assert (update.right is None) == (factory.func is DCT)
        close(update.matrix(), plain[f"{name}.weight"])
    assert (source.task, source.network, source.seed) == ("CharLM", "CharLM", 0)


def test_an_adapter_file_is_its_run(backbones, place):
    path = run(classifier(backbones("bert"), functools.partial(LoRA, rank=4)), Path("run"))
    assert main(["export", path, "--to", "safetensors"]) == 0
    mine, again = read(path), read("run/export-safetensors/adapter.safetensors")
    for name, update in mine.updates.items():
        assert torch.equal(update.left, again.updates[name].left)
        assert torch.equal(update.matrix(), again.updates[name].matrix())
    assert (again.name, read("run/export-safetensors").name) == ("run-export-safetensors",) * 2


def test_layers_are_chosen(backbones, place):
    path = run(classifier(backbones("bert"), functools.partial(LoRA, rank=2)), Path("run"))
    chosen = read(path, layers=["layer.1.*query", "*.0.*value"]).updates
    assert list(chosen) == ["bert.encoder.layer.0.attention.self.value", QUERY]
    with pytest.raises(
        UserError, match=r"'key' matches no layer; there are: bert\.encoder\.layer\.\*\.attention"
    ):
        read(path, layers=["query", "key"])


def test_a_layer_that_did_not_change_is_left_out(backbones, place):
    for factory in (functools.partial(LoRA, rank=2), functools.partial(DCT, ratio=0.5)):
        model = classifier(backbones("bert"), factory)
        with torch.no_grad():
            for p in list(zoo_layers(model.net)[QUERY].parameterization.parameters())[-1:]:
                p.zero_()
        source = read(run(model, Path(factory.func.__name__)))
        assert QUERY not in source.updates and len(source.updates) == 3
        assert source.notes == ["left out, unchanged: 1 layer"]


# ---- Adapters of peft ----------------------------------------------------------------------------


def test_an_exported_adapter_is_its_run(backbones, place):
    path = run(
        classifier(backbones("bert"), functools.partial(LoRA, rank=4), tuning=Tuning(scale=2.5)),
        Path("run"),
    )
    assert main(["export", path, "--to", "peft", "--output", "adapter"]) == 0
    mine, adapter = read(path), read("adapter")
    assert adapter.updates.keys() == mine.updates.keys()
    for name, update in mine.updates.items():
        assert adapter.updates[name].left.shape == update.left.shape
        close(adapter.updates[name].matrix(), update.matrix())
    assert (adapter.what, adapter.network, adapter.parameterization) == ("dW", "bert", "LoRA")
    assert (adapter.name, adapter.seed, adapter.score) == ("place-adapter", None, None)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_peft_says_the_same(kind, backbones, tmp_path):
    targets = {"bert": ["query", "value"], "gpt2": ["c_attn"]}[kind]
    base = transformers.AutoModelForSequenceClassification.from_pretrained(backbones(kind))
    config = theirs.LoraConfig(
        task_type="SEQ_CLS",
        r=4,
        lora_alpha=6,
        target_modules=targets,
        use_rslora=True,
        fan_in_fan_out=kind == "gpt2",
    )
    model = theirs.get_peft_model(base, config)
    disturb(model)
    model.save_pretrained(tmp_path)
    updates = read(str(tmp_path)).updates
    assert len(updates) == {"bert": 4, "gpt2": 2}[kind]
    for name, update in updates.items():
        delta = model.base_model.model.get_submodule(name).get_delta_weight("default").detach()
        close(update.matrix(), delta.mT if kind == "gpt2" else delta)
    assert read(
        str(tmp_path / "adapter_model.safetensors"), layers=[next(iter(updates))]
    ).updates.keys() == {next(iter(updates))}


# ---- Mistakes ------------------------------------------------------------------------------------


def refuse(*words: str, path: str | Path, **settings: Any) -> None:
    before = sorted(Path().rglob("*"))
    with pytest.raises(UserError) as error:
        read(str(path), **settings)
    message = str(error.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message
    assert sorted(Path().rglob("*")) == before


def test_nothing_to_read(place):
    char = CharLM(
        "abc", functools.partial(DCT, ratio=0.5), block_size=8, layers=1, width=16, heads=2
    )
    refuse("'nowhere'", "a run's folder", path="nowhere")
    Path("empty").mkdir()
    refuse("'empty'", "a run's folder", "adapter", path="empty")
    refuse(
        "'empty'", "model.safetensors", path=run(char, Path("runs/name/version_0")), before="empty"
    )
    refuse("'nowhere'", "model.safetensors", path="runs/name/version_0", before="nowhere")
    refuse("did you mean 'runs/name/version_0'", path="runs/name")


def test_an_untrained_run_has_no_update(backbones, place):
    model = GlueClassifier(
        str(backbones("bert")), "rte", parameterization=functools.partial(LoRA, rank=4)
    )
    refuse("'run'", "no update to analyse", "not trained", path=run(model, Path("run")))
    full = GlueClassifier(
        str(backbones("bert")), "rte", parameterization=Dense, tuning=Tuning(full=True)
    )
    refuse("'full'", "no update to analyse", path=run(full, Path("full")))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "factory", [functools.partial(LoRA, rank=4), functools.partial(DCT, ratio=0.5)]
)
def test_values_that_are_not_finite(value, factory, backbones, place):
    model = classifier(backbones("bert"), factory)
    with torch.no_grad():
        next(zoo_layers(model.net)[QUERY].parameterization.parameters()).view(-1)[3] = value
    refuse(QUERY, "NaN or infinite", "'run", path=run(model, Path("run")))


def test_an_adapter_of_peft_that_cannot_be_read(backbones, place):
    path = run(classifier(backbones("bert"), functools.partial(LoRA, rank=4)), Path("run"))
    assert main(["export", path, "--to", "peft", "--output", "adapter"]) == 0
    refuse("'adapter'", "--before", path="adapter", before=str(backbones("bert")))
    refuse("'key'", "query", path="adapter", layers=["key"])
    tensors = safetensors.load_file("adapter/adapter_model.safetensors")
    name = f"base_model.model.{QUERY}.lora_B.weight"
    safetensors.save_file(
        tensors | {name: tensors[name] * torch.nan}, "adapter/adapter_model.safetensors"
    )
    refuse(QUERY, "NaN", "'adapter'", path="adapter")
    empty = {
        f"base_model.model.{QUERY}.lora_{side}.weight": torch.ones(shape)
        for side, shape in (("A", (0, 32)), ("B", (32, 0)))
    }
    safetensors.save_file(tensors | empty, "adapter/adapter_model.safetensors")
    refuse(QUERY, "is damaged", path="adapter")
    config = json.loads(Path("adapter/adapter_config.json").read_text())
    Path("adapter/adapter_config.json").write_text(json.dumps(config | {"peft_type": "LOHA"}))
    refuse("LOHA", path="adapter")


def test_a_backbone_that_was_moved(backbones, place):
    shutil.copytree(backbones("bert"), "old")
    path = run(classifier(Path("old"), functools.partial(LoRA, rank=4)), Path("run"))
    mine: Source = read(path)
    Path("old").rename("new")
    refuse("'old'", "--backbone", path=path)
    assert torch.equal(
        read(path, backbone="new").updates[QUERY].matrix(), mine.updates[QUERY].matrix()
    )
    assert read(path, backbone="new").settings == mine.settings


def test_a_text_is_not_said_to_hold_code(place):
    Path("notes.md").write_text("# a note\n")
    with pytest.raises(UserError, match="damaged or no checkpoint"):
        read("notes.md", "notes.md")
