"""Fixtures: a place to run in, small texts, and fits in this process."""

import gc
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch comes, and for the processes that tests start

import matplotlib
import pytest
import torch
import torchmetrics  # noqa: F401  all that it imports is compiled once, before xdist's processes come
from tiny import save_backbone, save_glue

from zoo.__main__ import main
from zoo.testing import Case

gc.set_threshold(20_000, 20, 20)  # each pass looks at the million objects of what is imported

# Where its list of fonts is: processes that tests start, whose cache is elsewhere, make no other.
os.environ.setdefault("MPLCONFIGDIR", matplotlib.get_cachedir())

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"


def configs(names: str) -> list[str]:
    """Words of a command line that name configs: `"glue_rte lora_8"`."""
    return [word for name in names.split() for word in ("--config", name)]


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than cores, as some tests wait, up to four of a gigabyte each; none for tests that
    are named.
    """
    return (
        0
        if config.args_source is pytest.Config.ArgsSource.ARGS
        else min((os.cpu_count() or 1) + 1, 4)
    )


LONGEST = ("test_sweep_kill", "test_crash_points", "test_ddp", "test_stop")
"""Modules with tests that take up to a minute; begun last, they would keep one process alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave to `slow` what the conformance suite says again; begin with the longest tests.

    Of a class with several cases the first one has all shapes, the others a wide one and a tall
    one.
    """
    items.sort(key=lambda item: item.path.stem not in LONGEST)
    first: dict[type, type] = {}
    said_again = []
    for item in items:
        case, call = getattr(item, "cls", None), getattr(item, "callspec", None)
        if case is None or call is None or not issubclass(case, Case):
            continue
        wide = next(shape for shape in case.shapes if shape[0] < shape[1])
        tall = next(shape for shape in reversed(case.shapes) if shape[0] > shape[1])
        shape, dtype = call.params.get("shape", wide), call.params.get("dtype", torch.float32)
        if shape not in (wide, tall) or dtype == torch.float64:  # the algebra is in float64 anyway
            item.add_marker(pytest.mark.slow)
            if first.setdefault(case.parameterization, case) is not case:
                said_again.append(item)
    dropped = set(said_again)
    items[:] = [item for item in items if item not in dropped]


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
    for name in ("HF_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("urllib.request.urlopen", _no_network)
    return folder


def _no_network(*args: object, **kwargs: object) -> None:
    raise OSError("no network in tests")


@pytest.fixture
def small(text: Path) -> list[str]:
    """Options that make a fit of the character task take a second."""
    options = {
        "data.corpus": text,
        "data.batch_size": 4,
        "data.block_size": 16,
        "model.width": 16,
        "model.heads": 2,
        "model.layers": 2,
        "trainer.precision": "32-true",
        "trainer.max_steps": 6,
    }
    return [f"--{key}={value}" for key, value in options.items()]


@pytest.fixture(scope="session")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny `bert`, `roberta`, `distilbert`, `gpt2`, or another of `tiny.SIZES`."""
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
    return [f"--{key}={value}" for key, value in tuning(backbones("bert"), glue).items()]


def tuning(backbone: Path, data: Path) -> dict[str, object]:
    """Settings with which a fit of a GLUE task takes a second."""
    return {
        "model.backbone": backbone,
        "data.data_dir": data,
        "data.batch_size": 8,
        "data.max_length": 32,
        "trainer.precision": "32-true",
        "trainer.max_epochs": 1,
    }


@pytest.fixture
def trained(place: Path) -> Callable[..., str]:
    """Fits: `trained(name, configs, *options)` gives the folder of the run."""

    def fit(name: str, config: str, *options: str, seed: int = 0) -> str:
        argv = ["fit", *configs(config), *options, "--name", name, "--seed_everything", str(seed)]
        assert main(argv) == 0
        return f"runs/{name}/version_0"

    return fit


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small run of the character task in `run`, and its adapter."""
    folder = tmp_path_factory.mktemp("material")
    text = folder / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog, and runs away.\n" * 67)
    options = {
        "data.corpus": text,
        "data.batch_size": 4,
        "data.block_size": 16,
        "model.width": 16,
        "model.heads": 2,
        "model.layers": 2,
        "trainer.precision": "32-true",
        "trainer.max_steps": 6,
        "name": "made",
        "trainer.default_root_dir": folder,
    }
    words, argv = [f"--{key}={value}" for key, value in options.items()], sys.argv
    try:
        assert main(["fit", "--config", "dct_half.yaml", *words]) == 0
        shutil.move(folder / "made" / "version_0", folder / "run")
        assert (
            main(
                [
                    "export",
                    str(folder / "run"),
                    "--to",
                    "safetensors",
                    "--output",
                    str(folder / "adapter"),
                ]
            )
            == 0
        )
    finally:
        sys.argv = argv
    return folder


@pytest.fixture
def handed(material: Path, place: Path) -> Path:
    """The current folder, in which somebody's run lies in `run`, and its adapter as
    `adapter.safetensors`.
    """
    shutil.copytree(material / "run", "run")
    shutil.copy(material / "adapter" / "adapter.safetensors", "adapter.safetensors")
    return place


@pytest.fixture
def char(material: Path, place: Path) -> str:
    """A character model from scratch."""
    return shutil.copytree(material / "run", "runs/char/version_0")


@pytest.fixture(scope="session")
def classifiers(
    backbones: Callable[[str], Path], glue: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """Two runs of a classifier with LoRA that differ in their seed alone, at a rate at which it
    changes.
    """
    root, argv = tmp_path_factory.mktemp("classifiers"), sys.argv
    options = {
        **tuning(backbones("bert"), glue),
        "model.optimizer.lr": 0.05,
        "trainer.default_root_dir": root,
    }
    words = [f"--{key}={value}" for key, value in options.items()]
    try:
        for seed in (0, 1):
            seeded = [f"--name=s{seed}", f"--seed_everything={seed}"]
            assert (
                main(
                    ["fit", "--config", "glue_rte.yaml", "--config", "lora_8.yaml", *words, *seeded]
                )
                == 0
            )
    finally:
        sys.argv = argv
    return [root / f"s{seed}" / "version_0" for seed in (0, 1)]


@pytest.fixture
def tuned(classifiers: list[Path], place: Path) -> str:
    """One of these."""
    return shutil.copytree(classifiers[0], "runs/tuned/version_0")


@pytest.fixture
def seeds(classifiers: list[Path], place: Path) -> list[str]:
    """Both of these."""
    return [shutil.copytree(run, f"runs/s{seed}/version_0") for seed, run in enumerate(classifiers)]


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports have no figures, which take most of the time of making one."""
    for name in ("analyze.figures.analysis_figures", "mask.figures.mask_figures"):
        monkeypatch.setattr(f"zoo.studies.{name}", lambda report: {})


def files(folder: Path) -> dict[Path, tuple[int, int]]:
    """Everything in and beside a folder, with what changes when it is written."""
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.parent.rglob("*")
    }


def refused(capsys: pytest.CaptureFixture[str], argv: list[str], *words: str) -> None:
    """One line with these words, status 2, and nothing left behind in the current folder."""
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    assert main(argv) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("zoo: ")
    assert "Union" not in lines[0] and "Namespace" not in lines[0]
    assert [word for word in words if word not in lines[0]] == [], lines[0]
    assert sorted(Path().rglob("*")) == before


def cases(table: list[tuple[str, Any, list[str]]], often: int = 1) -> list[Any]:
    """One test for each row of a table, of which every so many-th runs by default."""
    return [
        pytest.param(what, words, id=name, marks=pytest.mark.slow if i % often else ())
        for i, (name, what, words) in enumerate(table)
    ]


class Mistake:
    """Runs a command that must fail as a mistake does, and touch nothing in or beside the current
    folder.
    """

    def __init__(self, small: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        self.small, self.capsys = small, capsys

    def argv(self, line: str) -> list[str]:
        """The words of a command; the options of a small model follow its config."""
        words = shlex.split(line)
        return [*words[:3], *self.small, *words[3:]] if "--config" in words[1:2] else words

    def __call__(self, line: str, words: list[str]) -> None:
        before = files(Path.cwd())
        refused(self.capsys, self.argv(line), *words)
        assert files(Path.cwd()) == before


@pytest.fixture
def mistake(
    place: Path,
    small: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Mistake]:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield Mistake(small, capsys)
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]
