"""Couple: a recorded graph becomes groups of dims that share an axis, and the reasons why."""

from secateur.coupling.groups import Group, Groups, Member
from secateur.coupling.recorded import Recorded, on_any_substrate
from secateur.coupling.solve import couple_graph
from secateur.coupling.training import has_unused_parameters

__all__ = [
    "Group",
    "Groups",
    "Member",
    "Recorded",
    "couple_graph",
    "has_unused_parameters",
    "on_any_substrate",
]
