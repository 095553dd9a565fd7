"""Measure: parameters, multiply-accumulates, bytes and milliseconds."""

from secateur.costs.cost import Cost, cost_of
from secateur.costs.stopwatch import Latency, latency, latency_in_turn

__all__ = ["Cost", "Latency", "cost_of", "latency", "latency_in_turn"]
