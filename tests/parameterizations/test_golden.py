"""Fingerprints, keys, counts and places are those of the day a class came: what was saved then must
mean the same for ever.
"""

import hashlib
import itertools
import json
from pathlib import Path

import pytest
import torch
from every import factories

import zoo.parameterizations as zoo

GOLDEN = json.loads((Path(__file__).parent / "golden" / "parameterizations.json").read_text())
"""By class and arguments, of 2026-11-22 or, of the classes that came later, 2026-11-29; W is of
coefficients from -1 to 1 in even steps.
"""


def rounded(mult):
    """A factor to six digits, or those of a mapping."""
    if isinstance(mult, dict):
        return {name: round(each, 6) for name, each in mult.items()}
    return round(float(mult), 6)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_parameterization_is_what_it_was(name):
    kind, m, n, *options = name.rstrip(")").replace("(", ", ").split(", ")
    arguments = dict(option.split("=") for option in options if option)
    arguments = {
        key: value if key == "selection" else float(value) if key == "ratio" else int(value)
        for key, value in arguments.items()
    }
    cls = getattr(zoo, kind)
    p = cls(int(m), int(n), **arguments, **({} if kind in ("Dense", "LoRA") else {"seed": 3}))
    with torch.no_grad():
        for each in p.parameters():
            each.copy_(torch.linspace(-1, 1, each.numel()).view(each.shape))
    found = {
        "fingerprint": p.fingerprint(),
        "state": {key: list(value.shape) for key, value in p.state_dict().items()},
        "count": p.num_trainable,
        "lr_mult": rounded(p.lr_mult),
        "weight": [
            round(float(w), 5)
            for w in p.weight().detach().flatten()[[0, 1, p.weight().numel() // 2, -1]]
        ],
    }
    if "support" in GOLDEN[name]:
        found["support"] = hashlib.sha256(p.support.contiguous().numpy().tobytes()).hexdigest()[:16]
    assert found.keys() == GOLDEN[name].keys()
    for key in found.keys() - {"weight"}:
        assert found[key] == GOLDEN[name][key], key
    assert found["weight"] == pytest.approx(GOLDEN[name]["weight"], abs=2e-5)


def test_it_knows_every_class():
    kinds = {key for key, _ in itertools.groupby(GOLDEN, lambda name: name.partition("(")[0])}
    assert kinds == set(factories())
