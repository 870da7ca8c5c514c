"""Fixtures: a place to run in, small texts, and fits in this process."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import save_backbone, save_glue

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
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
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


@pytest.fixture(scope="session")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny `bert`, `roberta`, `distilbert` or `gpt2`."""
    pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("backbones")
    return lambda kind: root / kind if (root / kind).is_dir() else save_backbone(kind, root / kind)


@pytest.fixture(scope="session")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the nine tasks of GLUE, a few rows each."""
    return save_glue(tmp_path_factory.mktemp("glue"))


@pytest.fixture
def tune(backbones: Callable[[str], Path], glue: Path) -> list[str]:
    """Options that make a fit of a GLUE task take a second."""
    options = {
        "model.backbone": backbones("bert"), "data.data_dir": glue, "data.batch_size": 8, "data.max_length": 32,
        "trainer.precision": "32-true", "trainer.max_epochs": 1,
    }
    return [f"--{key}={value}" for key, value in options.items()]
