"""What Python's functions take beside peft's is measured, a row an operation, and none twice."""

import csv

import pytest

from results import measure_quantized
from results.measure_api import COLUMNS, OPERATIONS, main, measure

pytest.importorskip("peft")

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 64,
}


def test_every_operation_is_a_row_and_none_is_measured_twice(tmp_path, capsys, recwarn):
    file = tmp_path / "api.csv"
    names = [name for name in OPERATIONS if name not in ("import", "quantized")]
    for operations in (names[:2], names, names):
        words = [str(file), "--operations", ",".join(operations)]
        assert measure(words, str(file), 1, ",".join(operations), SIZES) == 0
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert list(rows[0]) == COLUMNS
    known = [(row["operation"], row["method"]) for row in rows]
    assert len(known) == len(set(known)) == 3 * len(names)
    assert all(float(row["ratio"]) > 0 and row["commit"] for row in rows)
    saved = next(row for row in rows if row["operation"] == "save")
    assert int(saved["zoo_bytes"]) > 4 * int(saved["numbers"])
    assert str(tmp_path) not in saved["quartiles"]


@pytest.mark.slow
def test_every_base_is_held_in_its_bytes_and_no_row_is_measured_twice(tmp_path, monkeypatch):
    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(measure_quantized, "METHODS", ["none", "DCT"])
    monkeypatch.setattr(measure_quantized, "REPETITIONS", 1)
    stack = {"layers": 2, "width": 64, "tokens": 3}
    for _ in range(2):
        assert measure([], str(tmp_path / "api.csv"), 1, "quantized", SIZES, stack) == 0
    (file,) = tmp_path.iterdir()
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert list(rows[0]) == measure_quantized.COLUMNS and len(rows) == 6
    weights = 2 * 64 * 64
    for row in rows:
        known = {"bf16": 2 * weights, "int8": weights, "nf4": weights // 2}[row["base"]]
        assert known <= int(row["bytes"]) <= known * 1.3 + 4096
        assert int(row["numbers"]) == (2 * 16 * 64 if row["method"] == "DCT" else 0)
        assert float(row["mib"]) >= 0 and row["commit"]


def test_a_mistake_is_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "a.csv"), "--operations", "adpt"]) == 2
    assert "adapt" in capsys.readouterr().err and list(tmp_path.iterdir()) == []
