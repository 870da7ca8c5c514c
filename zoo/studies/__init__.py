"""Commands that look at runs and layers, a room each."""
