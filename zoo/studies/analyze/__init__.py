"""`zoo analyze`: what is in a trained update, beside its nulls."""
