"""What a census says of all adapters together, and structure of known strength that it finds."""

import numpy as np
import pytest
import strangers
import torch
from scipy import stats

from zoo.bases import transform
from zoo.runs.source import Update
from zoo.studies.census import measuring, planted, summary
from zoo.studies.census.entries import Entry


def adapter(ps, cluster="me", **more):
    """A made-up adapter whose mean over matrices has these p of k90 and low_25, under the DCT."""
    spectra = {
        "dct": {
            name: {"value": 0.3 + p, "null": 0.4, "sd": 0.1, "z": 0.0, "p": p, "shuffled": 0.4}
            for name, p in zip(("k90", "low_25"), ps, strict=True)
        }
    }
    matrix = {"numerical_rank": 4, "shape": [6, 8], "kind": "a.query", "block": 0, "layer": "x"}
    return {
        "entry": {"name": "it", "cluster": cluster, "about": {}},
        "status": "analysed",
        "facts": {"base_model_name_or_path": "me/roberta-base"},
        "mean": spectra,
        "matrices": [{**matrix, "spectra": spectra}],
        "correlation": {"dct": {}},
        "planted": [],
        **more,
    }


# ---- The share of adapters with structure --------------------------------------------------------


def test_structure_is_benjamini_and_hochbergs():
    """By hand: of m p-values in order, the i-th is p m / i, and none larger than the next."""
    firsts = [0.001, 0.5, 0.02, 0.004, 0.9]
    made = [adapter((p, 1.0), cluster=str(i)) for i, p in enumerate(firsts)]
    (row,) = summary.structure(made, ["dct"])
    ps = [0.002, 1.0, 0.04, 0.008, 1.0]  # Holm, of two
    order = np.argsort(ps)
    qs, least = [0.0] * 5, 1.0
    for place in range(5, 0, -1):
        least = min(least, ps[order[place - 1]] * 5 / place)
        qs[order[place - 1]] = least
    assert [each["structured"]["dct"]["p"] for each in made] == pytest.approx(ps)
    assert [each["structured"]["dct"]["q"] for each in made] == pytest.approx(qs)
    assert qs == pytest.approx([0.01, 1.0, 0.2 / 3, 0.02, 1.0])
    found = [each["structured"]["dct"]["found"] for each in made]
    assert found == [True, False, False, True, False]
    assert (row["found"], row["adapters"], row["nominal"]) == (2, 5, 3)  # 0.04 does not pass
    assert row["share"] == pytest.approx(0.4)


def test_no_adapter_of_many_is_found_by_chance_alone():
    """Uniform p of 400 adapters: twenty are below 0.05, and none is said to be structured."""
    rng = np.random.default_rng(0)
    made = [adapter(tuple(pair), cluster=str(i)) for i, pair in enumerate(rng.random((400, 2)))]
    (row,) = summary.structure(made, ["dct"])
    assert 8 <= row["nominal"] <= 35 and row["found"] == 0
    assert row["matrices_nominal"] == row["nominal"]


@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.27753),
        (5, 10, 0.23659, 0.76341),
        (81, 263, 0.25528, 0.36620),  # Newcombe, Statist. Med. 17, 1998, method 3
        (15, 148, 0.06240, 0.16052),
        (1, 29, 0.00611, 0.17176),
    ],
)
def test_wilson(count, n, low, high):
    share, *ends = summary.wilson(count, n)
    assert share == count / n and ends == pytest.approx([low, high], abs=2e-4)


def test_wilson_of_nothing():
    assert np.isnan(summary.wilson(0, 0)).all()


def test_an_author_counts_once():
    """Ten adapters of one author are one in a share, and one in a mean."""
    many = [adapter((1e-9, 1.0), cluster="many") for _ in range(10)]
    few = [adapter((0.9, 1.0), cluster=name) for name in "abc"]
    (row,) = summary.structure(many + few, ["dct"])
    assert (row["found"], row["clusters"], row["share"]) == (10, 4, 0.25)
    assert [row["low"], row["high"]] == list(summary.wilson(1, 4)[1:])
    (k90, _) = summary.measures(many + few, ["dct"])
    ends = stats.t.interval(
        0.95, 3, *(lambda v: (v.mean(), stats.sem(v)))(np.array([0.3, *[1.2] * 3]))
    )
    assert k90["value"]["mean"] == pytest.approx((0.3 + 3 * 1.2) / 4)
    assert [k90["value"]["low"], k90["value"]["high"]] == pytest.approx(list(ends))
    assert (k90["value"]["clusters"], k90["value"]["adapters"]) == (4, 13)
    assert summary.over_clusters(few, [None] * 3) == {
        "mean": None,
        "low": None,
        "high": None,
        "clusters": 0,
        "adapters": 0,
    }


def test_groups_are_of_matrices_of_one_sort():
    def matrix(kind, block, k90, rank=4):
        values = {"value": k90, "null": 0.4}
        shape, spectra = [6, 8], {"dct": {"k90": values}}
        return {
            "kind": kind,
            "block": block,
            "shape": shape,
            "numerical_rank": rank,
            "spectra": spectra,
        }

    deep = [matrix("attention.query", i, 0.1 * i) for i in range(6)]
    made = [
        adapter((1, 1), "a", matrices=deep),
        adapter((1, 1), "b", matrices=[matrix("query", None, 0.5, 16), matrix("value", 2, 0.7)]),
    ]
    made[1]["entry"]["about"] = {"base": "org/gpt2-large"}
    rows = {(row["by"], row["name"]): row for row in summary.groups(made, ["dct"])}

    def means(by):
        return {n: row["value"]["mean"] for (b, n), row in rows.items() if b == by}

    assert means("module") == pytest.approx({"query": (0.25 + 0.5) / 2, "value": 0.7})
    thirds = {"first third": 0.05, "middle third": 0.25, "last third": 0.45}
    assert means("depth") == pytest.approx(thirds)
    assert [name for by, name in rows if by == "depth"] == list(thirds)
    assert means("architecture") == pytest.approx({"roberta": 0.25, "gpt2": 0.6})
    assert [name for by, name in rows if by == "rank"] == ["4", "16"]
    assert rows["module", "query"]["matrices"] == 7
    assert rows["module", "query"]["value"]["adapters"] == 2


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("distilbert/DistilBERT-base-uncased", "distilbert"),
        ("C:\\models\\gpt2_large", "gpt2"),
        ("org/llama3.2/", "llama3"),
        ("", "unknown"),
        ("me/" + "x" * 190, "x" * 24),
        ("me/$x^$", "unknown"),
        ("<script>", "unknown"),
        ("me/bert$x^$", "bert"),
    ],
)
def test_architectures_are_a_few_letters(name, word):
    """A figure's label of strangers' own would be mathematics, or leave it no room."""
    made = adapter((1, 1))
    made["facts"] = {"base_model_name_or_path": name}
    assert summary.architecture(made) == word


def test_power_is_the_share_of_adapters_in_which_it_was_found():
    def rows(*ps):
        kinds = ("nothing", "blocks", "frequency")
        return [
            {"kind": k, "strength": 0.1, "transform": "dct", "p": p}
            for k, p in zip(kinds, ps, strict=True)
        ]

    made = [adapter((1, 1), planted=rows(*ps)) for ps in ((0.9, 0.2, 0.01), (0.04, 0.06, 0.001))]
    found = summary.power(made, ["dct"])
    assert [(row["kind"], row["share"]) for row in found] == [
        ("nothing", 0.5),
        ("frequency", 1.0),
        ("blocks", 0.0),
    ]
    assert found[1]["low"] == summary.wilson(2, 2)[1]


def test_matrices_for_tails_are_of_different_sizes_and_adapters():
    made = [adapter((1, 1)) for _ in range(9)]
    for i, each in enumerate(made):
        each["matrices"][0] |= {"shape": [1 + i, 8], "layer": f"layer {i}"}
    made[0]["matrices"][0]["spectra"] = {"dct": {k: {"sd": 0.0} for k in ("k90", "low_25")}}
    made[8]["status"] = "unreadable"
    chosen = summary.for_tails(made, 3)
    assert chosen == [(1, "layer 1"), (4, "layer 4"), (7, "layer 7")]
    assert summary.for_tails([]) == []


# ---- Planted structure ---------------------------------------------------------------------------


def updates(count=4, out=96, into=64, rank=4, seed=0):
    stream = torch.Generator().manual_seed(seed)
    return [
        Update(torch.randn(out, rank, generator=stream), torch.randn(rank, into, generator=stream))
        for _ in range(count)
    ]


def mean_beside_null(made, transforms, draws=20):
    from zoo.studies.spectra import primary_draws

    null = primary_draws(made, transforms, draws, 0).mean(0)
    return {
        key: {
            measure: {"null": float(null[j, :, k].mean()), "sd": float(null[j, :, k].std(ddof=1))}
            for k, measure in enumerate(("k90", "low_25"))
        }
        for j, key in enumerate(transforms)
    }


@pytest.mark.parametrize("kind", planted.KINDS)
@pytest.mark.parametrize("shape", [(96, 64), (17, 31), (5, 40)])
def test_planting_keeps_singular_values(kind, shape):
    (update,) = updates(1, *shape)
    s = planted._values(update)
    made = planted._planted(shape, s, kind, 0.3 if kind != "nothing" else 0.0, 0, 0)
    assert made.shape == shape
    kept = torch.linalg.svdvals(made.matrix().double())[: len(s)]
    assert torch.allclose(kept, s, rtol=1e-5, atol=1e-5 * float(s[0]))


def test_what_is_planted_is_there():
    """The share of energy in the low frequencies, and how alike two matrices' directions are."""
    s = torch.ones(4, dtype=torch.float64)
    shape = (96, 64)
    quarter = torch.zeros(shape)
    quarter[:24, :16] = 1

    def made(kind, strength, place=0):
        return planted._planted(shape, s, kind, strength, 0, place)

    def low(kind, strength):
        energy = transform("dct").forward(made(kind, strength).matrix()).square()
        return float((energy * quarter).sum() / energy.sum())

    assert low("nothing", 0.0) == pytest.approx(1 / 16, abs=0.05)
    assert low("frequency", 0.3) > low("frequency", 0.05) > low("nothing", 0.0)

    def shared(kind, strength):
        one, other = (made(kind, strength, place).left.double() for place in (0, 1))
        return float(torch.linalg.svdvals(one.mT @ other)[0])

    assert shared("direction", 0.3) > 0.6 > shared("nothing", 0.0)
    assert shared("feature", 0.3) > 0.6
    assert int(made("feature", 0.3).left.norm(dim=1).argmax()) == 96 // 3


def test_strong_structure_is_found_by_its_own_transform():
    made, transforms = updates(), ["dct", "haar"]
    rows = planted.plants(made, mean_beside_null(made, transforms), 20, transforms, 0)
    ps = {(row["kind"], row["strength"], row["transform"]): row["p"] for row in rows}
    assert len(rows) == len(ps) == 2 * (1 + 4 * len(planted.STRENGTHS))
    low, *_, high = planted.STRENGTHS
    assert ps["frequency", high, "dct"] < 1e-3 and ps["blocks", high, "haar"] < 1e-3
    assert ps["frequency", high, "dct"] < ps["frequency", low, "dct"]


def test_what_was_not_planted_is_found_as_rarely_as_chance_has_it():
    """In fifty adapters, under two transforms, at a level of 5 %."""
    transforms, found = ["dct", "haar"], []
    for seed in range(50):
        made = updates(2, 24, 20, seed=seed)
        mean = mean_beside_null(made, transforms)
        rows = planted.plants(made, mean, 20, transforms, seed)
        found += [row["p"] < 0.05 for row in rows if row["kind"] == "nothing"]
    assert len(found) == 100 and sum(found) <= 14


# ---- One adapter ---------------------------------------------------------------------------------


def measured(folder, draws=20):
    return measuring.measured(Entry(str(folder), "it"), ["dct", "haar"], draws, 0)


def test_a_random_adapter_is_not_structured_and_a_smooth_one_is(tmp_path):
    """A deviation of more than three is tried again, with 200 draws and other random numbers."""
    plain = strangers.factors(2, 48, 40, 4)
    waves = torch.cos(torch.pi * torch.outer(torch.arange(4) + 1, torch.arange(48) + 0.5) / 48)
    smooth = {
        name: waves[:, :40] + 0.1 * tensor
        if "lora_A" in name
        else (waves.mT + 0.1 * tensor).contiguous()
        for name, tensor in plain.items()
    }
    found = [measured(strangers.peft(tmp_path / str(i), t)) for i, t in enumerate((plain, smooth))]
    made = [{**each, "entry": {"cluster": str(i)}} for i, each in enumerate(found)]
    (row, _) = summary.structure(made, ["dct", "haar"])
    assert [each["structured"]["dct"]["found"] for each in made] == [False, True]
    assert row["found"] == 1
    random_mean, smooth_mean = (each["mean"]["dct"] for each in found)
    assert {values["draws"] for values in random_mean.values()} == {20}
    assert [smooth_mean[key]["draws"] for key in ("k50", "k90", "low_25")] == [20, 200, 200]
    assert smooth_mean["k90"]["z"] < -3 and smooth_mean["low_25"]["z"] > 3
    for matrix in found[1]["matrices"]:
        assert {values["draws"] for values in matrix["spectra"]["dct"].values()} == {200}


def test_tails(tmp_path, monkeypatch):
    """Of 21 draws one is tested against the others: their p are uniform where draws are normal."""
    entry = Entry(str(strangers.peft(tmp_path / "a", strangers.factors(1, 48, 40, 8))), "it")
    found = measuring.tail(entry, strangers.QUERY.format(0), 0, draws=1050)
    assert (found["shape"], found["draws"]) == ([48, 40], 1050)
    for key in ("k90", "low_25"):
        assert found[key]["tests"] == 50
        assert found[key]["below_05"] <= 0.2 and found[key]["ks"] > 1e-4
        assert abs(found[key]["skew"]) < 1.5
