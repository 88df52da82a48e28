"""Ways to compute attention under a pattern; all give the same result."""
