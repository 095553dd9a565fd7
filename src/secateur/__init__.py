"""Prune PyTorch networks: couple, score, cut, prove, recover."""

from secateur import errors
from secateur.check import Verdict
from secateur.couple import Group, Groups
from secateur.measure import Cost, Latency, latency
from secateur.pipeline import Result, couple, measure, prune, save
from secateur.pipeline import recover_result as recover
from secateur.plan import Plan
from secateur.write.checkpoint import load_model as load

__all__ = [
    "Cost",
    "Group",
    "Groups",
    "Latency",
    "Plan",
    "Result",
    "Verdict",
    "couple",
    "errors",
    "latency",
    "load",
    "measure",
    "prune",
    "recover",
    "save",
]
