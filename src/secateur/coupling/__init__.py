"""Couple: a recorded graph becomes groups of dims that share an axis, and the reasons why."""

from secateur.coupling.groups import Group, Groups, Member
from secateur.coupling.solve import couple_graph
from secateur.coupling.training import has_unused_parameters, read_in_training_only

__all__ = ["Group", "Groups", "Member", "couple_graph", "has_unused_parameters", "read_in_training_only"]
