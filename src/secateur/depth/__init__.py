"""Depth: find the residual blocks of a model and drop the least of them."""

from secateur.depth.blocks import Block, Found, find_blocks
from secateur.depth.drop import Dropped, check_dropped, drop_blocks

__all__ = ["Block", "Dropped", "Found", "check_dropped", "drop_blocks", "find_blocks"]
