"""Every mistake of a user's is one line that names it and the remedy, status 2, and nothing on
disk.
"""

import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Mistake, cases
from every import thinned

from zoo.__main__ import main

DCT, DENSE = "fit --config dct_half.yaml", "fit --config char_lm.yaml"
SWAP = f"{DENSE} --model.parameterization"
RANDOM = "RandomOrthonormal --model.parameterization.ratio 0.5"

COMMANDS = [
    ("unknown command", "fti", ["'fti'", "'fit'"]),
    ("unknown command, nothing close", "xyzzy", ["'xyzzy'", "validate"]),
    ("option before the command", "--config dct_half.yaml", ["command comes first", "zoo fit"]),
    ("no config", "fit", ["nothing says what to train", "--config"]),
    ("options but no config", "fit --model.width 16", ["nothing says what to train", "--config"]),
    ("no config for test", "test", ["nothing says what to train", "--config"]),
    (
        "option cut short",
        f"{DCT} --trainer.max_step 3",
        ["'--trainer.max_step'", "'trainer.max_steps'"],
    ),
    (
        "option cut short, with =",
        f"{DCT} --trainer.max_step=3",
        ["'--trainer.max_step'", "'trainer.max_steps'"],
    ),
    ("option of no group", f"{DCT} --traner.x 1", ["'--traner.x'", "'trainer'"]),
    ("option without a value", f"{DCT} --ckpt_path", ["--ckpt_path", "expected one argument"]),
    ("word that is no option", f"{DCT} stray", ["'stray'", "start with --"]),
    ("option of the model", f"{DCT} --model.widht 3", ["CharLM", "'widht'", "'width'"]),
    ("option of the data", f"{DCT} --data.corpsu x", ["CharData", "'corpsu'", "'corpus'"]),
    (
        "option of the optimizer",
        f"{DCT} --model.optimizer.lrr 1",
        ["OptimizerConfig", "'lrr'", "'lr'"],
    ),
    (
        "option of the basis",
        f"{DCT} --model.parameterization.raito 1",
        ["DCT", "'raito'", "'ratio'"],
    ),
    (
        "number for a word",
        f"{DCT} --trainer.max_steps many",
        ["trainer.max_steps", "int", "'many'"],
    ),
    (
        "number deep inside",
        f"{DCT} --model.optimizer.lr high",
        ["model.optimizer.lr", "float", "'high'"],
    ),
    (
        "unknown selection",
        f"{DCT} --model.parameterization.selection zag",
        ["selection", "'zigzag'", "'zag'"],
    ),
    ("a sweep", "fit --config char_lm_sweep", ["is a sweep", "zoo sweep --config char_lm_sweep"]),
    ("shipped config", "fit --config dct_hlaf.yaml", ["'dct_hlaf.yaml'", "dct_half.yaml"]),
    ("class", f"{SWAP} DTC", ["'DTC'", "'DCT'"]),
    ("class of the model", f"{DCT} --model CharML", ["'CharML'", "'CharLM'"]),
    ("ratio 0", f"{DCT} --model.parameterization.ratio 0", ["DCT", "ratio", "(0, 1]", "0.0"]),
    ("ratio 1.5", f"{DCT} --model.parameterization.ratio 1.5", ["DCT", "ratio", "(0, 1]", "1.5"]),
    (
        "ratio half",
        f"{DCT} --model.parameterization.ratio half",
        ["parameterization.ratio", "float", "'half'"],
    ),
    (
        "ratio and coefficients",
        f"{DCT} --model.parameterization.coefficients 9",
        ["0.5 and 9", "null"],
    ),
    (
        "K > mn",
        f"{SWAP} DCT --model.parameterization.coefficients 999999",
        ["coefficients", "768", "999999"],
    ),
    ("no budget", f"{SWAP} DCT", ["DCT", "budget", "ratio", "coefficients"]),
    (
        "rank 0",
        f"{SWAP} LoRA --model.parameterization.rank 0",
        ["LoRA", "rank", "[1, 16]", "got 0"],
    ),
    (
        "rank too large",
        f"{SWAP} LoRA --model.parameterization.rank 17",
        ["LoRA", "rank", "[1, 16]", "got 17"],
    ),
    ("target", f"{DCT} --model.targets '[\"nothing.*\"]'", ["'nothing.*'", "attn.qkv"]),
    (
        "override",
        f"{DCT} --model.overrides '{{no.*: {{class_path: Dense}}}}'",
        ["'no.*'", "attn.qkv"],
    ),
    (
        "class of an override",
        f"{DCT} --model.overrides '{{head: {{class_path: Dens}}}}'",
        ["'Dens'", "'Dense'"],
    ),
    (
        "number for an override",
        f"{DCT} --model.overrides '{{head: 3}}'",
        ["'3' is no class", "class_path"],
    ),
    (
        "word for a list",
        f"{DCT} --model.targets blocks.*",
        ["model.targets", "list", "'blocks.*'", '["one", "two"]'],
    ),
    (
        "word for a ratio",
        f"{DCT} --model.parameterization.ratio half",
        ["model.parameterization.ratio must be float or null, got 'half'"],
    ),
    (
        "word for a number or several",
        f"{SWAP} BLAST --model.parameterization.blocks many",
        ["model.parameterization.blocks must be int or list or null, got 'many'"],
    ),
    (
        "setting within a setting that is none",
        f"{DCT} --model.budget.ratio 0.1",
        ["CharLM has no setting 'budget.ratio'", "targets"],
    ),
    ("model for a basis", f"{SWAP} CharLM", ["'CharLM'", "another kind", "DCT"]),
    ("heads", f"{DCT} --model.heads 3", ["heads", "16", "3"]),
    ("corpus", f"{DCT} --data.corpus no.txt", ["'no.txt'", "tinyshakespeare", "text file"]),
    (
        "no network",
        f"{DCT} --data.corpus tinyshakespeare --data.fallback null",
        ["Tiny Shakespeare", "data_dir"],
    ),
    (
        "data folder",
        f"{DCT} --data.corpus tinyshakespeare --data.data_dir no",
        ["'no'", "--data.data_dir"],
    ),
    ("checkpoint", f"{DCT} --ckpt_path no.ckpt", ["'no.ckpt'", "give a .ckpt file"]),
    ("module", f"{SWAP} no_such.My", ["'no_such'", "file in", "place"]),
    (
        "attribute",
        f"{SWAP} zoo.parameterizations.DTC",
        ["'zoo.parameterizations'", "'DTC'", "'DCT'"],
    ),
    (
        "abstract class",
        f"{SWAP} SeparableSubspace",
        ["SeparableSubspace", "abstract", "define side"],
    ),
    ("foreign class", f"{SWAP} torch.nn.Linear", ["'torch.nn.Linear'", "WeightParameterization"]),
    (
        "function",
        f"{SWAP} torch.nn.functional.relu",
        ["'torch.nn.functional.relu'", "WeightParameterization"],
    ),
    ("no such device", f"{DCT} --trainer.accelerator abacus", ["abacus", "accelerator"]),
    ("params of nothing", "params", ["nothing says what to train", "--config"]),
    ("params, option", "params --config dct_half.yaml --jsn", ["'--jsn'", "'json'"]),
    (
        "params, ratio",
        "params --config dct_half.yaml --model.parameterization.ratio 2",
        ["ratio", "(0, 1]", "2.0"],
    ),
    (
        "params, class",
        "params --config char_lm.yaml --model.parameterization DTC",
        ["'DTC'", "'DCT'"],
    ),
]

BASE = "base: char_lm.yaml\nmodel:\n  init_args:\n    parameterization"
CONFIGS = [
    ("key", "base: dct_half.yaml\ntrianer: {max_steps: 3}", ["trianer", "'trainer'"]),
    (
        "trainer's key",
        "base: dct_half.yaml\ntrainer: {max_step: 3}",
        ["trainer.max_step", "trainer.max_steps"],
    ),
    (
        "model's key",
        "base: dct_half.yaml\nmodel: {init_args: {widht: 3}}",
        ["CharLM", "'widht'", "'width'"],
    ),
    (
        "basis' key",
        f"{BASE}: {{class_path: DCT, init_args: {{raito: 1}}}}",
        ["DCT", "'raito'", "'ratio'"],
    ),
    (
        "basis' value",
        f"{BASE}: {{class_path: DCT, init_args: {{ratio: half}}}}",
        ["parameterization.ratio", "'half'"],
    ),
    ("class", f"{BASE}: {{class_path: DTC}}", ["'DTC'", "'DCT'"]),
    ("syntax", "model:\n\tclass_path: CharLM", ["'mine.yaml'", "line 2", "'\\t'"]),
    ("list", "- model", ["'mine.yaml'", "key: value", "list"]),
    ("empty", "", ["nothing says what to train", "--config"]),
    ("base is itself", "base: mine.yaml", ["'mine.yaml'", "itself as base"]),
    ("base is missing", "base: char_ml.yaml", ["'char_ml.yaml'", "char_lm.yaml"]),
    ("base is a number", "base: 3", ["'mine.yaml'", "3 as base", "name"]),
    ("not text", "\udcff\udcfe", ["'mine.yaml'", "cannot be read", "text file"]),
]

CORPORA = [
    ("empty", b"", ["corpus.txt'", "empty", "give a text file"]),
    ("binary", b"ab\0c" * 999, ["corpus.txt'", "binary", "give a text file"]),
    ("latin-1", b"caf\xe9 " * 999, ["corpus.txt'", "UTF-8", "iconv"]),
    ("short", b"to be or not", ["'corpus'", "too short", "12 characters", "--data.block_size"]),
]

BASIS = "from zoo.parameterizations import DCT, OrthonormalSubspace\nclass My(DCT):\n    "
ABSTRACT = f"{BASIS}pass\nclass My(OrthonormalSubspace):\n    def analyze(self, w): return w\n"
INIT = f"{BASIS}def __init__(self, m: int, n: int"
MODULES = [
    ("syntax", "class My(:\n", ["'my_syntax.My'", "invalid syntax", "my_syntax.py, line 1"]),
    ("raises", "x = 1\n1 / 0\n", ["'my_raises.My'", "ZeroDivisionError", "my_raises.py, line 2"]),
    ("imports", "import no_such\n", ["'my_imports.My'", "'no_such'", "install"]),
    ("lacks", "class Mine: pass\n", ["'my_lacks'", "'My'", "it has Mine"]),
    ("foreign", "class My: pass\n", ["'my_foreign.My'", "WeightParameterization"]),
    (
        "function",
        "def My(a: int, b: int): return 1\n",
        ["'my_function.My'", "WeightParameterization"],
    ),
    ("abstract", ABSTRACT, ["My", "abstract", "define synthesize"]),
    (
        "constructor",
        f"{INIT}):\n        raise KeyError('oh')\n",
        ["My", "KeyError", "my_constructor.py, line 4"],
    ),
    ("value", f"{INIT}):\n        raise ValueError('wants m = n')\n", ["My wants m = n"]),
    ("setting", f"{INIT}, power: int):\n        pass\n", ["My", "'power'", "init_args"]),
]


@pytest.fixture
def trained(mistake: Mistake) -> Path:
    """A checkpoint of a random basis, outside of its run's folder, whose config would be used."""
    argv = mistake.argv(f"{SWAP} {RANDOM} --trainer.max_steps 1 --name random")
    assert main(argv) == 0
    return Path(shutil.copy("runs/random/version_0/checkpoints/last.ckpt", "random.ckpt"))


@pytest.mark.parametrize(("line", "words"), cases(COMMANDS, often=2))
def test_command(line: str, words: list[str], mistake: Mistake) -> None:
    mistake(line, words)


@pytest.mark.parametrize(("content", "words"), cases(CONFIGS))
def test_config(content: str, words: list[str], mistake: Mistake) -> None:
    Path("mine.yaml").write_text(content, errors="surrogateescape")
    mistake("fit --config mine.yaml", words)


@pytest.mark.parametrize(("data", "words"), cases(CORPORA))
def test_corpus(data: bytes, words: list[str], mistake: Mistake) -> None:
    Path("corpus.txt").write_bytes(data)
    mistake(f"{DCT} --data.corpus corpus.txt", words)


@pytest.mark.parametrize(
    ("name", "source", "words"), [pytest.param(*row, id=row[0]) for row in MODULES]
)
def test_module(name: str, source: str, words: list[str], mistake: Mistake) -> None:
    Path(f"my_{name}.py").write_text(source)
    mistake(f"{SWAP} my_{name}.My", words)


MY_BASIS = """import torch
from zoo.parameterizations import SeparableSubspace


class MyBasis(SeparableSubspace):
    def side(self, n, axis):
        return torch.eye(n).double()
"""


def test_own_basis_works(mistake: Mistake) -> None:
    Path("my_basis.py").write_text(MY_BASIS)
    line = f"{SWAP} my_basis.MyBasis --model.parameterization.ratio 0.5"
    assert main(mistake.argv(f"{line} --trainer.max_steps 1 --name mine")) == 0
    assert Path("runs/mine/version_0/summary.json").is_file()
    mistake(f"{line} --model.parameterization.raito 0.5", ["MyBasis", "'raito'", "'ratio'"])


@pytest.mark.parametrize("folder", ["plain", "plain/below"])
def test_output_folder_is_a_file(folder: str, mistake: Mistake) -> None:
    Path("plain").write_text("")
    mistake(
        f"{DCT} --trainer.default_root_dir {folder}",
        [f"'{folder}/", "/plain' is no folder", "default_root_dir"],
    )


def test_checkpoint_is_truncated(trained: Path, mistake: Mistake) -> None:
    whole = trained.read_bytes()
    for size in (0, 100, len(whole) // 2):
        trained.write_bytes(whole[:size])
        mistake(f"{DCT} --ckpt_path {trained}", ["'random.ckpt'", "use another one"])


@pytest.mark.parametrize(
    "model", thinned([DENSE, f"{DCT} --model.width 32", f"{DCT} --model.layers 1", DCT], 3)
)
def test_checkpoint_is_of_another_model(model: str, trained: Path, mistake: Mistake) -> None:
    differs = (
        ["another basis"]
        if model == DCT
        else ["'random.ckpt'", "another model", "net.", "give the config"]
    )
    mistake(f"{model} --ckpt_path {trained}", differs)


def test_checkpoint_is_of_another_seed(trained: Path, mistake: Mistake) -> None:
    mistake(
        f"{SWAP} {RANDOM} --model.parameterization.seed 1 --ckpt_path {trained}",
        ["blocks.0", "another basis"],
    )


def test_checkpoint_has_another_fingerprint(trained: Path, mistake: Mistake) -> None:
    checkpoint = torch.load(trained, weights_only=True)
    checkpoint["zoo_fingerprints"]["blocks.1.mlp.fc"] = "0123456789abcdef"
    torch.save(checkpoint, trained)
    mistake(
        f"{SWAP} {RANDOM} --ckpt_path {trained}",
        ["blocks.1.mlp.fc", "another basis", "0123456789abcdef"],
    )


class Malicious:
    """Unpickled, it writes a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("executed", "w")


@pytest.mark.parametrize("command", ["fit", "test"])
@pytest.mark.parametrize("kind", ["pickle", "zip", "zip within a state"])
def test_checkpoint_holds_code(kind: str, command: str, mistake: Mistake) -> None:
    if kind == "pickle":
        Path("bad.ckpt").write_bytes(pickle.dumps(Malicious()))
    else:
        torch.save(
            {"state_dict": {}, "epoch": Malicious()} if "state" in kind else Malicious(), "bad.ckpt"
        )
    mistake(
        f"{command} --config dct_half.yaml --ckpt_path bad.ckpt",
        ["'bad.ckpt'", "code", "nothing was executed"],
    )
    assert not Path("executed").exists()


def test_checkpoint_is_something_else(mistake: Mistake) -> None:
    torch.save({"weights": torch.ones(3)}, "other.ckpt")
    mistake(f"{DCT} --ckpt_path other.ckpt", ["'other.ckpt'", "no state_dict"])


NAN = """import math
import torch
from zoo.parameterizations import DCT


class MyNaN(DCT):
    calls = 0

    def weight(self):
        self.calls += torch.is_grad_enabled()
        return super().weight() * (math.nan if self.calls > 3 else 1)
"""


@pytest.mark.parametrize(
    ("options", "step"),
    [
        (f"{DCT} --model.optimizer.lr 1e30", 1),
        (f"{SWAP} my_nan.MyNaN --model.parameterization.ratio 0.5", 3),
    ],
)
def test_loss_is_not_finite(
    options: str, step: int, mistake: Mistake, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("my_nan.py").write_text(NAN)
    assert main(mistake.argv(f"{options} --checkpoint.every_n_steps 1 --name nan")) == 2
    output = capsys.readouterr().err
    assert "Traceback" not in output
    line = output.splitlines()[-1]
    assert re.match(
        rf"zoo: .*not finite at step {step}\b.*largest gradient is in (net\.)?\w+", line
    )
    assert "--model.optimizer.lr" in line
    checkpoint = torch.load("runs/nan/version_0/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == step
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())


@pytest.mark.slow
def test_own_process(place: Path, monkeypatch) -> None:
    """Nothing else is on stderr, such as a warning from an import; and `python -m`, which puts the
    current folder first, takes no module from there that is called like one of what is installed.
    """
    monkeypatch.delenv("MPLCONFIGDIR")  # as on a machine where zoo has never run
    mine = ["tasks/__init__.py", "jsonargparse.py", "einops.py"]
    Path("tasks").mkdir()
    for name in mine:
        Path(name).write_text("open('OWNED', 'w')\n")
    command = [
        sys.executable,
        "-m",
        "zoo",
        "fit",
        "--config",
        "dct_half.yaml",
        "--model.widht",
        "3",
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2, result.stderr
    assert (result.stdout, len(result.stderr.splitlines())) == ("", 1)
    assert "'widht'; did you mean 'width'?" in result.stderr
    assert sorted(str(path) for path in Path().rglob("*")) == sorted(["tasks", *mine])
