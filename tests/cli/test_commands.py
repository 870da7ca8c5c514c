"""The small commands: list, check, params, generate, and the front door."""

import json

import pytest
from every import factories, thinned
from fits import fit

import zoo.parameterizations
from zoo import __version__
from zoo.__main__ import COMMANDS, main
from zoo.cli.check import budget
from zoo.testing.running import suited

MINE = '''
import math
import torch
from zoo.parameterizations import SeparableSubspace


class Hartley(SeparableSubspace):
    """The discrete Hartley transform."""

    def side(self, n, axis):
        angle = 2 * math.pi / n * torch.outer(torch.arange(n), torch.arange(n)).double()
        return (angle.cos() + angle.sin()) / math.sqrt(n)


class Skewed(Hartley):
    """Not orthogonal."""

    def side(self, n, axis):
        return super().side(n, axis) * (1 + 0.1 * (n > 1)) + 0.05
'''


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in COMMANDS)
    assert max(map(len, text.splitlines())) <= 80


def test_no_command_is_a_mistake(capsys):
    assert main([]) == 2
    assert "usage: zoo" in capsys.readouterr().err


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"zoo {__version__}\n"


def test_an_interruption_is_no_traceback(capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("zoo.cli.list.main", interrupt)
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "zoo: stopped\n"


def test_list_has_a_line_for_each(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = (
        "DCT",
        "Dense",
        "LoRA",
        "RandLoRA",
        "RandomOrthonormal",
        "Zigzag",
        "CharLM",
        "CharData",
        "dct_half.yaml",
    )
    for name in names:
        (line,) = [line for line in lines if line.startswith(f"  {name} ")]
        assert len(line.split()) > 3
    assert max(map(len, lines)) <= 80


def test_params_counts(place, small, capsys):
    assert main(["params", "--config", "dct_half.yaml", *small, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["replaced"] == 2 * 12 * 16 * 16 == 2 * facts["coefficients"]
    assert facts["layers"][0] == {
        "layer": "blocks.0.attn.qkv",
        "shape": [48, 16],
        "parameterization": "DCT",
        "weights": 768,
        "trainable": 384,
        "lr_mult": pytest.approx(1.9, abs=0.1),
    }
    assert facts["cost"]["rows"] == 4 * 16 and set(facts["cost"]) == {
        "rows",
        "forward_flops",
        "training_flops",
        "checkpoint_bytes",
        "decode_bytes",
    }
    assert main(["params", "--config", "dct_half.yaml", *small]) == 0
    table = capsys.readouterr().out
    assert "3,072 for 6,144 weights" in table and max(map(len, table.splitlines())) <= 80
    assert f"{facts['cost']['training_flops']:,} at 64 tokens a batch\n" in table
    assert f"{facts['cost']['decode_bytes']:,} bytes of them read for a token\n" in table
    assert not (place / "runs").exists()


TWO_RATES = """
from zoo.parameterizations import LoRA

class Plus(LoRA):
    @property
    def lr_mult(self):
        return {"lora_A": 0.93, "lora_B": 16 * 0.93}
"""


def test_params_has_every_rate_of_a_layer(place, small, tune, capsys):
    """A range in the table, by name in JSON; and says where it does not know the batch."""
    (place / "plus.py").write_text(TWO_RATES)
    chosen = ["--model.parameterization=plus.Plus"]
    assert main(["params", "--config", "dct_half.yaml", *small, *chosen, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)["layers"][0]
    assert first["lr_mult"] == {"lora_A": 0.93, "lora_B": 14.88}
    assert main(["params", "--config", "glue_rte.yaml", "--config", "lora_8.yaml", *tune]) == 0
    text = capsys.readouterr().out
    assert " at 1,024 tokens a batch, whose size is unknown\n" in text
    assert max(map(len, text.splitlines())) <= 80
    assert main(["params", "--config", "dct_half.yaml", *small, *chosen]) == 0
    text = capsys.readouterr().out
    assert text.count(" 0.93-15\n") == 8 and max(map(len, text.splitlines())) <= 80


def test_a_basis_of_ones_own_trains_with_no_registration(place, small):
    (place / "mine.py").write_text(MINE)
    folder = fit(*small, "--model.parameterization=mine.Hartley")
    assert json.loads((folder / "summary.json").read_text())["parameterization"] == "Hartley"
    assert folder.parent.name == "dct_half+Hartley-text"


@pytest.mark.slow
def test_check_passes_a_correct_basis_and_fails_a_wrong_one(place, capsys):
    (place / "mine2.py").write_text(MINE)
    assert main(["check", "mine2.Hartley"]) == 0
    text = capsys.readouterr().out
    assert "FAIL" not in text and text.count("pass  ") >= 20
    assert main(["check", "mine2.Skewed"]) == 1
    text = capsys.readouterr().out
    assert (
        "FAIL  isometry" in text
        and "FAIL  project is idempotent" in text
        and "pass  deepcopy" in text
    )


@pytest.mark.parametrize("name", thinned(["DCT", "LoRA"], 2))
def test_check_finds_a_budget_and_lists_what_applies(name, capsys):
    assert main(["check", name]) == 0
    text = capsys.readouterr().out
    assert "all contracts hold" in text and max(map(len, text.splitlines())) <= 80
    orthonormal = (
        "isometry",
        "gather inverts expand",
        "map rank is count",
        "weight is of its sides",
    )
    assert [f"pass  {contract}\n" in text for contract in orthonormal] == [name == "DCT"] * 4


PICKY = """
from zoo.parameterizations import DCT

class Even(DCT):
    def __init__(self, out_features, in_features, ratio, seed=0):
        for size in (out_features, in_features):
            if size % 8:
                raise ValueError(f"sizes must be multiples of 8, got {size}")
        super().__init__(out_features, in_features, ratio, seed=seed)

class Wide(DCT):
    def __init__(self, out_features, in_features, ratio=0.3, seed=0):
        if out_features > in_features:
            raise ValueError("must not be tall")
        super().__init__(out_features, in_features, ratio, seed=seed)

class Never(DCT):
    def __init__(self, out_features, in_features, ratio=0.3, seed=0):
        raise ValueError("no shape is good enough")
"""


def test_check_takes_the_shapes_that_a_class_can_have(place, capsys, monkeypatch):
    (place / "picky.py").write_text(PICKY)
    seen = []
    monkeypatch.setattr("zoo.testing.conformance", lambda case: seen.append(case) or ())
    assert main(["check", "picky.Even"]) == main(["check", "picky.Wide"]) == 0
    text = capsys.readouterr().out
    assert "picky.Even(ratio=0.5) on 3 shapes" in text and "picky.Wide() on 3 shapes" in text
    assert [case.shapes for case in seen] == [
        ((16, 16), (8, 24), (24, 8)),
        ((16, 16), (8, 24), (1, 12)),
    ]
    assert [case.small for case in seen] == [(8, 8), (4, 4)]
    assert main(["check", "picky.Never"]) == 2
    assert "Never cannot be built: no shape is good enough" in capsys.readouterr().err


def test_a_budget_suits_a_wide_and_a_tall_shape():
    """The least that does, if any does: a factor of rank 1 tells less than half the weights."""
    for name in factories():
        cls = getattr(zoo.parameterizations, name)
        shapes = suited(cls, budget(cls))
        assert len(shapes) >= 3 and {m < n for m, n in shapes if m != n} == {True, False}, name
    assert budget(zoo.parameterizations.LoRA) == {"ratio": 0.5}
    assert budget(zoo.parameterizations.RandLoRA) == {}


def test_check_says_what_it_found(place, capsys):
    (place / "mine3.py").write_text(
        f"{MINE}\n\nclass Idle(Hartley):\n"
        "    def forward_update(self, x, base, bias=None, scale=1.0):\n"
        "        return super().forward(x, bias) + x @ base.mT * (scale == 1)\n"
    )
    assert main(["check", "mine3.Idle"]) == 1
    text = capsys.readouterr().out
    assert "FAIL  forward update" in text and "AssertionError" not in text
    assert "(16, 16): s = 0.7, a bias, x of (16,): y is off by" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80 and "of the contracts do not hold" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["check", "nothing.here"], "cannot import 'nothing.here'"),
        (["check", "DTC"], "cannot import 'DTC'"),
        (["check", "torch.nn.Linear"], "is no parameterization"),
        (["check", "SeparableSubspace"], "is abstract: it still has to define side"),
        (["check", "DCT", "--set", "ratio=2"], "ratio must lie in (0, 1], got 2"),
        (["check", "DCT", "--set", "ratio"], "--set takes KEY=VALUE"),
        (["check"], "required: parameterization"),
        (["list", "--al"], "no option '--al'"),
        (["generate", "--ckpt_path", "nowhere"], "no checkpoint 'nowhere'"),
        (["generate", "--ckpt_pat", "x"], "--ckpt_path"),
        (["generate", "--ckpt_path", "x", "--length", "many"], "invalid int value: 'many'"),
    ],
)
def test_mistakes_are_one_line(words, said, place, capsys):
    try:
        status = main(words)
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("zoo: ") and error.count("\n") == 1
    assert not list(place.iterdir())


def test_generate_continues_the_prompt_and_repeats(place, small, capsys):
    folder = str(fit(*small))
    capsys.readouterr()
    texts = []
    for seed in ("1", "1", "2"):
        assert (
            main(
                [
                    "generate",
                    "--ckpt_path",
                    folder,
                    "--prompt",
                    "the fox",
                    "--length",
                    "30",
                    "--seed",
                    seed,
                ]
            )
            == 0
        )
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("the fox") and len(texts[0].rstrip("\n")) >= 30
    assert main(["generate", "--ckpt_path", folder, "--prompt", "THE FOX"]) == 2
    assert "never seen 'EFHOTX'" in capsys.readouterr().err
    assert main(["generate", "--ckpt_path", folder, "--length", "-1"]) == 2
    assert "--length must be at least 0 and at most 100,000, got -1" in capsys.readouterr().err
