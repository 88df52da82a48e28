"""Many contexts under one budget of bytes; needs no torch."""
