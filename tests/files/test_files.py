"""Files are read within bounds, and written whole or not at all."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from zoo.errors import UserError
from zoo.files.access import new_folder, opened, read_json, read_text, read_yaml, replacing
from zoo.files.access import write_text as write
from zoo.files.locks import Lock, hold
from zoo.files.plain import DEEPEST, parse_json, parse_yaml
from zoo.training.checkpoint_files import read_file, write_file

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)
"""Ten to the twelfth, in 700 bytes."""


@pytest.mark.parametrize(
    "read", [read_text, read_json, read_yaml, read_file], ids=lambda read: read.__name__
)
def test_what_is_no_regular_file_is_not_waited_for(read, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero"), tmp_path / "absent"):
        with pytest.raises(UserError, match="no regular file|cannot be read"):
            read(path)


def test_a_link_to_a_regular_file_is_one(tmp_path):
    (tmp_path / "file").write_text("{}")
    (tmp_path / "link").symlink_to("file")
    assert read_json(tmp_path / "link") == {} == read_yaml(tmp_path / "link")


@pytest.mark.parametrize(
    "parse, text",
    [
        (parse_json, "[" * 100_000),
        (parse_json, "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1)),
        (parse_json, "1" * 10_000),
        (parse_yaml, "[" * 100_000),
        (parse_yaml, "- " * 5_000 + "x"),
        (parse_yaml, BOMB),
        (parse_yaml, "&a [*a]"),
        (parse_yaml, "a: [1"),
        (parse_yaml, "!!bool x"),
        (parse_yaml, "!!int ''"),
        (parse_yaml, "0x" + "f" * 5_000),
        (parse_yaml, "!!python/object/apply:os.system [id]"),
        (parse_yaml, "? [1]\n: 2"),
    ],
    ids=[
        "deep",
        "a step",
        "digits",
        "deep yaml",
        "deep list",
        "aliases",
        "itself",
        "cut",
        "no bool",
        "no int",
        "a huge number",
        "code",
        "a list as key",
    ],
)
def test_what_would_take_all_memory_or_time_is_refused(parse, text):
    start = time.process_time()
    with pytest.raises(ValueError):
        parse(text)
    assert time.process_time() - start < 20  # it takes one


def test_a_text_has_a_largest_size_and_an_encoding(tmp_path):
    (tmp_path / "long").write_text("x" * 11)
    with pytest.raises(UserError, match="more than 10 bytes"):
        read_text(tmp_path / "long", 10)
    (tmp_path / "latin").write_bytes("é".encode("latin-1"))
    with pytest.raises(UserError, match="UTF-8"):
        read_text(tmp_path / "latin")


# ---- Writing -------------------------------------------------------------------------------------


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    write(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as part:
        part.write_text("ne")
        raise RuntimeError
    assert path.read_text() == "old" and names(tmp_path) == ["file"]
    write(path, "new\r\n")
    assert path.read_bytes() == b"new\r\n" and names(tmp_path) == ["file"]


def test_a_file_is_staged_beside_itself(tmp_path, monkeypatch):
    """A temporary folder may be another file system, from which nothing can be renamed."""
    monkeypatch.setenv("TMPDIR", "/nowhere")
    with replacing(tmp_path / "file") as part:
        assert part.parent == tmp_path
        part.write_text("")


def test_a_link_is_replaced_and_what_it_leads_to_is_not(tmp_path):
    """In a run that was handed over, `summary.json` or `.lock` may lead to a file of the user's."""
    (tmp_path / "mine").write_text("mine")
    for name in ("file", "lock"):
        (tmp_path / name).symlink_to("mine")
    write(tmp_path / "file", "text")
    with pytest.raises(OSError):
        Lock(tmp_path / "lock").acquire()
    assert (tmp_path / "file").read_text() == "text" and (tmp_path / "mine").read_text() == "mine"


def test_a_full_disk_is_named_by_the_file_that_was_to_be_written(tmp_path):
    path = tmp_path / "last.ckpt"
    write_file(path, {"a": torch.zeros(3)})
    with pytest.raises(OSError, match="No space left") as error, replacing(path) as part:
        part.unlink()
        part.symlink_to("/dev/full")
        with part.open("wb") as file:
            torch.save({"a": torch.zeros(10**6)}, file)
    assert error.value.filename == str(path)
    assert read_file(path)["a"].shape == (3,) and names(tmp_path) == ["last.ckpt"]


def test_ctrl_c_within_a_write_is_ctrl_c_and_leaves_what_was_there(tmp_path, monkeypatch):
    """The writer of torch ends its archive all the same, and fails: that error does not count."""

    class Interrupted(io.BytesIO):
        def write(self, data):
            if len(data) > 10**5:
                raise KeyboardInterrupt
            return super().write(data)

    path = tmp_path / "last.ckpt"
    write_file(path, {"a": torch.zeros(3)})
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda *_: Interrupted())
        with pytest.raises(KeyboardInterrupt):
            write_file(path, {"a": torch.zeros(10**6)})
    assert read_file(path)["a"].shape == (3,) and names(tmp_path) == ["last.ckpt"]


KILLED = """
import os, signal, sys
from pathlib import Path
from zoo.files.access import new_folder, replacing
path = Path(sys.argv[2])
def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
def ours(file):
    return file.name == "a"
if sys.argv[1] == "file":
    with replacing(path) as part:
        part.write_text("ne")
        kill()
elif sys.argv[1] == "new":
    with new_folder(path, ours=ours, force=True) as part:
        (part / "a").write_text("ne")
        kill()
else:  # between the two names
    replace = Path.replace
    Path.replace = lambda self, to: kill() if self.suffix == ".part" else replace(self, to)
    with new_folder(path, ours=ours, force=True) as part:
        (part / "a").write_text("new")
"""


@pytest.mark.parametrize("kind", ["file", "new", "between"])
def test_what_a_killed_writer_left_is_gone_after_the_next(kind, tmp_path):
    path = tmp_path / "target"
    if kind == "file":
        write(path, "old")
    else:
        path.mkdir()
        (path / "a").write_text("old")
    result = subprocess.run([sys.executable, "-c", KILLED, kind, str(path)])
    assert result.returncode == -signal.SIGKILL and len(names(tmp_path)) == 2
    if kind == "file":
        assert path.read_text() == "old"
        write(path, "new")
    else:
        with pytest.raises(UserError, match="already"), new_folder(path):
            pass
        assert (path / "a").read_text() == "old"  # also what had been set aside is there again
        with new_folder(path, ours=lambda file: file.name == "a", force=True) as part:
            (part / "a").write_text("new")
    assert (
        names(tmp_path) == ["target"]
        and "new" in (path if kind == "file" else path / "a").read_text()
    )


def test_what_somebody_else_puts_into_a_folder_meanwhile_is_kept(tmp_path):
    path = tmp_path / "report"
    path.mkdir()
    (path / "a").write_text("old")
    with new_folder(path, ours=lambda file: file.name == "a", force=True) as part:
        (part / "a").write_text("new")
        (path / "notes").mkdir()
        (path / "notes" / "mine.txt").write_text("mine")
    assert (path / "a").read_text() == "new" and (path / "notes" / "mine.txt").read_text() == "mine"
    assert names(tmp_path) == ["report"]


# ---- Locks ---------------------------------------------------------------------------------------


def test_a_lock_has_one_holder_who_is_named(tmp_path):
    first, second = Lock(tmp_path / ".lock"), Lock(tmp_path / ".lock")
    assert first.acquire() and first.acquire() and not second.acquire()
    assert second.holder().startswith(str(os.getpid()))
    first.release()
    assert names(tmp_path) == [] and second.acquire()
    second.release()


def test_a_killed_process_leaves_no_lock(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from zoo.files.locks import Lock; "
        "lock = Lock(Path(sys.argv[1])); "
        "assert lock.acquire(); print('held', flush=True); time.sleep(100)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "lock"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"held\n"
        assert not Lock(tmp_path / "lock").acquire() and hold(tmp_path / "lock") is None
        process.kill()
    lock = Lock(tmp_path / "lock")
    assert lock.acquire()
    lock.release()


def test_many_processes_hold_a_lock_one_after_the_other(tmp_path):
    """Also while the file is removed and made again."""
    code = """
import sys, time
from pathlib import Path
from zoo.files.locks import Lock
folder, lock = Path(sys.argv[1]), Lock(Path(sys.argv[1]) / "lock")
for _ in range(200):
    while not lock.acquire():
        time.sleep(0.001)
    with open(folder / "inside", "x"):  # fails if another one is inside
        pass
    (folder / "inside").unlink()
    lock.release()
"""
    processes = [subprocess.Popen([sys.executable, "-c", code, tmp_path]) for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]


def test_opened_reads_bytes(tmp_path):
    (tmp_path / "file").write_bytes(json.dumps([1]).encode())
    with opened(tmp_path / "file") as file:
        assert file.read() == b"[1]"
