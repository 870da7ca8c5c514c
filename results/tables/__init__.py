"""Hold the tables of results/README.md against the rows that they are of.

    python -m results.tables     # prints each cell that differs; nothing where all agree

A table is known by its line of heads. What a cell is recomputed to has no stars of a best value and
no remark in brackets behind a count. A new table is a function of a row's cells and the heads, and
an entry of `results.tables.check.TABLES`.
"""
