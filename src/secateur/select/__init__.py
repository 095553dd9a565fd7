"""Select: scores and a budget become the positions that each group keeps."""

from secateur.select.budget import Budget, budget_of
from secateur.select.budgets.keep import select_exactly
from secateur.select.choice import Selection
from secateur.select.floors import Floors
from secateur.select.rank import Offer, offer, select

__all__ = ["Budget", "Floors", "Offer", "Selection", "budget_of", "offer", "select", "select_exactly"]
