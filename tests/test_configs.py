"""Every shipped config parses, builds what its name says, and trains."""

import json

import pytest

from zoo.__main__ import main
from zoo.config_files import shipped

BUDGETS = {"half": 393_216, "tenth": 78_643, "twentieth": 39_321, "lora_48": 393_216, "randlora": 392_656}


def test_all_of_them_ship():
    budgets = ("half", "tenth", "twentieth")
    names = ["char_lm", "dense", "lora_48", "randlora", "zigzag_random_tenth"]
    names += [f"{kind}_{budget}" for kind in ("dct", "random_orthonormal", "zigzag") for budget in budgets]
    assert set(shipped()) == {f"{name}.yaml" for name in names}

@pytest.mark.parametrize("name", sorted(shipped()))
def test_counts_are_the_names(name, place, tmp_path, capsys):
    """The coefficients of the 786,432 block weights, to the rounding of each layer."""
    text = tmp_path / "characters.txt"
    text.write_text("".join(chr(33 + i) for i in range(65)) * 30)
    assert main(["params", "--config", name, "--data.corpus", str(text), "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)
    expected = next((k for suffix, k in BUDGETS.items() if suffix in name), 786_432)
    assert counts["replaced"] == 786_432 and counts["total"] == 826_433
    assert abs(counts["coefficients"] - expected) <= 8
    assert len(counts["layers"]) == 16


@pytest.mark.parametrize("name", sorted(shipped()))
def test_it_trains(name, place, small):
    size = ["--model.parameterization.rank=4"] if name == "lora_48.yaml" else []
    assert main(["fit", "--config", name, *small, "--trainer.max_steps=2", *size]) == 0
    (summary,) = place.glob("runs/*/version_0/summary.json")
    facts = json.loads(summary.read_text())
    assert facts["steps"] == 2 and facts["loss"] > 0 and facts["corpus"] == "text"


def test_each_is_a_few_lines():
    assert all(len(path.read_text().splitlines()) <= 20 for path in shipped().values())


def test_a_base_is_merged_below(place, small, capsys):
    (place / "mine.yaml").write_text("base: dct_half.yaml\nmodel:\n  init_args:\n    optimizer: {lr: 0.5}\n")
    assert main(["fit", "--config", "mine.yaml", *small, "--print_config"]) == 0
    printed = capsys.readouterr().out
    assert "lr: 0.5" in printed and "ratio: 0.5" in printed and "zoo.parameterizations.DCT" in printed
