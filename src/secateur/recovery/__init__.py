"""Recover: make a cut model better without training it."""

from secateur.recovery.step import MEMORY_BYTES, Recovered, Recovery, Subject, choose, recover, table

__all__ = ["MEMORY_BYTES", "Recovered", "Recovery", "Subject", "choose", "recover", "table"]
