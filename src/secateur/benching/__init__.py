"""Benching: several models timed in turn, in several programs, and what keeps each from its ideal."""

from secateur.benching.program import Contender, programs
from secateur.benching.turns import Bench, bench

__all__ = ["Bench", "Contender", "bench", "programs"]
