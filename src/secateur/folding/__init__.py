"""Folding: batch norms go into the layers before them, for deployment, and the result is proven."""

from secateur.folding.folded import Folded, fold

__all__ = ["Folded", "fold"]
