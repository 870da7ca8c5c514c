"""What lies on disk of runs and adapters, read."""
