"""Operators: which of them do not shrink with a model, by what they take of its time."""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.benching.program import Contender
from secateur.capture import as_call
from secateur.capture.shadow import shadow
from secateur.costs.stopwatch import quiet, synchronise, untouching

_PASSES = 5
_LEAST_WASTE, _LEAST_GROWTH = 0.02, 0.005
"""An operator is named if it wastes so much of the time, and its share of the time grew by so much."""


@dataclass(frozen=True)
class Growth:
    """An operator that takes more of the smaller model's time than of the first one's.

    Attributes:
        operator: "batch_norm".
        before: Its share of the time of the first model's operators.
        share: Its share of the time of this model's operators.
        left: What it takes here of what it takes in the first model; infinite where that has none of it.
    """

    operator: str
    before: float
    share: float
    left: float

    def __str__(self) -> str:
        return f"{self.operator} {self.before:.0%} -> {self.share:.0%} of the time"


class _Clock(TorchDispatchMode):
    """Adds up the milliseconds of each operator that the model's code calls, with all that is under it."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.taken: defaultdict[str, float] = defaultdict(float)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        synchronise(self.device)
        begin = time.perf_counter()
        made = func(*args, **(kwargs or {}))
        synchronise(self.device)
        self.taken[func._schema.name.removeprefix("aten::")] += 1000 * (time.perf_counter() - begin)
        return made


def operator_times(contender: Contender, threads: int) -> dict[str, float]:
    """The milliseconds of a pass by operator, medians of a few passes, without the Python between them."""
    model = shadow(contender.module)
    args, kwargs = as_call(contender.inputs)
    device = next((one.device for one in model.parameters()), torch.device("cpu"))
    passes = []
    with quiet(model, threads), torch.inference_mode(), untouching(model, args, kwargs):
        for _ in range(_PASSES):
            with _Clock(device) as clock:
                model(*args, **kwargs)
            passes.append(clock.taken)
    return {name: median(taken[name] for taken in passes) for name in passes[0]}


def growing(first: dict[str, float], here: dict[str, float], ideal: float, most: int = 3) -> Sequence[Growth]:
    """The operators that keep a model from its ideal, the worst first.

    Args:
        first: Milliseconds by operator, of the first model.
        here: The same of another.
        ideal: What the other should take of the first one's time.
        most: How many.

    Example:
        >>> print(*growing({"conv": 90.0, "norm": 10.0}, {"conv": 30.0, "norm": 10.0}, ideal=0.3))
        norm 10% -> 25% of the time
    """
    whole, total = sum(first.values()), sum(here.values())
    waste = {name: taken - ideal * first.get(name, 0.0) for name, taken in here.items()}
    found = []
    for name in sorted(waste, key=lambda name: -waste[name]):
        before, share = first.get(name, 0.0) / whole, here[name] / total
        if share - before > _LEAST_GROWTH and waste[name] > _LEAST_WASTE * total:
            left = here[name] / first[name] if first.get(name) else float("inf")
            found.append(Growth(name, before, share, left))
    return found[:most]
