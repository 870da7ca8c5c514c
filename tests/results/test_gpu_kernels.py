"""`results.gpu.kernels`: each case is a row whatever becomes of it, and what does not agree is
counted at the end.
"""

import contextlib
import csv
import gc
import itertools
import math
import time
import weakref
from unittest.mock import Mock

import pytest
import torch

pytest.importorskip("triton")

from results.gpu import PARTS, kernels
from results.gpu.frame.clock import captured
from results.gpu.frame.compiling import compile_all
from results.gpu.frame.rows import Last, Table
from results.gpu.frame.setting import Setting
from results.gpu.kernels import Check
from zoo.bases.kernels import cases, row_cases

SOURCE = {"command": "bash results/gpu.sh", "commit": "abc", "device": "X", "date": "d"}


def raises(error):
    raise error


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Measure cases that are functions: what is raised, and the rows."""

    def run(*errors, seconds=60.0, small=True, prepare=None):
        found = [
            Check("k", f"case {i}", torch.float32, error, prepare) for i, error in enumerate(errors)
        ]
        monkeypatch.setattr(kernels, "checks", lambda setting: found)
        setting = Setting("cpu", small, time.time() + seconds, str(tmp_path), None, SOURCE)
        part, path, said = PARTS["kernels"], tmp_path / "kernels.csv", ""
        try:
            kernels.measure(setting, Table(path, part.case, part.measured, SOURCE))
        except Exception as error:
            said = str(error)
        return said, list(csv.DictReader(path.read_text().splitlines()))

    return run


def test_all_that_agree(measured):
    said, rows = measured(lambda: (1e-7, 1e-5), lambda: (1e-5, 1e-5))
    assert not said and [row["agrees"] for row in rows] == ["True", "True"]
    assert kernels.lines(rows)[0] == "2 of 2 cases agree with float64"


@pytest.mark.parametrize("error", [2e-5, math.inf, math.nan])
def test_one_that_does_not_agree_fails_the_part_after_all_rows(measured, error):
    said, rows = measured(lambda: (error, 1e-5), lambda: (1e-7, 1e-5))
    assert [row["agrees"] for row in rows] == ["False", "True"]
    assert said == "1 of 2 cases do not agree, the first being k case 0 float32"
    assert any(line.startswith("not: k case 0") for line in kernels.lines(rows))


def test_an_error_is_a_row_and_the_next_case_runs(measured):
    said, rows = measured(lambda: raises(ValueError("first\nsecond")), lambda: (1e-7, 1e-5))
    assert [row["agrees"] for row in rows] == ["False", "True"] and "1 of 2" in said
    assert rows[0]["note"] == "ValueError: first"


def test_an_error_that_poisons_the_device_is_the_last_row(measured, monkeypatch):
    """A second run goes on after it."""
    monkeypatch.setattr(kernels, "note", lambda error, device: Last(error))
    errors = (
        lambda: raises(RuntimeError("CUDA error: an illegal memory access")),
        lambda: (1e-7, 1e-5),
    )
    said, rows = measured(*errors)
    assert said == "CUDA error: an illegal memory access" and [row["agrees"] for row in rows] == [
        "False"
    ]
    said, rows = measured(*errors)
    assert said.startswith("1 of 2") and [row["agrees"] for row in rows] == ["False", "True"]


def test_it_ends_in_time(measured, capsys):
    said, rows = measured(*[lambda: (1e-7, 1e-5)] * 3, seconds=1.0)
    assert not said and not rows and "no time was left for 3 of 3 cases" in capsys.readouterr().err


def test_a_replay_holds_what_it_reads(monkeypatch):
    """And nothing is collected while a graph is captured, which what is let go of may end."""

    class Graph:
        def replay(self):
            replayed.append(0)

    class Thing:
        def call(self):
            collecting.append(gc.isenabled())

    replayed, collecting, thing = [], [], Thing()
    stands = {"Stream": Mock, "current_stream": Mock, "CUDAGraph": Graph}
    for name in ("stream", "graph"):
        stands[name] = lambda *rest: contextlib.nullcontext()
    for name, value in stands.items():
        monkeypatch.setattr(torch.cuda, name, value)
    replay, alive = captured(thing.call, warmup=1), weakref.ref(thing)
    del thing
    replay()
    assert (
        alive() is not None and collecting == [True, False] and gc.isenabled() and replayed == [0]
    )


def test_a_capture_that_fails_says_why_and_leaves_its_stream(monkeypatch):
    """PyTorch's context does neither: it raises at its end, where it goes back to the stream that
    was.
    """

    @contextlib.contextmanager
    def graph(of):
        try:
            yield
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    main, back = Mock(), []
    stands = {"Stream": Mock, "current_stream": lambda: main, "CUDAGraph": Mock, "graph": graph}
    stands |= {"set_stream": back.append, "stream": lambda stream: contextlib.nullcontext()}
    for name, value in stands.items():
        monkeypatch.setattr(torch.cuda, name, value)
    with pytest.raises(RuntimeError, match="^read back$"):
        captured(lambda: raises(RuntimeError("read back")), warmup=0)
    assert back == [main] and gc.isenabled()


def test_what_torch_compiles_comes_last():
    found = kernels.checks(Setting("cuda", False, 0.0, "", None, SOURCE))
    late = ["compiled" in check.kernel for check in found]
    assert late == sorted(late) and 0 < sum(late) < len(late)


def test_launchers_are_made_with_kernels():
    """In the same threads: each is a run of the C compiler."""

    class Kernel:
        @property
        def run(self):
            made.append(0)

    made = []
    compile_all(
        [lambda: [Kernel(), Kernel()], lambda: None, lambda: raises(OSError()), lambda: [Kernel()]]
    )
    assert len(made) == 3


def test_what_is_to_be_compiled_is_compiled_first(measured):
    """In threads, on a GPU; one that fails is said by its case alone."""
    seen = []
    cases = [lambda: (1e-7, float(len(seen)))] * 3
    said, _ = measured(*cases, small=False, prepare=lambda: raises(OSError(seen.append(0))))
    assert not said and len(seen) == 3


def test_a_device_runs_every_case_in_every_dtype():
    """The edges and large sizes of both kernels, and the layer, eager, captured and compiled."""
    found = kernels.checks(Setting("cuda", False, 0.0, "", None, SOURCE))
    keys = [tuple(check.key.values()) for check in found]
    assert len(keys) == len(set(keys))
    for kernel, module in (("block_linear", cases), ("row_linear", row_cases)):
        for case, dtype in itertools.product(
            [*module.CASES, *module.LARGE], ("float32", "bfloat16", "float16")
        ):
            own = f"torch.{dtype}" == str(case.coef_dtype)
            assert own or (kernel, str(case), dtype) in keys
    ways = ("BlockDCT", "BlockDCT, captured", "BlockDCT, compiled", "block_linear, compiled")
    for kernel, dtype in itertools.product(ways, ("float32", "bfloat16", "float16")):
        assert any(key[0] == kernel and key[2] == dtype for key in keys)
