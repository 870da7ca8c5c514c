"""Print what differs."""

from results.rows import FOLDER
from results.tables.check import table_differences

if __name__ == "__main__":
    print(*table_differences((FOLDER / "README.md").read_text()), sep="\n", end="")
