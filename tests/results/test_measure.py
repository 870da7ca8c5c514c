"""Rows that `python -m results.measure` reads from runs and reports go below those of results/."""

import csv
import json
from pathlib import Path

import pytest

from results import measure

RESULTS = Path(measure.__file__).parent
SOURCE = {
    "command": "zoo fit --config dct_half.yaml --trainer.default_root_dir /home/somebody/runs",
    "device": "X",
    "threads": 2,
    "date": "2026-11-29T12:00:00+00:00",
}
POINT = {"transform": "dct", "order": "magnitude", "budget": 0.5, "mean": 0.5, "difference": -0.1}
REPORTS = {
    "table": (
        "run/version_0/summary.json",
        "glue.csv",
        {
            **dict.fromkeys(("data", "parameterization"), "x"),
            **dict.fromkeys(("steps", "seed", "lr", "trainable"), 1),
            **dict.fromkeys(("score", "best", "loss", "stable_rank", "seconds"), 0.5),
        },
    ),
    "exponents": (
        "coordinates.json",
        "exponents.csv",
        {
            "optimizer": {"name": "muon", "muon_scale": "spectral"},
            "widths": [64, 1024],
            "slopes": [
                {
                    "along": "width",
                    "parameterization": "DCT, 64x2",
                    "measure": "gradient",
                    "group": "layers",
                    "slope": 0.5,
                    "interval": None,
                }
            ],
        },
    ),
    "analysis": (
        "analysis.json",
        "analysis.csv",
        {
            "groups": [
                {
                    "group": "g",
                    "runs": ["a", "b"],
                    "verdicts": {"dct": {"p": 0.01, "shuffled_p": 1.0}},
                    "spectra": {
                        "dct": dict.fromkeys(
                            ("k90", "low_25"),
                            {"mean": 0.3, "sd": 0.1, "null": 0.2, "null_sd": None},
                        )
                    },
                    "stable_rank": {"mean": 1.5},
                }
            ]
        },
    ),
    "mask": (
        "mask.json",
        "mask.csv",
        {
            "groups": [
                {
                    "group": "g",
                    "n": 2,
                    "metric": "accuracy",
                    "points": [{**POINT, "sd": None, "p": 0.1, "p_holm": 0.2}],
                }
            ],
            "runs": [
                {
                    "group": "g",
                    "points": [{"bytes": {"values": 3, "places": 4}}],
                    "bytes": {"trained": 9},
                }
            ],
        },
    ),
}


@pytest.mark.parametrize("name", REPORTS)
def test_rows_go_below_those_that_there_are(tmp_path, monkeypatch, capsys, name):
    file, table, report = REPORTS[name]
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(json.dumps({**report, **SOURCE}))
    monkeypatch.setattr(measure, "commit", lambda: "abc+")
    measure.main([name, str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (RESULTS / table).read_text().splitlines()[0]
    (row,) = csv.DictReader(lines)
    assert row["command"] == "zoo fit --config dct_half.yaml --trainer.default_root_dir runs"
    assert (row["commit"], row["date"], row["device"]) == ("abc+", "2026-11-29", "X, 2 threads")


def test_rows_say_what_measured_them(monkeypatch, capsys):
    monkeypatch.setattr(measure, "commit", lambda: None)
    measure.print_rows([{"a": 1}, {"a": 2}], "python -m results.measure x")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a,command,commit,device,date"
    assert [line.split(",")[:3] for line in lines[1:]] == [
        [a, "python -m results.measure x", ""] for a in "12"
    ]
