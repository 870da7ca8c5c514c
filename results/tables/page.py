"""Tables of a Markdown page."""

import re

Cells = list[str]


def cells_of(line: str) -> Cells:
    """Split a line of a Markdown table."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def table(page: str, head: str) -> list[Cells]:
    """Return the rows of the table whose line of heads is `head`."""
    lines = [line.strip() for line in page.splitlines()]
    assert lines.count(head) == 1, f"{lines.count(head)} tables have the heads {head}"
    rows = []
    for line in lines[lines.index(head) + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(cells_of(line))
    return rows


def plain(cell: str) -> str:
    """Return a cell without emphasis and signs of zeros, a count without the remark behind it."""
    cell = re.sub(r"-(0\.0+)(?!\d)", r"\1", cell.replace("*", ""))
    return re.sub(r"(?<=\d) \([+-]?[\d.]+ %\)$", "", cell).strip()
