"""What was evaluated is kept, and known again for the same model and data alone."""

import os

import pytest

from zoo.errors import UserError
from zoo.studies.journal import Evaluations


def test_journal_goes_on(tmp_path):
    calls = []

    def evaluate():
        calls.append(1)
        return 0.1 * len(calls)

    path = tmp_path / "out" / "evaluations.jsonl"
    first = Evaluations(path)
    assert (first("a", evaluate), first("b", evaluate), first("a", evaluate)) == (0.1, 0.2, 0.1)
    with path.open("a") as file:
        file.write('\n["c", 0.')  # killed while it was written
    second = Evaluations(path)
    assert [second(key, evaluate) for key in "abc"] == pytest.approx([0.1, 0.2, 0.3])
    assert len(calls) == 3
    assert Evaluations(path)("c", evaluate) == pytest.approx(0.3)


def test_values_of_other_data_are_forgotten(tmp_path):
    """If the reference is another than it was, what was evaluated is no longer known."""
    path = tmp_path / "evaluations.jsonl"
    journal = Evaluations(path)
    for model in ("a f1", "b f1"):
        journal.reference(model, 0.5)
        journal(f"{model} dct", lambda: 0.25)
    again = Evaluations(path)
    again.reference("a f1", 0.6)
    again.reference("b f1", 0.5 + 1e-9)
    assert [again(f"{model} dct", lambda: 0.75) for model in ("a f1", "b f1")] == [0.75, 0.25]
    later = Evaluations(path)
    later.reference("a f1", 0.6)
    assert later("a f1 dct", lambda: 0.0) == 0.75


def test_a_journal_with_anything_in_it(tmp_path):
    """What is no evaluation is passed over; the next line is whole."""
    path = tmp_path / "evaluations.jsonl"
    lines = [
        b"[" * 100_000,
        b"\xff\xfe",
        b'["big", 1' + b"0" * 5000 + b"]",
        b"[1, 2]",
        b'["t", true]',
        b'["a", 0.5]',
    ]
    path.write_bytes(b"\n".join([*lines, b'["b", 0.']))
    journal = Evaluations(path)
    assert journal.done == {"a": 0.5}
    journal("b", lambda: 0.25)
    assert Evaluations(path).done == {"a": 0.5, "b": 0.25}


def test_a_pipe_is_no_journal(tmp_path):
    os.mkfifo(tmp_path / "evaluations.jsonl")
    with pytest.raises(UserError, match="no regular file"):
        Evaluations(tmp_path / "evaluations.jsonl")
