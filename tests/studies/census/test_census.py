"""`zoo census` as a user meets it: six small adapters, two of them hostile."""

import csv
import io
import json
from pathlib import Path

import html_reader
import strangers

from zoo.__main__ import main
from zoo.studies.census import summary

SCRIPT, FORMULA = "<script>alert(1)<script>", "=cmd|' -C calc'!A0"
for_tails = summary.for_tails


def rows(name):
    return list(csv.DictReader(io.StringIO(Path("out", name).read_text(), newline="")))


def test_six_adapters_two_of_them_hostile(place, capsys, monkeypatch):
    # One matrix' null is drawn 2000 times, and not five: each takes a process, three seconds.
    monkeypatch.setattr(
        "zoo.studies.census.taking.for_tails", lambda adapters: for_tails(adapters, 1)
    )
    made = place / "made-by-a-pickle"
    strangers.peft(place / FORMULA, seed=1)
    strangers.peft_binary(place / "binary", seed=2)
    strangers.loralib(place / "lib" / "lora.bin", seed=3)
    strangers.own(place / "own", seed=4)
    strangers.pickled(place / SCRIPT, made)
    strangers.many_tensors(place / "many")
    words = ["lib/lora.bin", "binary", "own", SCRIPT, "many"]
    Path("list.txt").write_text("\n".join([FORMULA, "# more", "", *words]))
    argv = ["census", "list.txt", "--out", "out", "--draws", "5", "--transform", "dct,haar"]
    assert main([*argv, "--jobs", "2"]) == 0
    assert not made.exists()

    printed = capsys.readouterr().out
    report = printed[printed.index("\nAdapters") :]  # above it, a line for each as it is done
    assert max(map(len, report.splitlines())) <= 80
    assert "4 adapters analysed, of 4 authors; matrices: 8" in report
    assert "(5 of 5, 0 min left)" in printed

    data = json.loads(Path("out/census.json").read_text())
    assert data["command"].startswith("zoo census list.txt --out out")
    assert data["summary"]["counts"] == {"analysed": 4, "unreadable": 1, "too large": 1}
    status = [(each["entry"]["name"], each["status"]) for each in data["adapters"]]
    assert [name for name, _ in status] == [FORMULA, *words]
    assert [word for _, word in status] == [*["analysed"] * 4, "unreadable", "too large"]
    assert [row["transform"] for row in data["summary"]["structure"]] == ["dct", "haar"]
    assert {row["adapters"] for row in data["summary"]["structure"]} == {4}
    assert [tail["draws"] for tail in data["tails"]] == [2000]

    matrices = rows("census.csv")
    assert len(matrices) == 8
    assert {(row["rows"], row["columns"], row["rank"]) for row in matrices} == {
        ("24", "20", "4"),
        ("24", "24", "4"),
    }
    assert all(0 < float(row["dct_k90"]) < 1 for row in matrices)
    adapters = rows("adapters.csv")
    assert [row["status"] for row in adapters] == [word for _, word in status]
    assert adapters[0]["adapter"] == "'" + FORMULA
    for file in ("census.csv", "adapters.csv"):
        assert not any(cell.startswith("=") for row in rows(file) for cell in row.values())

    text = Path("out/census.html").read_text()
    page = html_reader.read(text)
    assert "script" not in page.tags and "<script>alert" not in text
    assert SCRIPT in "".join(page.words)
    assert {path.suffix for path in Path("out/figures").iterdir()} == {".png", ".svg"}
    assert Path("out/adapters.jsonl").read_text().count("\n[") == 5 + 1  # and the tail
