"""The table of claims in results/README.md, each number recomputed from the rows.

    python -m results.claims     # prints the table as Markdown, to be pasted below "## Claims"

To add a claim, yield one more `Claim` in a section, or write a section, a function in a file of
this folder, and add it to `results.claims.table.SECTIONS`; then paste what this prints. A number is
made of rows (`results.rows`), with an interval or a spread that says how far it may be off, and a
verdict follows from it by a rule.
"""
