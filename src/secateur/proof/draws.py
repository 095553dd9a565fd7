"""Operators that draw random numbers: both models of a proof must get the same ones.

The reference draws; the cut model is given what the reference drew for the kept positions.
"""

from typing import Any

import torch

from secateur.capture import Step
from secateur.capture.randomness import is_seeded
from secateur.graph.node import Node

UNWRITTEN = ("aten.empty", "aten.new_empty", "aten.empty_like", "aten.empty_strided", "aten.empty_permuted")
"""Operators whose result holds whatever lay there."""


def is_random(step: Step) -> bool:
    """Whether a call draws random numbers: dropout in training mode does, in eval mode it does not.

    Args:
        step: The call.
    """
    return is_seeded(step.func, step.args, step.kwargs)


def draws(node: Node) -> bool:
    """Whether an operator may draw random numbers."""
    namespace, _, name = node.op.partition(".")
    packet = getattr(getattr(torch.ops, namespace), name, None)
    func = getattr(packet, node.overload or "default", None)
    return func is not None and torch.Tag.nondeterministic_seeded in getattr(func, "tags", ())


def run(step: Step) -> Any:
    """Run an operator that draws nothing; memory that it leaves unwritten holds zeros in both models."""
    numbers = step.args[0].numel() if step.node.op == "aten.resize_" else None
    output = step.run()
    is_unwritten = step.node.op in UNWRITTEN or (numbers is not None and output.numel() > numbers)
    return output.zero_() if is_unwritten else output
