"""The commands that need no trainer, one a file: `main(argv)` takes the words after `zoo` and returns the exit status."""
