"""`zoo.analyze` from Python: what the command says and writes, and what numpy and scipy find."""

import copy
import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from networks import Net, adapted, assert_same, disturb, state_of
from scipy.fft import dctn
from torch import nn

from zoo.__main__ import main
from zoo.errors import UserError
from zoo.layers.convert import zoo_layers
from zoo.parameterizations import DCT, LoRA
from zoo.studies.analyze import frames
from zoo.studies.analyze.public import analyze

FRAMES = (
    "runs",
    "matrices",
    "spectra",
    "averages",
    "singular_values",
    "curves",
    "correlations",
    "verdicts",
    "groups",
    "group_spectra",
)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return adapted(functools.partial(DCT, ratio=0.6))


@pytest.fixture(scope="module")
def found(network):
    return analyze(network, null=5, transform=["dct", "haar"])


# ---- The same as the command ---------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
def test_it_is_what_the_command_prints_and_writes(seeds, capsys):
    options = {"null": 5, "transform": ["dct", "haar"], "layers": ["query"]}
    found = analyze(seeds, **options, out="python")
    line = ["analyze", *seeds, "--null", "5", "--transform", "dct,haar", "--layers", "query"]
    capsys.readouterr()
    assert main([*line, "--out", "command"]) == 0
    end = "\n\nwritten to  command\nlook        command/analysis.html\n"
    assert capsys.readouterr().out == f"{found}{end}"
    told, written = (
        json.loads(Path(p, "analysis.json").read_text()) for p in ("python", "command")
    )
    of_the_call = ("command", "date", "seconds")
    assert {k: v for k, v in told.items() if k not in of_the_call} == {
        k: v for k, v in written.items() if k not in of_the_call
    }
    given = f"{seeds}, layers=['query'], null=5, transform=['dct', 'haar'], out='python'"
    assert told["command"] == f"zoo.analyze({given})"
    for name in FRAMES:  # of the file that the command has written
        pd.testing.assert_frame_equal(getattr(found, name), getattr(frames, name)(written))


@pytest.mark.usefixtures("undrawn")
def test_nothing_is_written_unless_it_is_asked_for(network, place, capsys):
    found = analyze(network, null=5)
    assert list(place.iterdir()) == [] and capsys.readouterr() == ("", "")
    assert found.save("later") == Path("later")
    assert {path.name for path in Path("later").iterdir()} == {
        "analysis.json",
        "analysis.html",
        "figures",
    }
    with pytest.raises(UserError, match="'later' holds an earlier report: give another folder, or"):
        found.save("later")
    found.save("later", force=True)
    Path("later/mine.txt").write_text("mine")
    with pytest.raises(UserError, match="give another folder"):
        found.save("later", force=True)


# ---- Numbers -------------------------------------------------------------------------------------


def test_ranks_and_singular_values_are_those_of_numpy(network, found):
    for row in found.matrices.itertuples():
        w = zoo_layers(network)[row.layer].update().detach().double().numpy()
        s = np.linalg.svd(w, compute_uv=False)
        assert (row.rows, row.columns) == w.shape
        assert row.norm == pytest.approx(np.linalg.norm(w))
        assert row.stable_rank == pytest.approx((s**2).sum() / s[0] ** 2)
        share = s / s.sum()
        assert row.effective_rank == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-5)
        assert row.numerical_rank == len(s)
        mine = found.singular_values[found.singular_values.layer == row.layer]
        assert mine["value"].to_numpy() == pytest.approx(s)
        assert mine["i"].tolist() == list(range(1, len(s) + 1))
    assert found.matrices.block.tolist() == [0, 0, 1, 1]
    assert set(found.matrices.kind) == {"query", "value"}


def test_energies_are_those_of_scipys_transform(network, found):
    spectra = found.spectra[found.spectra["transform"] == "dct"]
    for layer, own in spectra.groupby("layer"):
        measured = own.set_index("measure")["value"]
        w = zoo_layers(network)[layer].update().detach().double().numpy()
        energy = np.sort(dctn(w, norm="ortho").ravel() ** 2)[::-1]
        held = energy.cumsum() / energy.sum()
        for share in (0.5, 0.9, 0.99):
            needed = (np.searchsorted(held, share) + 1) / energy.size
            assert measured[f"k{share * 100:.0f}"] == pytest.approx(needed)
        curve = found.curves[(found.curves.layer == layer) & (found.curves["transform"] == "dct")]
        at = (curve.share * energy.size).round().astype(int).to_numpy()
        expected = np.where(at > 0, held[np.maximum(at, 1) - 1], 0)
        assert curve.magnitude.to_numpy() == pytest.approx(expected, abs=1e-5)
    means = spectra.groupby("measure")["value"].mean()
    averages = found.averages.query("over == 'all' and transform == 'dct'")
    assert averages.set_index("measure")["value"].to_dict() == pytest.approx(means.to_dict())
    of_group = found.group_spectra[found.group_spectra["transform"] == "dct"]
    assert of_group.set_index("measure")["mean"].to_dict() == pytest.approx(means.to_dict())


def test_every_column_has_one_type_and_whole_numbers_stay_whole(found):
    for name in FRAMES:
        kinds = getattr(found, name).dtypes
        numbers = [k for k, kind in kinds.items() if kind == "float64"]
        assert len(getattr(found, name)) > 0 and not any(name.endswith("bytes") for name in numbers)
    assert {*found.matrices.dtypes[["rows", "columns", "numerical_rank"]].astype(str)} == {"int64"}
    assert str(found.matrices.dtypes["block"]) == "Int64"
    assert str(found.verdicts.dtypes["structured"]) == "bool"


def test_a_structured_update_is_found_and_a_random_one_is_not():
    """Low frequencies alone, and Gaussian numbers: the verdict tells them apart."""
    torch.manual_seed(3)
    low = adapted(
        functools.partial(DCT, ratio=0.2, selection="zigzag"), functools.partial(Net, 3, 24)
    )
    plain = adapted(functools.partial(DCT, ratio=1.0), functools.partial(Net, 3, 24))
    verdicts = analyze({"low": low, "plain": plain}, null=10).verdicts
    alone = verdicts[verdicts.run.notna()].set_index("run")
    assert alone.structured.to_dict() == {"low": True, "plain": False}
    assert alone.zeros["low"] == pytest.approx(0.8, abs=0.01) and alone.zeros["plain"] < 0.01


# ---- Networks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [True, False])
def test_a_network_stays_as_it_is(network, mode):
    network = copy.deepcopy(network).train(mode)
    before, drawn = state_of(network), torch.get_rng_state()
    analyze(network, null=5)
    assert_same(before, state_of(network))
    assert torch.equal(drawn, torch.get_rng_state())


def test_names_of_several_networks():
    one, other = adapted(), adapted(functools.partial(LoRA, rank=2))
    found = analyze([one, other], null=5)
    assert found.runs.run.tolist() == ["Net", "Net (2)"]
    assert found.runs.group.tolist() == ["Net / DCT", "Net (2) / LoRA"]
    assert found.data["command"] == "zoo.analyze([Net, Net], null=5)"
    named = analyze({"a": [one, other], "b": one}, null=5)
    assert named.runs[["run", "group"]].values.tolist() == [["a 1", "a"], ["a 2", "a"], ["b", "b"]]
    assert named.groups.n.tolist() == [2, 1]
    assert "\na: 2 runs together\n" in str(named)


def test_a_network_that_was_trained_in_full_beside_the_one_before():
    before = Net()
    after = disturb(copy.deepcopy(before))
    found = analyze(after, before=before, layers="query,value", null=5)
    assert found.runs.what.tolist() == ["dW"]
    assert set(found.matrices.kind) == {"query", "value"}
    expected = (after.blocks[1].query.weight - before.blocks[1].query.weight).norm().item()
    norms = found.matrices.set_index("layer").norm
    assert norms["blocks.1.query"] == pytest.approx(expected)


# ---- Figures and notebooks -----------------------------------------------------------------------


def test_figures_are_drawn_when_they_are_asked_for(found, monkeypatch):
    from matplotlib import pyplot

    assert set(found.figures) == {
        "k90_by_task",
        "cumulative_energy",
        "k90_heatmap",
        "singular_values",
    }
    assert found.figures is found.figures and pyplot.get_fignums() == []
    monkeypatch.setattr("zoo.studies.analyze.figures.analysis_figures", lambda data: 1 / 0)
    other = analyze(adapted(), null=5)
    assert str(other) and len(other.matrices) == 4  # none was drawn
    with pytest.raises(ZeroDivisionError):
        _ = other.figures


# ---- Mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (nn.Linear(3, 3), {}, "'Linear' has no layer that zoo parameterized: adapt it with zoo.ad"),
        ("nowhere", {}, "no file or folder 'nowhere': give a run's folder"),
        (7, {}, "neither a path nor a network: a int; give a run's folder"),
        ([], {}, "there is nothing to look at: give a path or a network"),
        ("network", {"null": 4}, "null must be at least 5, for a standard deviation, got 4"),
        ("network", {"null": 5.5}, "null must be at least 5, for a standard deviation, got 5.5"),
        ("network", {"transform": "dst"}, "transform takes some of dct,fourier,hadamard,haar,rand"),
        ("network", {"transform": []}, "transform takes some of dct,fourier,hadamard,haar,random"),
        ("network", {"layers": "no"}, "layers: 'no' matches no layer; there are: blocks.*.query"),
        ("network", {"layers": [""]}, "layers takes globs with commas between"),
        ("network", {"force": True}, "force replaces an earlier report, and goes with out"),
        ("network", {"out": "full"}, "'full' is there already, and is not overwritten: give anot"),
        (["network"] * 2, {"before": "full"}, None),
        ("both", {"before": "full"}, "before goes with one checkpoint, got 2"),
    ],
)
def test_mistakes_are_one_line(network, place, given, options, message):
    Path("full").mkdir()
    Path("full/mine.txt").write_text("mine")
    given = {"network": network, "both": [network, copy.deepcopy(network)]}.get(str(given), given)
    if message is None:  # the same network twice is one
        given, message = [network, network], "no checkpoint in 'full'"
    before = sorted(place.rglob("*"))
    with pytest.raises(UserError) as error:
        analyze(given, **options)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
    assert "--" not in str(error.value) and sorted(place.rglob("*")) == before


def test_coefficients_that_are_no_numbers_are_refused(network):
    broken = copy.deepcopy(network)
    with torch.no_grad():
        zoo_layers(broken)["blocks.1.value"].parameterization.coef[0] = float("inf")
    with pytest.raises(UserError, match=r"^blocks\.1\.value holds NaN or infinite values in 'Net'"):
        analyze(broken)


# ---- What it imports -----------------------------------------------------------------------------

CODE = """
import sys
from zoo.studies.analyze.public import analyze
from zoo.studies.mask.public import mask
from zoo.studies.report.public import report
heavy = {"torch", "numpy", "scipy", "pandas", "matplotlib", "jinja2", "lightning", "tasks"}
print(sorted(heavy & set(sys.modules)))
import torch
from zoo.layers.convert import convert
from zoo.parameterizations import Dense
net = convert(torch.nn.Sequential(torch.nn.Linear(8, 8)), Dense, ["*"])
analyze(net, null=5), mask(net)
print(sorted({"pandas", "zoo.pages.html", "zoo.pages.style", "tasks"} & set(sys.modules)))
"""


def test_what_is_heavy_is_loaded_when_it_is_used_and_tasks_are_not():
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["[]", "[]"]
