"""`zoo coordinates`: how sizes grow with width and depth."""
