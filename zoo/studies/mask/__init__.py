"""`zoo mask`: how far an update compresses."""
