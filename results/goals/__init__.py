"""The goals of the project beside what is measured: `python -m results.goals`."""
