"""How a part is run: setting, clock, table, what it lacks, and what it says at the end."""
