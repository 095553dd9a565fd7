"""Select: scores and a budget become the positions that each group keeps."""

from secateur.select.budget import Budget
from secateur.select.exact import select_exactly
from secateur.select.rank import Selection, select

__all__ = ["Budget", "Selection", "select", "select_exactly"]
