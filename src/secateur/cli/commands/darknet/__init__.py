"""`secateur darknet`: one module a verb."""

from collections.abc import Callable

from secateur.cli.app import Group, commands
from secateur.registry import Registry

verbs: Registry[Callable[..., None]] = Registry("darknet command", "secateur.cli.commands.darknet")

commands.add("darknet", Group("YOLO and Darknet: train, prune, sweep, detect; .cfg and .weights.", verbs))
