"""Commands that need no trainer: `main(argv)` takes the words after `zoo` and returns the exit status."""
