"""A sweep that is stopped tells its trials, waits for their last checkpoint, a while, and ends in
one line.
"""

import fcntl
import signal
import sys
import threading
import time

import pytest
import test_sweep
from trials import TRIAL

from zoo.__main__ import main
from zoo.errors import UserError
from zoo.sweep import stop, trials

sweeping = test_sweep.sweeping  # a fixture


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_sweep_that_is_told_to_stop_tells_its_trials(
    number, status, place, sweeping, capfd, monkeypatch
):
    """And waits for them: here one that lives on for a second after it has seen that the sweep is
    stopping.
    """
    sweeping.write()
    sweeping.stop_at, sweeping.signal = "DCT-lr=0.2-seed=0", number
    out, seen = place / "runs" / "s", []

    def trial():
        with (out / "DCT-lr=0.2-seed=0.log").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            ready.set()
            while not stop.asked(out):
                time.sleep(0.01)
            time.sleep(1)
            seen.append("stopped")

    ready = threading.Event()
    running = threading.Thread(target=trial)
    real = stop.tell

    def tell(*args):
        running.start()
        ready.wait(60)
        real(*args)
        assert seen == ["stopped"]

    monkeypatch.setattr(stop, "tell", tell)
    before = signal.getsignal(signal.SIGTERM)
    start = time.monotonic()
    assert main(["sweep", "--config", "s.yaml"]) == status
    assert time.monotonic() - start < 60 and seen == ["stopped"]
    said = capfd.readouterr().err.splitlines()
    assert said == ["zoo: stopped; 1 of 8 trials are done, and the same command goes on"]
    assert sorted(path.name for path in out.iterdir() if path.is_file()) == [
        "DCT-lr=0.2-seed=0.log",
        "sweep.json",
    ]
    assert signal.getsignal(signal.SIGTERM) == before
    running.join(60)


def test_a_signal_that_something_swallows_comes_again():
    """And Ray's own way to end at SIGTERM is none of ours."""
    stopped = stop.Stop()
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stopped.listening():
        stopped.check()
        with stop.kept():
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            stopped.check()
        with pytest.raises(KeyboardInterrupt), stop.kept():
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))
            signal.raise_signal(signal.SIGTERM)
        assert stopped.status == 143
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_stopped_sweep_does_not_wait_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(stop, "SECONDS", 60)
    log = tmp_path / "a.log"
    start = time.monotonic()
    stop.tell(tmp_path, [log])  # it has not begun
    assert time.monotonic() - start < 30
    monkeypatch.setattr(stop, "SECONDS", 0.5)
    start = time.monotonic()
    with log.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        stop.tell(tmp_path, [log])
    assert 0.4 < time.monotonic() - start < 30 and stop.asked(tmp_path)
    stop.clear(tmp_path)
    assert not stop.asked(tmp_path)
    (tmp_path / stop.NAME).mkdir()
    with pytest.raises(UserError, match="cannot remove"):
        stop.clear(tmp_path)


def test_a_trial_is_told_to_stop_and_none_starts_then(tmp_path, monkeypatch):
    """SIGTERM, once; its end is waited for."""
    ready = tmp_path / "ready"
    code = (
        "import pathlib, signal, sys, time\nstop = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: stop.append(1))\n"
        f"pathlib.Path({str(ready)!r}).touch()\n"
        "while not stop: time.sleep(0.01)\ntime.sleep(1)\n"
        "print(len(stop), 'checkpoint'); sys.exit(143)\n"
    )
    real = trials.subprocess.Popen
    monkeypatch.setattr(
        trials.subprocess,
        "Popen",
        lambda command, **rest: real([sys.executable, "-c", code], **rest),
    )
    found = []
    running = threading.Thread(target=lambda: found.append(trials.run(tmp_path, TRIAL, ".", 1)))
    running.start()
    while not ready.exists():
        time.sleep(0.01)
    stop.tell(tmp_path, [trials.log(tmp_path, TRIAL)])
    running.join(60)
    assert found == ["1 checkpoint"]
    monkeypatch.setattr(trials, "_fit", None)
    assert trials.run(tmp_path, TRIAL, ".", 1) == "the sweep is stopping"


def test_sigterm_before_anything_has_started_is_one_line(place, sweeping, capsys, monkeypatch):
    sweeping.write()
    monkeypatch.setattr(
        "zoo.sweep.command.build", lambda *args: signal.raise_signal(signal.SIGTERM)
    )
    assert main(["sweep", "--config", "s.yaml"]) == 143
    assert capsys.readouterr().err == "zoo: stopped\n" and not (place / "runs").exists()
