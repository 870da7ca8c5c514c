"""`zoo bench`: what layers cost."""
