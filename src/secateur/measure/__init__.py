"""Measure: parameters, multiply-accumulates, bytes and milliseconds."""

from secateur.measure.cost import Cost, cost_of
from secateur.measure.latency import Latency, latency

__all__ = ["Cost", "Latency", "cost_of", "latency"]
