"""Every shipped config parses, builds what its name says, and trains."""

import json

import pytest
from conftest import configs
from every import thinned

from zoo.__main__ import main
from zoo.cli.fit.config_files import shipped
from zoo.sweep.read import read

BUDGETS = {
    "block_dct_tenth": 3_072 * 25,  # of each block's 256
    "half": 393_216,
    "tenth": 78_643,
    "twentieth": 39_321,
    "lora_48": 393_216,
    "randlora": 392_656,
}
BUDGETED = [
    f"{kind}_{share}"
    for kind in ("dct", "random_orthonormal", "zigzag")
    for share in ("half", "tenth", "twentieth")
]
CHARACTER = [
    "char_lm",
    "dense",
    "lora_48",
    "randlora",
    "zigzag_random_tenth",
    "row_dct_tenth",
    "block_dct_tenth",
    "dct_half_muon",
    *BUDGETED,
]
SWEEPS = {"char_lm_sweep": 24 * (4 + 5), "char_lm_sweep_quick": 27 * (3 + 3)}
"""Methods, values searched, seeds reported."""
GLUE = [
    f"glue_{task} {kind}"
    for task in ("sst2", "mnli", "cola", "qqp", "rte")
    for kind in ("lora_8", "dct_8", "randlora_8", "full")
] + ["glue_rte adalora_8"]
"""A task's config, and that of a parameterization after it."""


def test_all_of_them_ship():
    assert set(shipped()) == {
        f"{name}.yaml"
        for names in [*CHARACTER, *GLUE, "glue", "causal_lm_lora", *SWEEPS]
        for name in names.split()
    }


@pytest.mark.parametrize(
    "name",
    thinned(CHARACTER, lambda name: name in ("dense", "lora_48", "dct_half", "randlora")),
)
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


@pytest.mark.parametrize(
    "name",
    thinned([name for name in CHARACTER if name not in BUDGETED or name.endswith("half")], 4),
)
def test_it_trains(name, place, small):
    size = ["--model.parameterization.rank=4"] if name == "lora_48" else []
    assert main(["fit", "--config", name, *small, "--trainer.max_steps=2", *size]) == 0
    (summary,) = place.glob("runs/*/version_0/summary.json")
    facts = json.loads(summary.read_text())
    assert facts["steps"] == 2 and facts["loss"] > 0 and facts["corpus"] == "text"


@pytest.mark.parametrize(
    "name", thinned(GLUE, lambda name: name == "glue_mnli lora_8" or "rte" in name)
)
def test_glue_counts_are_loras(name, place, tune, capsys):
    """On query and value of two layers, 32 wide: 8 (32 + 32) each, or at most; all of the network
    in full tuning.
    """
    assert main(["params", *configs(name), *tune, "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)
    head = 33 * (3 if "mnli" in name else 2)
    each = {
        "lora_8": 512,
        "dct_8": 512,
        "randlora_8": 14 * (3 + 32),
        "adalora_8": 12 * (32 + 32 + 1),
        "full": 32 * 32,
    }[name.split()[1]]
    assert {row["trainable"] for row in counts["layers"]} == {each} and len(counts["layers"]) == 4
    assert all(row["layer"].endswith(("query", "value")) for row in counts["layers"])
    assert counts["trainable"] == (counts["total"] if "full" in name else 4 * each + head)


@pytest.mark.parametrize(
    "name",
    thinned(
        [name for name in GLUE if name.endswith(" lora_8") or "rte" in name],
        "glue_rte lora_8".__eq__,
    ),
)
def test_glue_trains(name, place, tune):
    """Every task, and every parameterization."""
    assert main(["fit", *configs(name), *tune, "--trainer.max_steps=2"]) == 0
    (summary,) = place.glob("runs/*/version_0/summary.json")
    facts = json.loads(summary.read_text())
    assert (
        facts["steps"] == 2
        and facts["loss"] > 0
        and facts["glue_task"] == name.split()[0].removeprefix("glue_")
    )


def test_each_is_a_few_lines():
    most = {f"{name}.yaml": 40 for name in SWEEPS}
    assert all(
        len(path.read_text().splitlines()) <= most.get(name, 20) for name, path in shipped().items()
    )


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_has_its_trials(name):
    """Each method's search and its seeds; the paper's budgets of every family that has one."""
    sweep = read(name)
    assert sweep.size() == SWEEPS[name]
    budgets = {
        key: [] for key in ("DCT", "RandomOrthonormal", "Zigzag", "LoRA", "RandLoRA", "RowDCT")
    }
    for method in sweep.methods:
        kind, ratio = (method.options.get(f"model.parameterization{key}") for key in ("", ".ratio"))
        if (
            isinstance(kind, str)
            and kind in budgets
            and "model.optimizer.name" not in method.options
        ):
            budgets[kind].append(ratio)
    assert all(sorted(set(found)) == [0.05, 0.1, 0.5] for found in budgets.values())


def test_a_base_is_merged_below(place, small, capsys):
    (place / "mine.yaml").write_text(
        "base: dct_half.yaml\nmodel:\n  init_args:\n    optimizer: {lr: 0.5}\n"
    )
    assert main(["fit", "--config", "mine.yaml", *small, "--print_config"]) == 0
    printed = capsys.readouterr().out
    assert (
        "lr: 0.5" in printed and "ratio: 0.5" in printed and "zoo.parameterizations.DCT" in printed
    )
