"""`zoo report`: runs side by side."""
