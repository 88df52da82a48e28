"""Finds where a text may be cut so that its parts give the ids of the whole."""

from transom.tokens.boundaries.boundaries import Boundaries

__all__ = ["Boundaries"]
