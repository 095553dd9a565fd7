"""The two models of a pass: the original with drawn numbers, and what a plan makes of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import nn

from secateur.proof.drawing import HELD, precise, randomised

Make: TypeAlias = Callable[[], nn.Module]
"""Makes a model anew; the user of what it makes may change it."""


class CutMaker(Protocol):
    """What makes the other model of a proof: a plan, for one."""

    def apply(self, model: nn.Module) -> nn.Module:
        """Make it of a copy of the original, whatever that holds."""

    def renamed(self, name: str) -> str | None:
        """The name there of a tensor of the original; None if it is gone."""


@dataclass(eq=False)
class Models:
    """Makes the models of a proof.

    Attributes:
        original: Not changed.
        plan: What makes the cut model.
        seed: For the parameters.
        dtype: The precision to run in; None for that which each tensor has.
        held: What keeps its own numbers.
    """

    original: nn.Module
    plan: CutMaker
    seed: int
    dtype: torch.dtype | None = torch.float64
    held: str = HELD[0]

    def drawn(self, seed: int, style: str = "signed") -> Make:
        """Makes the original with random parameters, in the precision that holds when it is called."""
        return lambda: randomised(
            self.original, seed, style, None if self.dtype is None else torch.float64, self.held
        )

    def made(self, make: Make) -> nn.Module:
        """What is made, in the precision to run in and in eval mode."""
        return precise(make(), self.dtype).eval()

    def sides(self) -> tuple[nn.Module, nn.Module]:
        """The original with random parameters, and what the plan makes of it."""
        model = self.made(self.drawn(self.seed))
        return model, self.plan.apply(model).eval()
