"""The analysis against dense decompositions, and its verdicts against updates of a known nature."""

import numpy as np
import pytest
import torch
from every import thinned

from zoo.bases import TRANSFORMS, transform
from zoo.runs.updates import Source, Update
from zoo.spectrum import GAUSSIAN, spectral_energy
from zoo.studies.analysis import analyze
from zoo.studies.spectra import SPECTRAL_MEASURES, beside_nulls, gaussian_spectrum
from zoo.studies.verdicts import LEVEL, verdicts

NAMES = [
    "encoder.layer.0.query",
    "encoder.layer.0.value",
    "encoder.layer.1.query",
    "encoder.layer.1.value",
]


def low_rank(m=48, n=40, r=3):
    return Update(torch.randn(m, r), torch.randn(r, n))


def planted(m=64, n=64, r=4, share=1.0):
    """An update, partly of smooth singular vectors: random in the lowest eighth of the frequencies,
    0 in the others.
    """

    def smooth(n):
        c = torch.zeros(n // 2 + 1, r, dtype=torch.cfloat)
        c[: n // 8] = torch.randn(n // 8, r, dtype=torch.cfloat)
        return torch.fft.irfft(c, n=n, dim=0)

    low, rough = smooth(m) @ smooth(n).mT, torch.randn(m, r) @ torch.randn(r, n)
    return share * low / low.norm() + (1 - share) * rough / rough.norm()


def rotated(weight):
    m, n = weight.shape
    q, _ = torch.linalg.qr(torch.randn(m, m, dtype=torch.float64))
    p, _ = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))
    return (q @ weight.double() @ p).float()


def source(updates, name="run", group="group", **facts):
    return Source(path=name, name=name, group=group, what="dW", updates=updates, notes=[], **facts)


def verdict(weight, draws=20, seed=0):
    return analyze([source({"layer": Update(weight)})], draws=draws, seed=seed)["runs"][0][
        "verdicts"
    ]["dct"]


@pytest.mark.parametrize("key", TRANSFORMS)
def test_factors_and_their_product_are_measured_alike(key):
    update = low_rank()
    product = Update(update.matrix())
    a, b = (beside_nulls([each], [key], 5)[0][key] for each in (update, product))
    expected = spectral_energy(
        transform(key).forward(update.matrix()), transform(key).order(*update.shape)
    )
    assert a.values.tolist() == pytest.approx(
        [expected[m] for m in SPECTRAL_MEASURES], abs=2 / 1920
    )
    assert b.values.tolist() == pytest.approx(a.values.tolist(), abs=2 / 1920)
    assert a.curves["magnitude"] == pytest.approx(b.curves["magnitude"], abs=1e-4)


@pytest.mark.parametrize("key", thinned(TRANSFORMS, 3))
def test_the_null_is_a_rotation(key):
    """Its draws are as many other matrices with the same singular values: the same means as
    rotating dW itself.
    """
    update = planted(24, 24)
    found = torch.from_numpy(beside_nulls([Update(update)], [key], 200)[0][key].null)
    t = transform(key)
    direct = torch.tensor(
        [
            list(spectral_energy(t.forward(rotated(update)), t.order(24, 24)).values())
            for _ in range(200)
        ],
        dtype=torch.float64,
    )
    error = (found.var(0) / 200 + direct.var(0) / 200).sqrt()
    assert ((found.mean(0) - direct.mean(0)).abs() / error).max().item() < 4
    assert (found.std(0) / direct.std(0)).log().abs().max().item() < 0.35


def test_a_planted_update_is_structured_and_rotated_it_is_not():
    weight = planted(64, 64, share=0.5)
    found = verdict(weight)
    assert found["structured"] and found["p"] < 0.01
    assert found["words"].startswith(
        "Frequency structure beyond what the singular values force: energy in fewer"
    )
    same = verdict(rotated(weight))
    assert not same["structured"]
    assert same["words"].startswith(
        "No frequency structure beyond what the singular values force (p ="
    )


def test_shuffled_rows_and_columns_tell_frequency_from_what_all_rows_share():
    """Rows with a common part are no matter of order, and smooth ones are; the rotation null has
    neither.
    """
    common = (1 + torch.randn(64, 4)) @ torch.randn(4, 64)
    found, smooth = verdict(common), verdict(planted(64, 64, share=0.5))
    assert (found["structured"], found["ordered"]) == (True, False)
    assert found["words"].startswith(
        "Structure beyond what the singular values force, but no sign that it is one of"
    )
    assert (smooth["structured"], smooth["ordered"]) == (True, True)
    assert smooth["words"].startswith("Frequency structure beyond")


def test_shuffled_is_a_permutation():
    update = low_rank(12, 10)
    found = torch.from_numpy(beside_nulls([update], ["dct"], 300)[0]["dct"].shuffled)
    t, dense = transform("dct"), update.matrix()
    direct = torch.tensor(
        [
            list(
                spectral_energy(
                    t.forward(dense[torch.randperm(12)][:, torch.randperm(10)])
                ).values()
            )
            for _ in range(300)
        ],
        dtype=torch.float64,
    )
    error = (found.var(0) / 300 + direct.var(0) / 300).sqrt()
    assert ((found.mean(0) - direct.mean(0)).abs() / error).max().item() < 4


def test_factors_and_their_product_are_shuffled_alike():
    """Rows and columns of both, in the same order for one seed."""
    update = low_rank(24, 20)
    a, b = (
        beside_nulls([each], ["dct"], 4)[0]["dct"].shuffled
        for each in (update, Update(update.matrix()))
    )
    assert np.allclose(a, b, atol=2 / 480)


def test_the_seed_is_that_of_both_nulls():
    """And of an analysis, whose values are the same for every seed."""
    update = low_rank(24, 20)
    first, same, other = (
        analyze([source({"layer": update})], draws=5, seed=seed)["runs"][0] for seed in (0, 0, 1)
    )
    assert first == same
    a, b = (run["matrices"][0]["spectra"]["dct"]["low_25"] for run in (first, other))
    assert a["value"] == b["value"]
    assert a["null"] != b["null"] and a["shuffled"] != b["shuffled"]


def test_curves_are_those_of_a_dense_transform():
    """At 0, 1, ..., 100 % of the coefficients, largest first and lowest frequencies first; the
    null's are its mean.
    """
    weight = planted(20, 15, 2)  # 300 coefficients: three to a percent
    found = beside_nulls([Update(weight)], ["dct"], 60)[0]["dct"]
    t = transform("dct")

    def both(w):
        energy = t.forward(w).flatten().double().square() / w.double().square().sum()
        ordered = energy.sort(descending=True).values, energy[t.order(20, 15)]
        return [torch.cat([torch.zeros(1), line.cumsum(0)[2::3]]) for line in ordered]

    nulls = [both(rotated(weight)) for _ in range(60)]
    for i, name in enumerate(("magnitude", "frequency")):
        assert found.curves[name] == pytest.approx(both(weight)[i].tolist(), abs=2e-5)
        mean = torch.stack([null[i] for null in nulls]).mean(0)
        assert found.curves[f"null_{name}"] == pytest.approx(mean.tolist(), abs=0.1)


@pytest.mark.slow
def test_false_positive_rate():
    """Of 200 rotated planted updates, 5 +- 3 % are called structured."""
    weight, found = planted(48, 48), 0
    for i in range(200):
        found += verdict(rotated(weight), seed=i)["structured"]
    assert 0.02 <= found / 200 <= 0.08


@pytest.mark.slow
def test_false_positive_rate_of_layers_and_runs_that_share_a_direction():
    """A random direction that all have, as those of the residual stream, moves all alike, and their
    nulls too.
    """
    found = 0
    for i in range(60):
        common = torch.randn(1, 20)
        runs = [
            source(
                {name: Update(torch.randn(24, 1) @ common) for name in NAMES[:2]},
                f"s{seed}",
                seed=seed,
            )
            for seed in range(2)
        ]
        found += analyze(runs, draws=20, seed=i)["groups"][0]["verdicts"]["dct"]["structured"]
    assert found <= 7


def test_a_draw_turns_all_matrices_alike():
    """What two have in common stays in common: their nulls are those of one matrix."""
    update = low_rank(12, 10)
    one, other, third = beside_nulls(
        [update, Update(2 * update.matrix()), low_rank(12, 10)], ["dct"], 6
    )
    for field in ("null", "shuffled"):
        a, b, c = (getattr(found["dct"], field) for found in (one, other, third))
        assert np.allclose(a, b, atol=1e-6)
        assert not np.allclose(a, c, atol=1e-2)
        assert a.std(0).max() > 0.01  # draws differ


def neutral():
    fields = {
        "value": 0.4,
        "null": 0.4,
        "sd": 0.01,
        "z": 0.0,
        "p": 0.5,
        "shuffled": 0.4,
        "shuffled_p": 0.5,
    }
    return {measure: dict(fields) for measure in SPECTRAL_MEASURES}


def test_singular_values_explain_a_share_of_the_distance_to_a_gaussian():
    values = neutral()
    values["k90"] |= {"value": GAUSSIAN["k90"] - 0.10, "null": GAUSSIAN["k90"] - 0.08, "p": 0.01}
    found = verdicts({"dct": values}, [{"dct": values}])["dct"]
    assert "the singular values alone explain 80 % of the distance" in found["words"]
    assert found["p"] == pytest.approx(0.02)  # Holm for two measures
    assert found["structured"] == (LEVEL > 0.02)
    # Less than the singular values force: no share.
    values["k90"] |= {"value": GAUSSIAN["k90"] - 0.05}
    assert "of its distance" not in verdicts({"dct": values}, [])["dct"]["words"]


def test_verdicts_are_corrected_for_the_number_of_transforms():
    values = neutral()
    strong = {**values, "low_25": {**values["low_25"], "p": 0.004}}
    found = verdicts({"dct": strong, "haar": values, "fourier": values}, [])
    assert found["dct"]["p"] == pytest.approx(0.024)  # three transforms, two measures
    assert [found[key]["structured"] for key in ("dct", "haar", "fourier")] == [True, False, False]
    shuffled = {**strong, "low_25": {**strong["low_25"], "shuffled_p": 0.01}}
    found = verdicts({"dct": shuffled, "haar": values, "fourier": values}, [])["dct"]
    assert (found["shuffled_p"], found["structured"], found["ordered"]) == (
        pytest.approx(0.06),
        True,
        False,
    )


@pytest.mark.parametrize(
    ("measure", "value", "null", "shuffled", "ordered", "what"),
    [
        ("k90", 0.30, 0.40, 0.40, True, "energy in fewer coefficients"),
        ("k90", 0.50, 0.40, 0.40, True, "energy in more coefficients"),
        ("low_25", 0.30, 0.25, 0.25, True, "more energy in low frequencies"),
        ("low_25", 0.20, 0.25, 0.25, True, "less energy in low frequencies"),
        # Shuffling adds to it.
        ("low_25", 0.30, 0.25, 0.35, False, "more energy in low frequencies"),
    ],
)
def test_a_verdict_says_which_measure_decides_and_in_which_direction(
    measure, value, null, shuffled, ordered, what
):
    values = neutral()
    values[measure] |= {
        "value": value,
        "null": null,
        "p": 0.001,
        "shuffled": shuffled,
        "shuffled_p": 0.001,
    }
    other = "k90" if measure == "low_25" else "low_25"
    values[other] |= {"shuffled_p": 0.0001}  # of a measure that decides nothing
    found = verdicts({"dct": values}, [])["dct"]
    assert found["ordered"] == ordered
    assert f"{what} (p = 0.002)" in found["words"]


def test_coefficients_that_were_left_out_are_structure_by_construction():
    plane = torch.randn(32, 32) * (torch.rand(32, 32) < 0.5)
    found = verdict(transform("dct").inverse(plane, (32, 32)))
    assert found["zeros"] == pytest.approx((plane == 0).double().mean().item(), abs=0.01)
    assert found["words"].endswith("left them out, and that is structure by construction.")
    assert verdict(low_rank(32, 32, 1).matrix())["zeros"] < 0.02


def test_matrices_are_counted_after_correction():
    """Holm over matrices and measures: of five, 0.004 stays below 0.05 times ten and 0.006 does
    not.
    """

    def matrix(p):
        return {"dct": neutral() | {"k90": neutral()["k90"] | {"p": p}}}

    for ps, count in (
        [(0.004, 0.5, 0.5, 0.5, 0.5), 1],
        [(0.006, 0.5, 0.5, 0.5, 0.5), 0],
        [(0.004, 0.005, 1, 1, 1), 2],
    ):
        found = verdicts({"dct": neutral()}, [matrix(p) for p in ps])["dct"]
        assert found["matrices"] == count
        assert (
            f"Of 5 matrices, {count} {'is' if count == 1 else 'are'} structured by"
            in found["words"]
        )


def test_averages_and_their_null():
    updates = {name: low_rank() for name in NAMES}
    run = analyze([source(updates)], ["dct", "haar"], draws=6)["runs"][0]
    by_layer = {matrix["layer"]: matrix for matrix in run["matrices"]}
    for what, key, members in [
        ("run", "all", NAMES),
        ("block", "1", NAMES[2:]),
        ("kind", "value", NAMES[1::2]),
    ]:
        average = run["averages"][what][key]
        assert average["matrices"] == len(members)
        for field in ("stable_rank", "effective_rank", "numerical_rank"):
            assert average[field] == pytest.approx(
                np.mean([by_layer[name][field] for name in members])
            )
        for name in ("dct", "haar"):
            for measure in SPECTRAL_MEASURES:
                same = [by_layer[layer]["spectra"][name][measure] for layer in members]
                found = average["spectra"][name][measure]
                assert found["value"] == pytest.approx(np.mean([one["value"] for one in same]))
                assert found["null"] == pytest.approx(np.mean([one["null"] for one in same]))
                # independent draws: the mean of n varies less than one
                assert found["sd"] < max(one["sd"] for one in same)


def test_matrix_ranks_and_singular_values_are_those_of_a_dense_decomposition():
    update = low_rank()
    matrix = analyze([source({"blocks.3.attn.qkv": update})], draws=5)["runs"][0]["matrices"][0]
    s = torch.linalg.svdvals(update.matrix().double())
    assert (matrix["block"], matrix["kind"], matrix["shape"]) == (3, "attn.qkv", [48, 40])
    assert matrix["singular_values"] == pytest.approx(s[:3].tolist(), rel=1e-5)
    assert matrix["numerical_rank"] == 3
    assert matrix["stable_rank"] == pytest.approx((s.square().sum() / s[0] ** 2).item(), rel=1e-5)
    assert matrix["norm"] == pytest.approx(update.matrix().norm().item(), rel=1e-5)
    gaussian = matrix["gaussian_singular_values"]["mean"]
    assert sum(v**2 for v in gaussian) == pytest.approx(matrix["norm"] ** 2, rel=0.05)
    assert len(gaussian) == 3
    unit = gaussian_spectrum((48, 40), 3, 20, 0)[1]
    assert matrix["gaussian_singular_values"]["sd"] == pytest.approx(
        [matrix["norm"] * v for v in unit]
    )


@pytest.mark.parametrize("rank", [4, 30])
def test_gaussian_spectrum(rank):
    mean, sd = gaussian_spectrum((40, 30), rank, 100, 0)
    a = (
        torch.randn(400, 40, 30)
        if rank == 30
        else torch.randn(400, 40, 4) @ torch.randn(400, 4, 30)
    )
    s = torch.linalg.svdvals(a)
    s /= s.norm(dim=1, keepdim=True)
    assert mean == pytest.approx(s.mean(0)[:rank].tolist(), rel=0.03)
    assert sd == pytest.approx(s.std(0)[:rank].tolist(), rel=0.5)


def test_correlation_of_energies_is_its_definition():
    """sigma_i^2 against the largest squared coefficients, as many as there are singular values."""
    update = low_rank(r=6)
    found = analyze([source({"layer": update})], draws=5)["runs"][0]["correlation"]["dct"][
        "energies"
    ]
    s = torch.linalg.svdvals(update.matrix().double())[:6].square().numpy()
    c = (
        transform("dct")
        .forward(update.matrix())
        .flatten()
        .double()
        .square()
        .sort(descending=True)
        .values[:6]
        .numpy()
    )
    assert found["pearson"]["value"] == pytest.approx(np.corrcoef(s, c)[0, 1], abs=1e-4)
    assert found["spearman"]["value"] == pytest.approx(1)  # of two sorted lists, by construction


def test_correlations_across_matrices():
    updates = {f"layer.{i}.query": low_rank(r=i + 1) for i in range(6)}
    run = analyze([source(updates)], draws=8)["runs"][0]
    k90 = [matrix["spectra"]["dct"]["k90"]["value"] for matrix in run["matrices"]]
    ranks = [matrix["stable_rank"] for matrix in run["matrices"]]
    found = run["correlation"]["dct"]
    assert found["k90_stable_rank"]["pearson"]["value"] == pytest.approx(
        np.corrcoef(k90, ranks)[0, 1]
    )
    pearson = found["k90_stable_rank"]["pearson"]
    assert pearson["null"] == pytest.approx(pearson["value"], abs=0.2)
    # The rank grows with the block, and so does k90.
    assert found["k90_block"]["spearman"]["value"] > 0.8
    effective = [matrix["effective_rank"] for matrix in run["matrices"]]
    value = found["k90_effective_rank"]["pearson"]["value"]
    assert value == pytest.approx(np.corrcoef(k90, effective)[0, 1])
    # the null is that of rotations: their k90, draw by draw, and the same ranks
    spectra = [found["dct"] for found in beside_nulls(list(updates.values()), ["dct"], 8)]
    nulls = np.stack([one.null for one in spectra])
    drawn = [
        np.corrcoef(draw, ranks)[0, 1] for draw in nulls[:, :, SPECTRAL_MEASURES.index("k90")].T
    ]
    assert (pearson["null"], pearson["null_sd"]) == pytest.approx(
        (np.mean(drawn), np.std(drawn, ddof=1))
    )
    for i, name in enumerate(("pearson", "spearman")):  # rank 1 and 2 have none
        assert found["energies"][name]["null"] == pytest.approx(
            np.mean([one.null_energies[:, i] for one in spectra[2:]])
        )
        assert found["energies"][name]["n"] == 4


def test_runs_of_one_group_are_averaged():
    runs = [
        source({"layer.0.query": low_rank()}, f"s{i}", score=0.2 + 0.1 * i, loss=None, seed=i)
        for i in range(3)
    ]
    other = source({"layer.0.query": low_rank()}, "other", "elsewhere")
    found = analyze([*runs, other], draws=5)
    assert [group["runs"] for group in found["groups"]] == [["s0", "s1", "s2"], ["other"]]
    group = found["groups"][0]
    values = [
        run["averages"]["run"]["all"]["spectra"]["dct"]["k90"]["value"] for run in found["runs"][:3]
    ]
    assert group["spectra"]["dct"]["k90"]["mean"] == pytest.approx(np.mean(values))
    assert group["spectra"]["dct"]["k90"]["sd"] == pytest.approx(np.std(values, ddof=1))
    beside = [run["averages"]["run"]["all"]["spectra"]["dct"]["k90"] for run in found["runs"][:3]]
    for field, of_runs in (("null", "null"), ("null_sd", "sd")):
        assert group["spectra"]["dct"]["k90"][field] == pytest.approx(
            np.mean([one[of_runs] for one in beside])
        )
    ranks = [run["averages"]["run"]["all"]["effective_rank"] for run in found["runs"][:3]]
    assert group["effective_rank"]["mean"] == pytest.approx(np.mean(ranks))
    assert group["effective_rank"]["sd"] == pytest.approx(np.std(ranks, ddof=1))
    assert (group["score"]["mean"], group["loss"]) == (pytest.approx(0.3), None)
    assert found["groups"][1]["spectra"]["dct"]["k90"]["sd"] is None


def test_runs_of_one_group_are_judged_together():
    """What hardly a run shows alone, many do."""
    runs = [
        source({"layer": Update(planted(32, 32, 2, share=0.25))}, f"s{i}", seed=i)
        for i in range(12)
    ]
    found = analyze(runs, draws=20)
    alone = [run["verdicts"]["dct"]["p"] for run in found["runs"]]
    assert found["groups"][0]["verdicts"]["dct"]["p"] < 0.001
    assert np.median(alone) > 0.05
    assert "Of 12 matrices" in found["groups"][0]["verdicts"]["dct"]["words"]


def test_an_analysis_is_a_function_of_its_input():
    updates = {"a.0.query": low_rank(), "a.1.query": low_rank()}
    first = analyze([source(updates)], list(TRANSFORMS), draws=5)
    backwards = analyze([source(dict(reversed(updates.items())))], list(TRANSFORMS), draws=5)
    by_layer = {matrix["layer"]: matrix for matrix in backwards["runs"][0]["matrices"]}
    assert all(by_layer[matrix["layer"]] == matrix for matrix in first["runs"][0]["matrices"])


def test_factors_never_meet_a_dense_decomposition(monkeypatch):
    real = {name: getattr(torch.linalg, name) for name in ("svd", "svdvals")}
    for name, function in real.items():

        def small(a, *args, function=function, **kwargs):
            assert min(a.shape[-2:]) <= 8
            return function(a, *args, **kwargs)

        monkeypatch.setattr(torch.linalg, name, small)
    (spectra,) = beside_nulls([Update(torch.randn(768, 8), torch.randn(8, 768))], ["dct"], 2)
    assert spectra["dct"].values[SPECTRAL_MEASURES.index("k90")].item() == pytest.approx(
        0.41, abs=0.01
    )
