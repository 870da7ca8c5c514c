"""A real sweep, killed or stopped in the middle and started again: nothing is lost, repeated or run
twice at a time.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from zoo.__main__ import main

pytest.importorskip("ray.tune")


def wait(what, seconds=600):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.05)
    return found


def processes(folder):
    """Those that train in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "fit" in words and any(str(folder) in word for word in words):
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_sweep_killed_in_the_middle_goes_on(place, small):
    options = {
        **dict(word.removeprefix("--").split("=") for word in small),
        "checkpoint.every_n_steps": 20,
        "trainer.max_steps": 200,
        "trainer.val_check_interval": 50,
    }
    sweep = {
        "config": "dct_half.yaml",
        "options": options,
        "grid": {"model.parameterization": ["DCT"]},
        "search": {"model.optimizer.lr": [0.003, 0.01]},
        "seeds": [1],
    }
    (place / "s.yaml").write_text(yaml.safe_dump(sweep))
    out = place / "runs" / "s"
    command = [sys.executable, "-P", "-m", "zoo", "sweep", "--config", "s.yaml"]

    def halfway():
        done = {path.parents[1].name for path in out.glob("*/version_0/summary.json")}
        files = out.glob("*/version_0/checkpoints/last.resume_*.pt")
        begun = {
            path.parents[2].name for path in files if 20 <= int(path.stem.rpartition("_")[2]) <= 100
        }
        return done and begun - done

    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as first:
        try:
            wait(lambda: first.poll() is not None or halfway())
        finally:
            first.send_signal(signal.SIGKILL)
        assert "trials" in first.stdout.read()
    # It may have come to a few more.
    done = {path.parents[1].name for path in out.glob("*/version_0/summary.json")}
    before = {name: (out / name / "version_0" / "summary.json").stat().st_mtime_ns for name in done}
    # While the old ones die.
    again = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert again.returncode == 0 and again.stderr == "", again.stderr
    first_line, *lines = again.stdout.splitlines()
    assert first_line.startswith("3 trials, ") and lines[-1] == "report  zoo report runs/s"
    # Nothing of Ray's.
    assert all("seed" in line or line.startswith("DCT") or not line for line in lines[:-1]), lines
    summaries = {
        path.parents[1].name: json.loads(path.read_text())
        for path in out.glob("*/version_*/summary.json")
    }
    assert len(summaries) == 3 and len(list(out.glob("*/version_*"))) == 3
    assert {summary["steps"] for summary in summaries.values()} == {200}
    for name, when in before.items():
        assert (out / name / "version_0" / "summary.json").stat().st_mtime_ns == when
        assert (out / f"{name}.log").read_text().count("$ zoo fit") == 1
    gone_on = {name for name, summary in summaries.items() if summary["resumed_at"]}
    assert gone_on and not gone_on & done
    assert wait(lambda: not processes(out)) and os.listdir(place / "runs") == ["s"]
    searched = [name for name in summaries if name.endswith("seed=0")]
    best = min(searched, key=lambda name: summaries[name]["loss"])
    assert {name.rpartition("-")[0] for name in summaries if name not in searched} == {
        best.rpartition("-")[0]
    }
    name = gone_on.pop()
    settings = [f"--{key}={value}" for key, value in options.items()]
    rate, seed = summaries[name]["lr"], summaries[name]["seed"]
    assert (
        main(
            [
                "fit",
                "--config",
                "dct_half.yaml",
                *settings,
                f"--model.optimizer.lr={rate}",
                f"--seed_everything={seed}",
                "--name=alone",
            ]
        )
        == 0
    )
    alone = json.loads((place / "runs" / "alone" / "version_0" / "summary.json").read_text())
    assert alone["loss"] == summaries[name]["loss"] and alone["resumed_at"] is None


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143)])  # Ctrl-C takes the same way
def test_a_sweep_that_is_told_to_stop_keeps_the_last_step(number, status, place, small):
    """Its trials write a checkpoint, which none had come to before, and go on from there."""
    options = {
        **dict(word.removeprefix("--").split("=") for word in small),
        "checkpoint.every_n_steps": 100_000,
        "trainer.max_steps": 600,
        "trainer.val_check_interval": 100_000,
        "trainer.log_every_n_steps": 10,
    }
    grid = {"model.parameterization": ["DCT"]}
    sweep = {"config": "dct_half.yaml", "options": options, "grid": grid, "seeds": [1, 2]}
    (place / "s.yaml").write_text(yaml.safe_dump(sweep))
    out = place / "runs" / "s"
    command = [sys.executable, "-P", "-m", "zoo", "sweep", "--config", "s.yaml"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as first:
        # A line of progress in a log: stopped before its first step, a trial has none to keep.
        wait(
            lambda: (
                first.poll() is not None
                or any("\nstep " in log.read_text() for log in out.glob("*.log"))
            )
        )
        start = time.monotonic()
        first.send_signal(number)
        said, wrong = first.communicate(timeout=300)
        seconds = time.monotonic() - start
    assert first.returncode == status and seconds < 150, (said, wrong)
    stopped = re.fullmatch(
        r"zoo: stopped; ([01]) of 2 trials are done, and the same command goes on\n", wrong
    )
    assert stopped, wrong
    assert said.splitlines()[0] == "2 trials, 0 done already, 2 at a time"
    done = len(list(out.glob("*/version_0/summary.json")))
    assert done == int(stopped[1])
    kept = len(list(out.glob("*/version_0/checkpoints/last.ckpt"))) - done
    assert kept >= 1  # the other may have had no step to keep
    assert wait(lambda: not processes(out), 60) and not list(out.glob("sweep.[ls]*"))
    again = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert again.returncode == 0 and again.stderr == "", again.stderr
    summaries = [json.loads(path.read_text()) for path in out.glob("*/version_0/summary.json")]
    assert [summary["steps"] for summary in summaries] == [600] * 2
    resumed = [summary["resumed_at"] for summary in summaries if summary["resumed_at"]]
    assert len(resumed) >= 1 and all(0 < step < 600 for step in resumed)
    assert not list(out.glob("*.damaged*"))
