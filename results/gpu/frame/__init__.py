"""How a part is run: its setting, its clock, its table, what it lacks and what it says at the end."""
