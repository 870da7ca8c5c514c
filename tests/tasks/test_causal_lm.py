"""A pretrained decoder on a text: the numbers of transformers' own loss, and one text for tokens
and characters.
"""

import functools
import json
import math
import shutil

import pytest
import torch
import torch.nn.functional as F
from fits import equal, fit, weights

from tasks import CausalLM, CharData, TokenData
from tasks.finetuning import Tuning
from tasks.text.windows import IGNORE
from zoo.__main__ import main
from zoo.errors import UserError
from zoo.parameterizations import DCT, Dense
from zoo.testing import agree

CONFIG = "causal_lm_lora.yaml"


@pytest.fixture
def decode(backbones, text) -> list[str]:
    """Options that make a fit of this task take a second."""
    options = {
        "model.backbone": backbones("gpt2"),
        "data.corpus": text,
        "data.batch_size": 4,
        "data.block_size": 16,
        "trainer.precision": "32-true",
        "trainer.max_steps": 6,
    }
    return [f"--{key}={value}" for key, value in options.items()]


def test_the_validation_text_is_the_character_tasks(backbones, text):
    """The same 90 % are trained on, every token after them is scored once, and none of their
    characters is lost.
    """
    text.write_text("Ein süßes Café – and “naïve” 漢字 🙂 text, \n\n  over and over.\n" * 40)
    data = TokenData(str(text), str(backbones("gpt2")), block_size=8)
    characters = CharData(str(text), block_size=8)
    (_, _), (ids, widths) = data.encoded
    validation = characters.corpus.text[int(0.9 * len(characters.corpus.text)) :]
    assert len(validation) == len(characters.encoded[1][0]) == widths.sum() and len(widths) == len(
        ids
    )
    assert data.tokenizer.decode(ids) == validation
    assert (widths == 0).any()  # bytes of a character that is several tokens
    _, targets, counts = (torch.cat(side) for side in zip(*data.val_dataloader(), strict=True))
    assert torch.equal(targets[targets != IGNORE], ids.long()) and counts.sum() == len(validation)


def test_scores_are_transformers_own_loss(backbones, text):
    """Loss and bits per character of the untrained update are those of the plain network, window by
    window.
    """
    from transformers import AutoModelForCausalLM

    data = TokenData(str(text), str(backbones("gpt2")), batch_size=3, block_size=16)
    model = CausalLM(str(backbones("gpt2")), block_size=16).eval()
    plain = AutoModelForCausalLM.from_pretrained(backbones("gpt2"))
    (before, _), (ids, _) = data.encoded
    whole = torch.cat([before[-1:], ids]).long()
    nats = 0.0
    with torch.no_grad():
        for i, batch in enumerate(data.val_dataloader()):
            model.validation_step(batch, i)
        for start in range(0, len(ids), 16):
            window = whole[None, start : start + 17]
            nats += plain(input_ids=window, labels=window).loss.item() * (window.shape[1] - 1)
    score = model.score.compute()
    assert score["loss"].item() == pytest.approx(nats / len(ids), rel=1e-5)
    assert score["perplexity"].item() == pytest.approx(math.exp(nats / len(ids)), rel=1e-5)
    validation = len(text.read_text()) - int(0.9 * len(text.read_text()))
    assert score["bits_per_char"].item() == pytest.approx(nats / validation / math.log(2), rel=1e-5)


@pytest.mark.parametrize(
    ("parameterization", "tuning"),
    [
        (DCT, Tuning()),
        (Dense, Tuning(full=True)),
        (Dense, Tuning(preset="all", gradient_checkpointing=True)),
    ],
)
def test_it_starts_as_the_pretrained_network(parameterization, tuning, backbones):
    """dW = 0: equal logits, on any preset; and the gradient reaches the coefficients alone, unless
    all is trained.
    """
    from transformers import AutoModelForCausalLM

    factory = functools.partial(DCT, ratio=0.1) if parameterization is DCT else parameterization
    model = CausalLM(str(backbones("gpt2")), factory, tuning=tuning)
    assert model.net.training
    ids = torch.randint(200, (2, 12))
    plain = AutoModelForCausalLM.from_pretrained(backbones("gpt2"))
    agree(model.eval()(ids), plain(input_ids=ids).logits.detach(), 1e-4)
    F.cross_entropy(model.train()(ids).flatten(0, 1), ids.flatten()).backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None}
    if tuning.full:
        assert "net.transformer.wte.weight" in moved
    else:
        assert moved and all("parameterization" in name for name in moved)


def test_it_learns(place, decode):
    words = [
        "--model.parameterization=Dense",
        "--model.tuning.full=true",
        "--model.optimizer.lr=0.01",
    ]
    folder = fit(*decode, *words, "--trainer.max_steps=40", config=CONFIG)
    assert json.loads((folder / "summary.json").read_text())["loss"] < 3.5  # 5.7 is chance


def test_a_summary_says_what_was_read_and_trained(place, decode):
    summary = json.loads((fit(*decode, config=CONFIG) / "summary.json").read_text())
    assert summary["targets"] == ["attn.c_attn"] and summary["coefficients"] == 2 * 8 * (32 + 96)
    assert (
        summary["vocabulary"] == 300
        and summary["backbone"].endswith("gpt2")
        and summary["corpus"] == "text"
    )
    assert summary["data"].startswith("text (sha256 ")
    tokens, loss = summary["validation_tokens"], summary["loss"]
    assert summary["metrics"]["val/bits_per_char"] == pytest.approx(
        loss * tokens / 402 / math.log(2), rel=1e-5
    )


def test_a_resumed_run_is_the_uninterrupted_one(place, decode):
    """Six steps, or three and three more: bit-equal coefficients, with dropout on."""
    constant = ["--model.optimizer.warmup=0", "--model.optimizer.final_lr=1"]
    whole = fit(*decode, *constant, config=CONFIG)
    half = fit(*decode, *constant, "--trainer.max_steps=3", config=CONFIG)
    assert not equal(weights(whole), weights(half))
    assert main(["fit", "--ckpt_path", str(half), "--trainer.max_steps=6"]) == 0
    assert json.loads((half / "summary.json").read_text())["resumed_at"] == 3
    assert equal(weights(whole), weights(half))


def test_generate_continues_the_prompt_and_repeats(place, decode, capsys):
    folder = str(fit(*decode, config=CONFIG))
    capsys.readouterr()
    texts = []
    for seed in ("1", "1", "2"):  # more tokens than the network has positions
        assert (
            main(
                [
                    "generate",
                    "--ckpt_path",
                    folder,
                    "--prompt",
                    "the fox",
                    "--length",
                    "70",
                    "--seed",
                    seed,
                ]
            )
            == 0
        )
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2] and texts[0].startswith("the fox")


def test_generate_refuses_a_classifier(place, tune, capsys):
    folder = fit(*tune, config="glue_rte lora_8")
    assert main(["generate", "--ckpt_path", str(folder)]) == 2
    assert (
        "is of a GlueClassifier, which writes no text" in capsys.readouterr().err.splitlines()[-1]
    )


def test_sampling_is_transformers_greedy_search(backbones):
    from transformers import AutoModelForCausalLM

    model = CausalLM(str(backbones("gpt2")), block_size=64).eval()
    plain = AutoModelForCausalLM.from_pretrained(backbones("gpt2"))
    ids = model.encode("the film was")
    expected = plain.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=20,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert torch.equal(model.sample(ids, 20, temperature=0), expected)
    assert model.decode(model.encode("the film was")[0]) == "the film was"


@pytest.fixture
def encoders(tmp_path):
    """The folder of an encoder with the head of masked language modelling, as BERT's on the hub."""
    from tiny import save_backbone
    from transformers import AutoModelForMaskedLM

    def save(kind: str) -> str:
        folder = save_backbone(kind, tmp_path / kind)
        AutoModelForMaskedLM.from_pretrained(folder).save_pretrained(folder)
        return str(folder)

    return save


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_an_encoder_is_refused(kind, encoders):
    with pytest.raises(
        UserError,
        match=f"a {kind} is an encoder, .* give a decoder, such as gpt2, as --model.backb",
    ):
        CausalLM(encoders(kind))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data.block_size=65"], ["data.block_size must be at most 64", "gpt2", "got 65"]),
        (["--data.block_size=0"], ["data.block_size must be at least 1, got 0"]),
        (
            ["--data.corpus=short.txt"],
            ["'short' is too short", "tokens", "need 170", "--data.block_size"],
        ),
        (["--data.corpus=no.txt"], ["no corpus 'no.txt'"]),
        (["--model.backbone=bert"], ["/bert': a bert", "encoder", "gpt2", "--model.backbone"]),
        (
            ["--model.backbone=distilbert"],
            ["a distilbert has no language-model head", "--model.backbone"],
        ),
        (["--model.backbone=nowhere/at/all"], ["no folder 'nowhere/at/all'", "--model.backbone"]),
    ],
)
def test_mistakes_are_one_line(words, said, place, decode, encoders, backbones, capsys):
    (place / "short.txt").write_text("the film was good. " * 10)
    shutil.copytree(encoders("bert"), place / "bert")
    shutil.copytree(backbones("distilbert"), place / "distilbert")
    assert main(["fit", "--config", CONFIG, *decode, *words]) == 2
    error = capsys.readouterr().err
    assert all(part in error for part in said), error
    assert error.startswith("zoo: ") and error.count("\n") == 1
    assert not (place / "runs").exists()


@pytest.mark.parametrize(("train", "val"), [(16, 500), (500, 0)])
def test_enough_characters_may_be_too_few_tokens(train, val, text, monkeypatch):
    count = iter((train, val))
    monkeypatch.setattr(
        TokenData, "encode", lambda self, text: (torch.zeros(next(count)), torch.zeros(0))
    )
    with pytest.raises(UserError, match=f"'text' is too short: {train + val} tokens"):
        _ = TokenData(str(text), block_size=16).encoded
