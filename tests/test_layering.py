"""Imports run one way, and what must be quick imports nothing heavy."""

import ast
import functools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from zoo import PLACES, parameterizations

ROOT = Path(__file__).parents[1]
LAYERS = [
    {"zoo", "zoo.errors", "zoo.provenance"},
    {"zoo.files"},
    {"zoo.bases"},
    {"zoo.parameterizations", "zoo.spectrum", "zoo.pages"},
    {"zoo.layers"},
    {"zoo.training", "zoo.testing"},
    {"zoo.runs"},
    {"zoo.api", "zoo.hf"},
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


@functools.cache
def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            package = (ROOT / node.module.replace(".", "/")).is_dir()
            found |= {
                f"{node.module}.{alias.name}" if package else node.module for alias in node.names
            }
    return {name for name in found if name.split(".")[0] in ("zoo", "tasks", "results")}


FILES = [
    path for folder in ("zoo", "tasks", "results") for path in sorted((ROOT / folder).rglob("*.py"))
]


FRONT_DOOR = ROOT / "zoo" / "__init__.py"


def test_imports_run_one_way():
    found = []
    for path in FILES:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if path == FRONT_DOOR:  # it imports for editors alone, and names when they are used
            continue
        found += [
            f"{module} imports {name}" for name in imports(path) if layer(name) > layer(module)
        ]
    assert len(FILES) > 100 and found == []


def test_implementations_do_not_import_each_other():
    room = "zoo.parameterizations"
    shared = (
        "base",
        "budget",
        "cost",
        "factory",
        "fitting",
        "isometry",
        "low_rank.products",
        "of_base.base_map",
        "of_base.factors",
        "of_base.held",
        "structured.nested",
        "structured.sizes",
        "structured.two_paths",
        "subspaces.orthonormal",
        "subspaces.separable",
    )
    made_of_maps = ("__init__.py", "sum.py", "product.py")  # which have some by default
    for path in (ROOT / "zoo" / "parameterizations").rglob("*.py"):
        if path.name not in made_of_maps:
            siblings = {name for name in imports(path) if name.startswith(room)}
            assert all(
                f"{name}.".startswith(tuple(f"{room}.{each}." for each in shared))
                for name in siblings
            ), path.name


@pytest.mark.parametrize(
    "study", sorted(path.parent.name for path in (ROOT / "zoo/studies").glob("*/command.py"))
)
def test_a_study_can_be_deleted(study):
    """What is left of the package without its room, its word in `zoo/__main__.py` and its name in
    `zoo/__init__.py` imports nothing of it.
    """
    room, taken = ROOT / "zoo" / "studies" / study, f"zoo.studies.{study}"
    others = [
        path
        for path in FILES
        if not path.is_relative_to(room)
        and not path.is_relative_to(ROOT / "results")
        and path != FRONT_DOOR
    ]
    for path in [*others, ROOT / "tests" / "conftest.py"]:
        assert not [name for name in imports(path) if f"{name}.".startswith(f"{taken}.")], path
        assert taken not in path.read_text(), f"{path} names {taken}"


# ---- Names that are said -------------------------------------------------------------------------

NAME = re.compile(r"(?<![\w./-])(?:zoo|tasks|results)(?:\.[A-Za-z_]\w*)+(?![\w/])")
PATH = re.compile(
    r"(?<![\w./-])(?:zoo|tasks|results|tests|docs|configs)/[\w/]+(?:\.(?:py|sh|md|csv|yaml)|/(?=[\s`),;:]))"
)
TEXTS = [
    path
    for pattern in (
        "README.md",
        "docs/*.md",
        "results/*.md",
        "results/*.sh",
        "configs/*.yaml",
        ".ci/run",
        "pyproject.toml",
    )
    for path in sorted(ROOT.glob(pattern))
]
INVENTED = {"zoo.x.os.system"}
"""Examples of what nobody has."""


def said(path: Path) -> str:
    """A text; of Python, its strings without what is put into them, and its comments."""
    text = path.read_text()
    if path.suffix != ".py":
        return text
    strings = [
        node.value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return "\n".join([*strings, *re.findall(r"(?:^|\s)#.*", text)])


@functools.cache
def defined(file: Path) -> dict[str, ast.AST]:
    """What a module, as a file, defines or imports on its top level."""
    return dict(bound(ast.parse(file.read_text()).body))


def bound(body: list[ast.stmt]) -> Iterator[tuple[str, ast.AST]]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name, node) for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found = [each for target in targets for each in ast.walk(target)]
            yield from ((each.id, node) for each in found if isinstance(each, ast.Name))
        elif isinstance(node, ast.If | ast.Try):
            yield from bound(node.body)


OFFERED = {*PLACES, *parameterizations.__all__}
"""What `import zoo` has that is defined elsewhere."""


def is_there(name: str) -> bool:
    """Whether a dotted name is a module, what a module has, or what a class in it has."""
    parts, place = name.split("."), ROOT
    if len(parts) == 2 and parts[0] == "zoo" and parts[1] in OFFERED:
        return True
    while parts and (place / parts[0]).is_dir():
        place /= parts.pop(0)
    if parts and (place / f"{parts[0]}.py").is_file():
        place /= f"{parts.pop(0)}.py"
    elif place.is_dir():
        place /= "__init__.py"
    if not parts:
        return place.parent.is_dir()
    found = defined(place).get(parts[0]) if place.is_file() else None
    inside = dict(bound(found.body)) if isinstance(found, ast.ClassDef) else {}
    return found is not None and (len(parts) == 1 or not inside or parts[1] in inside)


def test_what_is_named_is_there():
    found = []
    for path in [*FILES, *TEXTS]:
        text = said(path)
        names = [
            name
            for name in NAME.findall(text)
            if not re.search(r"\.(?:py|csv|yaml|sh|md|json|mplstyle)$", name)
        ]
        found += [
            (str(path), name) for name in names if name not in INVENTED and not is_there(name)
        ]
        found += [(str(path), name) for name in PATH.findall(text) if not (ROOT / name).exists()]
    assert found == []


def test_a_name_that_is_not_there_is_found():
    assert (
        is_there("zoo.layers.convert.convert")
        and is_there("zoo.runs.peft")
        and is_there("tasks.CharLM")
    )
    for name in (
        "zoo.convert",
        "zoo.lab.analysis",
        "zoo.layers.convert.merged",
        "zoo.runs.peft.nothing",
    ):
        assert not is_there(name)


def test_parameterizations_load_neither_lightning_nor_triton():
    """Triton takes 0.17 s to load, and comes with torch's counter of operations too."""
    code = (
        "import sys, zoo.parameterizations, zoo.layers.convert, zoo.spectrum; "
        "print([name for name in ('lightning', 'triton') if name in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["fti"]])
def test_the_front_door_imports_nothing_heavy(words):
    code = (
        f"import sys; from zoo.__main__ import main; main({words!r}); "
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    start = os.times()
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stderr.splitlines()[-1] == "False"
    assert os.times().children_user - start.children_user < 3  # it takes 0.05 s


def at_once(path: Path) -> set[str]:
    """What a module imports as it is imported: not in a function, nor for types alone."""
    nodes = ast.parse(path.read_text()).body
    names = set()
    for node in nodes:
        if isinstance(node, ast.Try):
            nodes += node.body
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("package", ["pandas", "jinja2"])
def test_commands_load_what_only_tables_and_pages_need_when_they_have_one(package):
    """pandas takes a second to import, and neither need be there to train."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in FILES
    }
    commands = [
        name for name in modules if re.match(r"zoo\.(cli|sweep|studies\.\w+\.command)", name)
    ]
    assert len(commands) > 20
    seen, left = set(), [*commands, "zoo.__main__", "zoo.api", "tasks"]
    while left:
        name = left.pop()
        if name in modules and name not in seen:
            seen.add(name)
            found = at_once(modules[name])
            assert package not in {each.partition(".")[0] for each in found}, name
            left += found
    users = [path for path in FILES if package in {n.partition(".")[0] for n in at_once(path)}]
    assert users and all(path.is_relative_to(ROOT / "zoo") for path in users)


def test_files_stay_readable():
    assert {str(p): n for p in FILES if (n := len(p.read_text().splitlines())) > 400} == {}
