"""Steps of an encoder beside peft's and a frozen one: known answers from times that are given, real
steps of tiny stand-ins.
"""

import csv

import numpy as np
import pytest
from every import factories

from results import measure_encoder as lab
from results.goals.peft import Batch
from zoo.parameterizations import LoRA

BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 50,
}


def taken(seconds, noise=0.0, rounds=40):
    """Times of a round drift together, and each has noise of its own."""
    rng = np.random.default_rng(0)
    drift = np.linspace(0, 0.5, rounds)
    return {name: list(t + drift + noise * rng.normal(size=rounds)) for name, t in seconds.items()}


def test_own_costs_are_above_the_frozen_encoder():
    found = lab.statistics(taken({"zoo": 1.3, "peft": 1.5, "frozen": 1.0}, 1e-3))
    assert float(found["own_ms"]) == pytest.approx(300, abs=2)
    assert float(found["peft_own_ms"]) == pytest.approx(500, abs=2)
    assert float(found["own_ratio"]) == pytest.approx(0.6, abs=0.01)
    low, high = map(float, found["own_ratio_interval"].split(" to "))
    assert low <= 0.6 <= high and 0 < high - low < 0.01
    assert found["exceeds_five_spreads"] == "yes" and found["rounds"] == 40
    low, high = map(float, found["ratio_interval"].split(" to "))
    assert low < float(found["ratio"]) < high


def test_a_cost_within_the_noise_has_no_ratio():
    found = lab.statistics(taken({"zoo": 1.003, "peft": 1.005, "frozen": 1.0}, 0.02))
    assert (found["exceeds_five_spreads"], found["own_ratio"]) == ("no", "")
    assert found["own_ratio_interval"] == "" and found["own_interval"]


def test_the_first_rounds_that_all_have_are_neighbours():
    times = taken({"zoo": 1.0, "peft": 1.0, "frozen": 1.0}, rounds=6)
    times["frozen"] += [9.0] * 5
    assert lab.statistics(times)["rounds"] == 6


def test_every_class_with_a_budget_is_measured_by_default():
    chosen = {spec.cls.__name__ for spec in lab.chosen(None)}
    assert chosen | {"Dense", "IA3"} == set(factories(of_base=True))
    lora, randlora = lab.chosen("LoRA, RandLoRA rank=4")
    assert (lora.cls, lora.label, randlora.label) == (LoRA, "LoRA lora_rank=8", "RandLoRA rank=4")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["t.csv", "--tokens", "20"], "--tokens must be multiples of 16, a sentence, got 20"),
        (["t.csv", "--targets", "qkv"], "--targets"),
        (["t.csv", "--methods", "LORA"], "cannot import 'LORA'"),
        (["t.csv", "--methods", "LoRA 8"], "KEY=VALUE"),
        (["t.csv", "--against", "Dense"], "--against must be one of "),
        (["t.csv", "--seconds", "0"], "--seconds must be above 0"),
        (["no/t.csv"], "there is no folder 'no'"),
        (["other.csv"], "'other.csv' has other columns"),
        ([], "FILE"),
    ],
)
def test_a_mistake_is_one_line_and_measures_nothing(place, capsys, monkeypatch, argv, said):
    (place / "other.csv").write_text("a,b\n")
    monkeypatch.setattr(lab, "calls", lambda *_: pytest.fail("measured"))
    monkeypatch.setattr(lab.importlib.util, "find_spec", lambda name: name)
    assert lab.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and said in err


@pytest.mark.slow
def test_rows_are_measured_once(place, capsys, monkeypatch):
    """What is in the file stays; what the class cannot have is said, and the others go on."""
    pytest.importorskip("peft")
    measured = []

    def alternate(calls, *_, **options):
        measured.append([call() for call in calls.values()])
        return taken({"zoo": 1.3, "peft": 1.5, "frozen": 1.0}, 1e-3)

    monkeypatch.setattr(lab, "alternate", alternate)
    options = {"csv": "t.csv", "tokens": "16", "seconds": 1.0, "threads": None, "sizes": BERT}

    def measure(methods, against=None, targets="qv,all"):
        given = {"methods": methods, "against": against, "targets": targets}
        assert lab.measure(argv=["t.csv"], **given, **options) == 0
        return capsys.readouterr().out

    measure("LoRA lora_rank=2", targets="qv")
    out = measure("LoRA lora_rank=2,LoRA rank=17,DCT lora_rank=2")
    assert len(measured) == 4 and out.count("left out  LoRA rank=17") == 2
    assert max(map(len, out[out.index("tokens  layers") :].splitlines())) <= 80
    measure("DCT lora_rank=2", "LoRA", "qv")
    with (place / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["targets"], row["rival"]) for row in rows] == [
        ("LoRA lora_rank=2", "qv", "peft LoRA r=2"),
        ("DCT lora_rank=2", "qv", "peft FourierFT 64"),
        ("LoRA lora_rank=2", "all", "peft LoRA r=2"),
        ("DCT lora_rank=2", "all", "peft FourierFT 64; peft FourierFT 96"),
        ("DCT lora_rank=2", "qv", "peft LoRA r=2"),
    ]
    assert all(row["trained"] == row["rival_trained"] for row in rows)
    assert int(rows[0]["trained"]) == 2 * 2 * 64 and rows[4]["against"] == "LoRA"
    assert all(row["commit"] and row["device"] and row["date"] for row in rows)


@pytest.mark.slow
def test_the_frozen_encoder_runs_backward_to_the_first_layer_and_trains_its_head_alone(monkeypatch):
    pytest.importorskip("peft")
    found, seen = [], []
    follow, stepper = lab._follow, lab.stepper

    def kept(layer, args, y):
        follow(layer, args, y)
        found.append(y)

    def stepped(network, batch):
        seen.append({name for name, p in network.named_parameters() if p.requires_grad})
        return stepper(network, batch)

    monkeypatch.setattr(lab, "_follow", kept)
    monkeypatch.setattr(lab, "stepper", stepped)
    (spec,) = lab.chosen("LoRA lora_rank=2")
    steps, _ = lab.calls(spec, Batch(2, 16), None, BERT)
    for step in steps.values():
        step()
    head = {"classifier.weight", "classifier.bias"}
    assert seen[2] == head and all(names > head for names in seen[:2])
    assert len(found) == 4 and [y.is_leaf for y in found] == [True, True, False, False]
    assert all(y.grad is not None for y in found[:2])
