"""Random numbers of our own: what a run of ours draws, no one else misses.

The generators of the process belong to the user, whose threads may be drawing from them at the same time.
So an operator that draws is given a generator that no one else has; one that takes none is taken apart into
those that do.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator

from secateur.capture.modes import Mode
from secateur.capture.operators import schema_arguments

_SWITCHES = ("train", "training")
_SHARES = ("p", "dropout", "dropout_p")
_LOCK = threading.Lock()


def is_seeded(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call draws random numbers: dropout in training mode does, in eval mode it does not.

    Args:
        func: The operator.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
    """
    if isinstance(func, HigherOrderOperator) or torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    named = dict(schema_arguments(func, args, dict(kwargs)))
    is_off = any(named.get(name) is False for name in _SWITCHES)
    shares = [named[name] for name in _SHARES if isinstance(named.get(name), float)]
    return not is_off and (not shares or any(shares))


def draw(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], seed: int) -> Any:
    """Run an operator that draws, with a generator of its own.

    Args:
        func: The operator.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        seed: Of the generator.

    Example:
        >>> before = torch.get_rng_state()
        >>> one, two = (draw(torch.ops.aten.rand.default, ([3],), {}, seed=7) for _ in range(2))
        >>> torch.equal(one, two), torch.equal(torch.get_rng_state(), before)
        (True, True)
    """
    named = dict(schema_arguments(func, args, dict(kwargs)))
    like = next((value for value in named.values() if isinstance(value, Tensor)), None)
    device = torch.device(named.get("device") or "cpu") if like is None else like.device
    if device.type == "meta":
        return func(*args, **kwargs)
    generator = torch.Generator(device).manual_seed(seed)
    if "generator" in named:
        return func(**{**named, "generator": generator})
    packet = func.overloadpacket
    if any("generator" in overload for overload in packet.overloads()):
        return packet(*args, **kwargs, generator=generator)
    if packet is torch.ops.aten.dropout or packet is torch.ops.aten.dropout_:
        assert like is not None, "dropout has an input"
        keep = torch.empty_like(like).bernoulli_(1 - named["p"], generator=generator)
        scaled = keep.div_(1 - named["p"]) if named["p"] < 1 else keep
        return like.mul_(scaled) if packet is torch.ops.aten.dropout_ else like * scaled
    if func._can_decompose():
        with OwnNumbers(seed):
            return func.decompose(*args, **kwargs)
    devices = [device] if device.type != "cpu" else []
    with _LOCK, torch.random.fork_rng(devices=devices, device_type=device.type if devices else "cuda"):
        torch.manual_seed(seed)
        return func(*args, **kwargs)


def seed_of(seed: int, index: int) -> int:
    """The seed of one operator of a record, by the seed of the whole."""
    return (seed * 0x9E3779B97F4A7C15 + index * 0xBF58476D1CE4E5B9) % 2**63  # near seeds draw alike


class OwnNumbers(Mode):
    """All operators that draw, draw from generators of their own.

    Args:
        seed: Of the first; each call has another.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed_of(seed, 0)
        self.has_drawn = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not is_seeded(func, args, kwargs) or _has_own(kwargs, args):
            return func(*args, **kwargs)
        self.seed += 1
        self.has_drawn = True
        return draw(func, args, kwargs, self.seed)


def _has_own(kwargs: Mapping[str, Any], args: Sequence[Any]) -> bool:
    """Whether a call brings a generator."""
    return any(isinstance(value, torch.Generator) for value in (*args, *kwargs.values()))
