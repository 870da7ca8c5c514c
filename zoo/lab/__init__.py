"""The spectral laboratory: what is in a trained update, and how far it compresses."""
