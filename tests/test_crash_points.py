"""A command that is killed before any event of its files goes on; the harness for it sees what does
not.
"""

import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import crash_points
import pytest
from crash_points import Case

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for open files in /proc")


def crash(*options, tmp_path):
    """The harness in a process of its own, since nothing may have been computed in the one that
    forks.
    """
    command = [sys.executable, str(Path(crash_points.__file__)), *options]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    ran = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=1800
    )
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    tried = int(ran.stdout.split()[-5])
    assert ran.stdout.endswith(f"{tried} of {tried} crash points go on\n")
    return tried


@pytest.mark.slow
def test_a_killed_command_goes_on(tmp_path):
    """At every thirty-second of the last events on each file: fits, a trial of a sweep, which loses
    no checkpoint, exports and reports. One harness, since most of its time is what it imports.
    """
    assert crash("--kinds", "--every=32", tmp_path=tmp_path) >= 20


# ---- The harness ---------------------------------------------------------------------------------


def write(beside, remove, refuse):
    """A command that writes a file: beside its place first, removing what was left there, or not if
    it is there.
    """
    for left in Path().glob(".*.part") if remove else ():
        left.unlink()
    if refuse and Path("out").exists():
        print("it is there")
        return 2
    path = Path(f".out.{os.getpid()}.part" if beside else "out")
    path.write_text("0123456789")
    path.replace("out")
    return 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    "beside, remove, refuse, wrong",
    [
        (True, True, False, [[], [], [], []]),
        (True, True, True, [[], [], [], []]),
        (True, False, False, [[], ["left"], ["left"], ["left"]]),
        (False, True, False, [[], [], [], []]),  # as it writes again
        (False, True, True, [[], ["exit", "out"], ["exit", "out"], []]),
    ],
)
def test_the_harness_sees_what_does_not_go_on(beside, remove, refuse, wrong, tmp_path):
    """Killed before the file is opened, before and in the middle of its only write, and before it
    gets its name.
    """
    command = partial(write, beside, remove, refuse)
    case = Case("fit", int, command, command, lambda: {"out": Path("out").read_text()})
    template = tmp_path / "template"
    for name in ("place", "tmp"):
        (template / "top" / name).mkdir(parents=True)
    _, events, _ = crash_points.run(command, _copy(template))
    assert [event.split()[0] for event in events] == ["open", "write", "rename"]
    points = crash_points.points(events, 1, kinds=False)
    assert points == [(1, False), (2, False), (2, True), (3, False)]
    found = [
        crash_points.attempt(case, template, {"out": "0123456789"}, *point) for point in points
    ]
    assert [[each.split()[0].rstrip(":") for each in reasons] for _, reasons in found] == wrong
    assert [event.split()[:2] for event, _ in found] == [
        ["before", "open"],
        ["before", "write"],
        ["in", "write"],
        ["before", "rename"],
    ]


def _copy(template):
    return Path(shutil.copytree(template, template.with_name("whole")))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_harness_lists_every_event_and_dies_at_one(tmp_path):
    """Whatever changes files or names, relative to whatever; half of a torn write is there."""

    def command():
        os.mkdir("a")
        os.close(os.open("a/b", os.O_WRONLY | os.O_CREAT))
        shutil.rmtree("a")  # opens the folder, and removes what is in it by name
        with open("c", "w") as file:
            file.write("0123456789")
            file.flush()
            os.fsync(file.fileno())
        os.truncate("c", 5)
        os.symlink("c", "d")
        os.link("c", "e")
        Path("c").read_text()

    for name in ("place", "tmp"):
        (tmp_path / "top" / name).mkdir(parents=True)
    status, events, said = crash_points.run(command, tmp_path)
    assert (status, said) == (0, "") and events == [
        f"{name} place/{path}"
        for name, path in (
            ("mkdir", "a"),
            ("open", "a/b"),
            ("remove", "a/b"),
            ("rmdir", "a"),
            ("open", "c"),
            ("write", "c"),
            ("fsync", "c"),
            ("truncate", "c"),
            ("symlink", "d"),
            ("link", "e"),
        )
    ]
    for name in "cde":
        (tmp_path / "top" / "place" / name).unlink()
    status, events, _ = crash_points.run(command, tmp_path, 6, torn=True)
    assert status == -signal.SIGKILL and events[-1] == "write place/c"
    assert (tmp_path / "top" / "place" / "c").read_text() == "01234"
