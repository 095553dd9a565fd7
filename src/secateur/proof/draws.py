"""Operators that draw random numbers: both models of a proof must get the same ones.

The reference draws, from a generator of its own as far as the operator takes one, so that no one else's
numbers change; the cut model is given what the reference drew for the kept positions.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._ops import HigherOrderOperator

from secateur.capture import Step

UNWRITTEN = ("aten.empty", "aten.new_empty", "aten.empty_like", "aten.empty_strided", "aten.empty_permuted")
"""Operators whose result holds whatever lay there."""

_SWITCHES = ("train", "training")
_SHARES = ("p", "dropout", "dropout_p")


@contextmanager
def generators_kept() -> Iterator[None]:
    """Give Python's, NumPy's and PyTorch's random numbers back as they were."""
    python, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)


def is_random(step: Step) -> bool:
    """Whether a call draws random numbers: dropout in training mode does, in eval mode it does not.

    Args:
        step: The call.
    """
    if isinstance(step.func, HigherOrderOperator) or torch.Tag.nondeterministic_seeded not in step.func.tags:
        return False
    named = step.named()
    is_off = any(named.get(name) is False for name in _SWITCHES)
    shares = [named[name] for name in _SHARES if isinstance(named.get(name), float)]
    return not is_off and (not shares or any(shares))


def run(step: Step) -> Any:
    """Run an operator that draws nothing; memory that it leaves unwritten holds zeros in both models."""
    output = step.run()
    return output.zero_() if step.node.op in UNWRITTEN else output


def draw(step: Step, seed: int) -> Any:
    """Run an operator that draws.

    Args:
        step: The call.
        seed: For its numbers, together with its place in the record.
    """
    named = step.named()
    like = next((value for value in named.values() if isinstance(value, Tensor)), None)
    device = like.device if like is not None else torch.device(named.get("device") or "cpu")
    generator = torch.Generator(device).manual_seed(seed * 1_000_003 + step.node.index)
    if "generator" in named:
        return step.func(**{**named, "generator": generator})
    packet = step.func.overloadpacket
    if "generator" in packet.overloads():
        return packet.generator(**named, generator=generator)
    if step.node.op.removesuffix("_") == "aten.dropout":
        assert like is not None, "dropout has an input"
        keep = torch.empty_like(like).bernoulli_(1 - named["p"], generator=generator)
        scaled = keep.div_(1 - named["p"]) if named["p"] < 1 else keep
        return like.mul_(scaled) if step.node.op.endswith("_") else like * scaled
    devices = [device] if device.type != "cpu" else []
    with torch.random.fork_rng(devices=devices, device_type=device.type if devices else "cuda"):
        torch.manual_seed(generator.initial_seed())
        return step.run()
