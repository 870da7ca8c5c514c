"""Constants of zoo's that are fitted to what was measured."""
