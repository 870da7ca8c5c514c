"""Fixtures: a place to run in, small texts, and fits in this process."""

import sys
from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    torch.manual_seed(0)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A text of 4,000 characters in which there is something to learn."""
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog, and runs away.\n" * 67)
    return path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run commands in, with no corpus in reach and no network."""
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("ZOO_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["zoo"])
    monkeypatch.setattr("urllib.request.urlopen", _no_network)
    return folder


def _no_network(*args: object, **kwargs: object) -> None:
    raise OSError("no network in tests")


@pytest.fixture
def small(text: Path) -> list[str]:
    """Options that make a fit of the character task take a second."""
    options = {
        "data.corpus": text, "data.batch_size": 4, "data.block_size": 16, "model.width": 16,
        "model.heads": 2, "model.layers": 2, "trainer.precision": "32-true", "trainer.max_steps": 6,
    }
    return [f"--{key}={value}" for key, value in options.items()]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
