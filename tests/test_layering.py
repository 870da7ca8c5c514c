"""Imports run one way, and what must be quick imports nothing heavy."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = [
    {"zoo", "zoo.errors", "zoo.provenance"},
    {"zoo.files"},
    {"zoo.bases"},
    {"zoo.parameterizations", "zoo.spectrum", "zoo.pages"},
    {"zoo.layers"},
    {"zoo.training", "zoo.testing"},
    {"zoo.runs"},
    {"tasks"},
    {"zoo.cli"},
    {"zoo.studies", "zoo.sweep"},
    {"zoo.__main__"},
    {"results"},
]
"""Each may import from its own layer and those above."""


def layer(module: str) -> int:
    for depth in range(module.count(".") + 1, 0, -1):
        name = ".".join(module.split(".")[:depth])
        for i, names in enumerate(LAYERS):
            if name in names:
                return i
    raise AssertionError(f"{module} stands in no layer: add it to LAYERS")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            package = (ROOT / node.module.replace(".", "/")).is_dir()
            found |= {f"{node.module}.{alias.name}" if package else node.module for alias in node.names}
    return {name for name in found if name.split(".")[0] in ("zoo", "tasks", "results")}


FILES = [path for folder in ("zoo", "tasks", "results") for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for name in imports(path):
        assert layer(name) <= layer(module), f"{module} imports {name}"


def test_implementations_do_not_import_each_other():
    folder = ROOT / "zoo" / "parameterizations"
    shared = {f"zoo.parameterizations.{name}" for name in ("base", "budget", "low_rank", "orthonormal")}
    for path in folder.glob("*.py"):
        if path.name != "__init__.py":
            siblings = {name for name in imports(path) if name.startswith("zoo.parameterizations")}
            assert {".".join(name.split(".")[:3]) for name in siblings} <= shared, path.name


def test_parameterizations_load_no_lightning():
    code = "import sys, zoo.parameterizations, zoo.layers.convert, zoo.spectrum; print('lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["fti"]])
def test_the_front_door_imports_nothing_heavy(words):
    code = f"import sys; from zoo.__main__ import main; main({words!r}); print('torch' in sys.modules, file=sys.stderr)"
    start = os.times()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.splitlines()[-1] == "False"
    assert os.times().children_user - start.children_user < 3  # it takes 0.05 s


def test_files_stay_readable():
    assert {str(p): n for p in FILES if (n := len(p.read_text().splitlines())) > 400} == {}
