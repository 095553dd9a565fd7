"""Recover: make a cut model better without training it."""

from secateur.recover.step import Recovery, Subject, recover, steps

__all__ = ["Recovery", "Subject", "recover", "steps"]
