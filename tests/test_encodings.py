"""Texts are UTF-8, whatever the locale: nothing in zoo opens one without saying so."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = [path for folder in ("zoo", "tasks") for path in sorted((ROOT / folder).rglob("*.py"))]


def unsaid(source: str) -> list[int]:
    """The lines that read or write text in the locale's encoding."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        of_os = getattr(getattr(node.func, "value", None), "id", "") == "os" and name == "open"
        method = isinstance(node.func, ast.Attribute)
        modes = [
            arg.value
            for arg in node.args
            if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
        ]
        text = (
            method
            and name in ("read_text", "write_text")
            or name in ("open", "fdopen")
            and not of_os
            and not any("b" in mode for mode in modes[-1:])
        )
        if text and not any(keyword.arg == "encoding" for keyword in node.keywords):
            found.append(node.lineno)
    return found


def test_every_text_says_its_encoding():
    found = [
        (str(path), line)
        for path in FILES
        for line in unsaid(path.read_text(encoding="utf-8"))
        if "safe_open" not in line_of(path, line)
    ]
    assert len(FILES) > 100 and found == []


def line_of(path: Path, number: int) -> str:
    return path.read_text(encoding="utf-8").splitlines()[number - 1]


def test_what_is_found():
    assert unsaid("p.read_text()\np.write_text(a)\nopen(p)\np.open('w')\nos.fdopen(3)") == [
        1,
        2,
        3,
        4,
        5,
    ]
    assert not unsaid(
        "p.read_text(encoding='x')\nopen(p, 'rb')\nos.open(p, 3)\nread_text(p)\np.open('ab')"
    )
