"""Schedules: how sparse a model is at each moment of its training."""

from collections.abc import Callable
from typing import TypeAlias

from secateur.registry import Registry

Schedule: TypeAlias = Callable[[float, float, float], float]
"""From progress in [0, 1], the sparsity at the start and the one to reach, to the sparsity now."""

schedules: Registry[Schedule] = Registry("schedule", "secateur.mask.schedules")
