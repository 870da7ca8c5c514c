"""The notebook runs, cell by cell, and what its last lines give can be shown in a notebook."""

import ast
import json
from pathlib import Path

import pytest

TOUR = Path(__file__).parents[2] / "docs" / "tour.ipynb"
CELLS = [cell for cell in json.loads(TOUR.read_text())["cells"] if cell["cell_type"] == "code"]


def test_the_tour_keeps_no_outputs():
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in CELLS)


@pytest.mark.slow
def test_the_tour_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    shown = []
    for i, cell in enumerate(CELLS):
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"<cell {i}>", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), f"<cell {i}>", "eval"), names)
            if value is not None:
                shown.append(value._repr_html_())
    assert len(shown) >= 3 and all(html.lstrip().startswith("<") for html in shown)
    assert not list(tmp_path.iterdir())
    losses = dict(
        line.rsplit(" ", 1) for line in capsys.readouterr().out.splitlines() if " 0." in line
    )
    assert losses
