"""Prune in steps: cut a share, recover it without training, fine-tune, and again."""

from secateur.iterative.recipe import Recipe
from secateur.iterative.rows import ROWS, Iterated, StageRow
from secateur.iterative.run import iterate

__all__ = ["ROWS", "Iterated", "Recipe", "StageRow", "iterate"]
