"""Print the table of claims as Markdown."""

from results.claims.table import markdown

if __name__ == "__main__":
    print(markdown())
