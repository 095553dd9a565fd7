"""Measure: parameters, multiply-accumulates, bytes and milliseconds."""

from secateur.measure.cost import Cost, cost_of
from secateur.measure.latency import Latency, latency, latency_in_turn

__all__ = ["Cost", "Latency", "cost_of", "latency", "latency_in_turn"]
