"""Files that may come from anyone: read within bounds, written whole or not at all."""
