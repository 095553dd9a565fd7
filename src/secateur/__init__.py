"""Prune PyTorch networks: couple, score, cut, prove, recover."""

from secateur import errors
from secateur.check import Verdict
from secateur.measure import Cost, Latency, latency
from secateur.pipeline import Result, couple, measure, prune
from secateur.plan import Plan

__all__ = ["Cost", "Latency", "Plan", "Result", "Verdict", "couple", "errors", "latency", "measure", "prune"]
