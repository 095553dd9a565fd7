"""`secateur mask`: masks on weights; one module for each second word."""

from collections.abc import Callable

from secateur.cli.app import Group, commands
from secateur.registry import Registry

verbs: Registry[Callable[..., None]] = Registry("mask command", "secateur.cli.commands.mask")

commands.add("mask", Group("Mask weights, report, bake masks in, and make real cuts of them.", verbs))
