"""Updates of pretrained networks: dW = 0 at first, what is trained and what moves, and what a
checkpoint holds.
"""

import functools
import json
from pathlib import Path

import pytest
import torch
from conftest import configs
from every import thinned
from fits import equal, fit, weights
from lightning.pytorch import Callback, Trainer

from tasks import GlueClassifier, GlueData
from tasks.finetuning import Tuning
from zoo.__main__ import main
from zoo.errors import UserError
from zoo.layers.convert import zoo_layers
from zoo.parameterizations import DCT, Dense, LoRA, RandLoRA, RandomOrthonormal, Zigzag
from zoo.runs import peft
from zoo.runs.checkpoints import rebuild

transformers = pytest.importorskip("transformers")
FACTORIES = {
    "DCT": functools.partial(DCT, lora_rank=2),
    "RandomOrthonormal": functools.partial(RandomOrthonormal, lora_rank=2),
    "Zigzag": functools.partial(Zigzag, lora_rank=2),
    "LoRA": functools.partial(LoRA, rank=2),
    "RandLoRA": functools.partial(RandLoRA, lora_rank=2),
    "Dense": Dense,
}
KINDS = ("bert", "roberta", "distilbert", "gpt2")
LINES = ["a good film", "the plot was rather dull and no one knows why", "fine"]


def batch(folder: Path, lines: list[str] = LINES) -> dict[str, torch.Tensor]:
    """Padded by transformers itself."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return dict(tokenizer(lines, padding=True, return_tensors="pt"))


def classifier(folder: Path, name: str = "LoRA", **settings: object) -> GlueClassifier:
    """With a head whose logits are of order 1."""
    model = GlueClassifier(str(folder), parameterization=FACTORIES[name], **settings)
    for part, module in model.net.named_children():
        if part != model.net.base_model_prefix:
            for p in module.parameters():
                torch.nn.init.normal_(p)
    return model


def plain(folder: Path, like: GlueClassifier) -> torch.nn.Module:
    """What transformers itself loads, with the same head."""
    network = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    network.config.pad_token_id = like.net.config.pad_token_id
    state = like.net.state_dict()
    prefix = f"{network.base_model_prefix}."
    head = {key: value for key, value in state.items() if not key.startswith(prefix)}
    assert network.load_state_dict(head, strict=False).unexpected_keys == []
    return network


@pytest.mark.parametrize("name", FACTORIES)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_the_base_models_at_first(kind, name, backbones):
    model = classifier(backbones(kind), name)
    inputs = batch(backbones(kind))
    layers = zoo_layers(model.net)
    assert len(layers) == (2 if kind == "gpt2" else 4)
    expected = plain(backbones(kind), model).eval()(**inputs).logits
    assert torch.allclose(model.eval()(inputs), expected, atol=1e-5)
    for layer in layers.values():  # and not since the update is nowhere
        torch.nn.init.normal_(next(p for p in layer.parameterization.parameters() if not p.any()))
    assert not torch.allclose(model(inputs), expected, atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind, backbones):
    """A padded batch gives the logits of its examples one by one, of GPT-2 at the last token that
    is none.
    """
    model = classifier(backbones(kind)).eval()
    together = model(batch(backbones(kind)))
    alone = torch.cat([model(batch(backbones(kind), [line])) for line in LINES])
    assert torch.allclose(together, alone, atol=1e-5)
    assert together.std(0).min() > 1e-3


class Modes(Callback):
    """Notes the modes of all modules in every step."""

    def __init__(self):
        self.train, self.val = [], []

    def on_train_batch_start(self, trainer, module, *_):
        self.train.append({m.training for m in module.net.modules()})

    def on_validation_batch_start(self, trainer, module, *_):
        self.val.append({m.training for m in module.net.modules()})


def train(model: GlueClassifier, backbone: Path, glue: Path, *callbacks: Callback) -> None:
    data = GlueData("rte", str(backbone), str(glue), batch_size=8, max_length=32)
    trainer = Trainer(
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        accelerator="cpu",
    )
    trainer.fit(model, data)


@pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*", "ignore:.*smaller than the logging.*"
)
@pytest.mark.parametrize("kind", KINDS)
def test_only_coefficients_and_head_move_and_dropout_is_active(kind, backbones, glue, place):
    model = classifier(backbones(kind), "DCT")
    before = {name: p.clone() for name, p in model.named_parameters()}
    modes = Modes()
    train(model, backbones(kind), glue, modes)
    assert modes.train == [{True}] * 10 and modes.val == [{False}] * 2
    prefix = f"net.{model.net.base_model_prefix}."
    for name, p in model.named_parameters():
        trained = name.endswith(".coef") or not name.startswith(prefix)
        assert p.requires_grad == trained, name
        assert torch.equal(p, before[name]) != trained, name
    inputs = batch(backbones(kind))
    model.train()
    assert not torch.equal(model(inputs), model(inputs))
    model.eval()
    assert torch.equal(model(inputs), model(inputs))


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_gives_equal_gradients(kind, backbones):
    gradients, calls = [], []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = classifier(
            backbones(kind), "DCT", tuning=Tuning(gradient_checkpointing=checkpointing)
        )
        layer = next(iter(zoo_layers(model.net).values()))
        layer.register_forward_hook(lambda *_, seen=checkpointing: calls.append(seen))
        torch.manual_seed(1)
        model(batch(backbones(kind))).square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-8) for a, b in zip(*gradients, strict=True))
    assert calls == [False, True, True]  # computed again


@pytest.mark.parametrize("precision", thinned(["32-true", "bf16-mixed"], 2))
@pytest.mark.parametrize("kind", thinned(KINDS, 4))
def test_a_bfloat16_base_trains(kind, precision, backbones, tune, place):
    options = [word for word in tune if "precision" not in word and "backbone" not in word]
    folder = fit(
        *options,
        f"--model.backbone={backbones(kind)}",
        "--model.tuning.dtype=bfloat16",
        f"--trainer.precision={precision}",
        config="glue_sst2 dct_8",
    )
    assert json.loads((folder / "summary.json").read_text())["loss"] < 2
    assert {value.dtype for value in weights(folder).values()} == {torch.float32}
    model = rebuild(folder / "checkpoints" / "best.ckpt")
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    inputs = batch(backbones(kind))
    exact = classifier(backbones(kind), "DCT").eval()
    coarse = classifier(backbones(kind), "DCT", tuning=Tuning(dtype="bfloat16")).eval()
    head = {
        k: v
        for k, v in exact.net.state_dict().items()
        if not k.startswith(exact.net.base_model_prefix)
    }
    coarse.net.load_state_dict(head, strict=False)
    assert (
        torch.allclose(exact(inputs), coarse(inputs), atol=0.1, rtol=0.02)
        and coarse(inputs).dtype == torch.float32
    )


@pytest.mark.parametrize("kind", KINDS)
def test_dense_and_full_is_plain_fine_tuning(kind, backbones):
    """Every parameter trained, the pretrained weights at first, and the gradients of the plain
    model.
    """
    model = classifier(backbones(kind), "Dense", tuning=Tuning(full=True)).eval()
    network = plain(backbones(kind), model).eval()
    assert all(p.requires_grad for p in model.parameters())
    assert sum(p.numel() for p in model.parameters()) == sum(
        p.numel() for p in network.parameters()
    )
    assert sum(
        torch.equal(layer.effective_weight(), _weight(network.get_submodule(name)))
        for name, layer in zoo_layers(model.net).items()
    ) == (2 if kind == "gpt2" else 4)
    inputs = batch(backbones(kind))
    model(inputs).square().sum().backward()
    network(**inputs).logits.square().sum().backward()
    for name, p in network.named_parameters():
        owner, _, leaf = name.rpartition(".")
        converted = owner in zoo_layers(model.net) and leaf == "weight"
        mine = model.net.get_parameter(f"{owner}.parameterization.coef" if converted else name)
        conv1d = converted and kind == "gpt2"
        for a, b in ((mine, p), (mine.grad, p.grad)):
            assert (a is None) == (b is None) or not b.any(), name
            if a is not None:
                assert torch.allclose(a.mT if conv1d else a, b, atol=1e-6), name


def _weight(layer: torch.nn.Module) -> torch.Tensor:
    return layer.weight if isinstance(layer, torch.nn.Linear) else layer.weight.mT


def test_alpha_is_divided_by_each_layers_own_rank_or_its_root(backbones, tmp_path):
    """And peft gets the same s."""
    where = backbones("bert")
    overrides = {"*.value": functools.partial(LoRA, rank=3)}
    for rslora in (False, True):
        tuning = Tuning(alpha=16.0, rslora=rslora)
        model = classifier(where, tuning=tuning, overrides=overrides)
        layers = zoo_layers(model.net)
        for name, layer in layers.items():
            r = 3 if name.endswith("value") else 2
            assert layer.scale == 16 / (r**0.5 if rslora else r)
            torch.nn.init.normal_(layer.parameterization.lora_B)
        folder = tmp_path / str(rslora)
        folder.mkdir()
        peft.write(folder, model.net, model.peft_fields())
        for name, factors in peft.read(folder).updates.items():
            assert factors.scale == pytest.approx(layers[name].scale, rel=1e-15)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"alpha": 0.0}, "tuning.alpha must be above 0"),
        ({"alpha": 2.0, "scale": 2.0}, "tuning.scale and tuning.alpha both"),
        ({"alpha": 2.0, "full": True}, "tuning.full has no W0 .* --model.tuning.alpha"),
        ({"rslora": True}, "give tuning.alpha"),
    ],
)
def test_settings_of_a_scale_that_exclude_each_other_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        Tuning(**settings)


def test_alpha_of_a_map_without_a_rank_is_refused(backbones):
    with pytest.raises(UserError, match=r"query: DCT has no rank .* give tuning.scale"):
        classifier(backbones("bert"), "DCT", tuning=Tuning(alpha=2.0))


def params(
    capsys: pytest.CaptureFixture[str], *words: str, config: str = "glue_rte lora_8"
) -> dict:
    capsys.readouterr()
    assert main(["params", *configs(config), *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_targets_and_presets_from_the_command_line(tune, place, capsys):
    counts = [
        len(params(capsys, *tune, *words)["layers"])
        for words in (
            [],
            *([f"--model.tuning.preset={preset}"] for preset in ("attention", "mlp", "all")),
            ['--model.targets=["layer.1.*"]'],
            ['--model.targets=["pooler.*"]'],
        )
    ]
    assert counts == [4, 8, 4, 12, 6, 1]


def test_more_can_be_trained(tune, place, capsys):
    """LayerNorms: one of the embeddings and two a layer, 32 wide, with bias."""
    bare = params(capsys, *tune)["trainable"]
    norms = params(capsys, *tune, '--model.tuning.train=["*LayerNorm"]')["trainable"]
    assert norms - bare == (1 + 2 * 2) * 2 * 32
    folder = fit(*tune, '--model.tuning.train=["*LayerNorm"]', config="glue_rte lora_8")
    assert sum("LayerNorm" in key for key in weights(folder)) == 10


SWAP = "--model.parameterization"
WEIGHTS = 2 * (2 * 32 * 32 + 2 * 32 * 48 + 2 * 32 * 32)  # of preset all: attention, mlp


@pytest.mark.parametrize(
    ("name", "own"),
    thinned(
        [
            ("LoRA", {"ratio=0.1": 64, "rank=3": 192}),
            ("DCT", {"ratio=0.1": 102, "coefficients=77": 77, "lora_rank=3": 192}),
            ("RandomOrthonormal", {"ratio=0.1": 102, "coefficients=77": 77, "lora_rank=3": 192}),
            ("RandLoRA", {"ratio=0.2": 5 * (7 + 32), "lora_rank=6": 10 * (4 + 32)}),
        ],
        4,
    ),
)
def test_budgets_per_layer(name, own, tune, place, capsys):
    """On 32 x 32 K is exact; LoRA's r (m + n) and RandLoRA's N (r + 32), N r >= 32, are at most."""
    for setting, count in own.items():
        rows = params(capsys, *tune, f"{SWAP}={name}", f"{SWAP}.{setting}", config="glue.yaml")[
            "layers"
        ]
        assert [row["trainable"] for row in rows] == [count] * 4


@pytest.mark.parametrize(
    ("budget", "total"),
    [
        ("ratio=0.1", round(0.1 * 2 * (4 * 32 * 32 + 2 * 32 * 48))),
        ("coefficients=1001", 1001),
        ("lora_rank=2", 2 * 2 * (4 * 64 + 2 * 80)),
    ],
)
@pytest.mark.parametrize("name", thinned(["DCT", "RandomOrthonormal", "LoRA", "RandLoRA"], 4))
def test_budgets_of_all_layers(name, budget, total, tune, place, capsys):
    words = [*tune, "--model.tuning.preset=all", f"{SWAP}={name}", f"--model.budget.{budget}"]
    counts = params(capsys, *words, config="glue.yaml")
    assert len(counts["layers"]) == 12
    if name in ("DCT", "RandomOrthonormal"):
        assert counts["coefficients"] == total
        shares = [row["trainable"] / row["weights"] for row in counts["layers"]]
        assert max(shares) - min(shares) < 1 / 1000
    else:
        assert 0.4 * total < counts["coefficients"] <= total


@pytest.mark.parametrize(
    "config", thinned(["glue_rte dct_8", "glue_rte lora_8", "glue_rte randlora_8"], 3)
)
def test_a_checkpoint_holds_what_is_trained(config, tune, place):
    folder = fit(*tune, config=config)
    trainable = json.loads((folder / "summary.json").read_text())["trainable"]
    for name in ("best", "last"):
        assert (folder / "checkpoints" / f"{name}.ckpt").stat().st_size <= 4 * trainable + 65_536
    leaves = {
        "lora": ["lora_A", "lora_B"],
        "dct": ["coef"],
        "randlora": ["randlora_gamma", "randlora_lambda"],
    }
    layers = [
        f"net.bert.encoder.layer.{i}.attention.self.{kind}"
        for i in (0, 1)
        for kind in ("query", "value")
    ]
    kind = config.split()[1].removesuffix("_8")
    coefficients = [f"{layer}.parameterization.{leaf}" for layer in layers for leaf in leaves[kind]]
    expected = sorted([*coefficients, "net.classifier.weight", "net.classifier.bias"])
    best, last = (
        torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        for name in ("best", "last")
    )
    assert sorted(best["state_dict"]) == sorted(last["state_dict"]) == expected
    assert sum(value.numel() for value in best["state_dict"].values()) == trainable


STOPPER = """
from lightning.pytorch import Callback

class PowerCut(Exception):
    pass

class Stopper(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            raise PowerCut
"""


DROPPED = "LoRA --model.parameterization.rank=4 --model.parameterization.dropout=0.3"
METHODS = {
    "DCT": "DCT --model.parameterization.lora_rank=8",
    "DoRA": "DoRA --model.parameterization.rank=4",
    "LoRA with dropout": DROPPED,
    "PiSSA": "PiSSA --model.parameterization.rank=4",
}


@pytest.mark.parametrize(
    ("step", "method"),
    thinned(
        [(3, "DCT"), (9, "DCT"), *((9, name) for name in METHODS if name != "DCT")],
        lambda step, method: step == 3,
    ),
)
def test_a_stopped_run_resumes_bit_equal(step, method, tune, place):
    """Dropout on, in the first epoch of 5 steps and in the second."""
    words = f"--model.parameterization={METHODS[method]}".split()
    options = [*words, *tune, "--trainer.max_epochs=2", "--checkpoint.every_n_steps=2"]
    whole = fit(*options, "--name=whole", config="glue_rte")
    (place / "my_stopper.py").write_text(STOPPER)
    cut = [
        "--trainer.callbacks+=my_stopper.Stopper",
        f"--trainer.callbacks.step={step}",
        "--name=cut",
    ]
    with pytest.raises(Exception, match="^$") as stop:
        main(["fit", "--config", "glue_rte.yaml", *options, *cut])
    assert type(stop.value).__name__ == "PowerCut"
    folder = Path("runs/cut/version_0")
    assert (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
        == step - 1
    )
    assert main(["fit", "--ckpt_path", str(folder), "--trainer.callbacks=null"]) == 0
    assert equal(weights(folder), weights(whole))
    a, b = (json.loads((f / "summary.json").read_text()) for f in (whole, folder))
    assert a["metrics"] == b["metrics"] and b["resumed_at"] == step - 1


@pytest.fixture
def poolerless(backbones, tmp_path):
    """A network saved without its pooler."""
    network = transformers.AutoModel.from_pretrained(backbones("bert"), add_pooling_layer=False)
    network.save_pretrained(tmp_path / "poolerless")
    transformers.AutoTokenizer.from_pretrained(backbones("bert")).save_pretrained(
        tmp_path / "poolerless"
    )
    return tmp_path / "poolerless"


def test_a_missing_pooler_is_float32_beside_a_bfloat16_base(poolerless):
    """AdamW's steps are smaller than what bfloat16 tells apart."""
    model = GlueClassifier(
        str(poolerless), parameterization=FACTORIES["LoRA"], tuning=Tuning(dtype="bfloat16")
    )
    trained = {name: p for name, p in model.net.named_parameters() if p.requires_grad}
    assert "bert.pooler.dense.weight" in trained and {p.dtype for p in trained.values()} == {
        torch.float32
    }
    model.net(**batch(poolerless)).logits.sum().backward()


def test_a_missing_pooler_is_drawn_trained_and_kept(poolerless, tune, place):
    """What was drawn would be lost if it were frozen."""
    run = fit(*tune, f"--model.backbone={poolerless}", config="glue_rte lora_8")
    assert "net.bert.pooler.dense.weight" in weights(run)
    assert equal(rebuild(run / "checkpoints" / "last.ckpt").trained_state(), weights(run))


def test_a_random_head_with_an_update_is_in_the_checkpoint(place, tune):
    """Its frozen weight was drawn at random, and is nowhere else."""
    targets = '["query", "classifier"]'
    run = fit(
        *tune,
        "--model.targets",
        targets,
        "--model.parameterization.rank=1",
        config="glue_rte lora_8",
    )
    first, second = (rebuild(run / "checkpoints" / "last.ckpt") for _ in range(2))
    weight = first.net.classifier.base
    assert not weight.requires_grad
    assert torch.equal(weight, second.net.classifier.base)
    assert torch.equal(weight, weights(run)["net.classifier.weight"])
