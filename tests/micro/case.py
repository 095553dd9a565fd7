"""What a one-operator network is, what is expected of it, and the frame most of them share.

The frame is `a -> the operator -> b -> tanh -> c`: the operator sits between two layers whose channels could
be cut, and b's own channels are free whatever the operator is, so that a barrier is seen to stop where it
should.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from masked import Kept
from torch import Tensor, nn

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """A network and its expected outcome at ratio 0.5.

    Attributes:
        name: What the network shows.
        make: Builds it.
        inputs: The shape of its input, the shapes of several, or a function that draws them.
        outcome: "exact", "renormalised" or "protected".
        kept: Shapes of some parameters and buffers of the cut network.
        reason: For tensors whose first dim must stay whole, a fragment of the reason.
        masked: Turns the original, with removed parameter entries set to zero already, into the reference;
            None where zeros are the whole of it.
        bug: What is wrong today; the case is then expected to fail.
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: Shape | tuple[Shape, ...] | Callable[[], Any]
    outcome: str
    kept: Mapping[str, Shape]
    reason: Mapping[str, str] = field(default_factory=dict)
    masked: Callable[[nn.Module, Kept], None] | None = None
    bug: str = ""

    def draw(self) -> Any:
        """Random inputs."""
        if callable(self.inputs):
            return self.inputs()
        if isinstance(self.inputs[0], tuple):
            return tuple(torch.randn(shape) for shape in self.inputs)
        return torch.randn(self.inputs)


class Between(nn.Module):
    """a -> op -> b -> tanh -> c."""

    def __init__(self, a: nn.Module, op: Callable[..., Tensor], b: nn.Module, c: nn.Module):
        super().__init__()
        self.a, self.op, self.b, self.c = a, op, b, c

    def forward(self, x):
        return self.c(self.b(self.op(self.a(x))).tanh())


def maps(op: Callable[..., Tensor], into: int = 8, out_of: int = 8) -> Between:
    """The operator between convolutions; images (n, 3, 6, 6)."""
    return Between(nn.Conv2d(3, out_of, 3, padding=1), op, nn.Conv2d(into, 6, 1), nn.Conv2d(6, 2, 1))


def rows(op: Callable[..., Tensor], into: int = 8, out_of: int = 8) -> Between:
    """The operator between linear layers; rows (n, 5) or tokens (n, l, 5)."""
    return Between(nn.Linear(5, out_of), op, nn.Linear(into, 6), nn.Linear(6, 2))


def features(op: Callable[..., Tensor], into: int = 8, out_of: int = 8) -> Between:
    """From a convolution to a linear layer; images (n, 3, 6, 6)."""
    return Between(nn.Conv2d(3, out_of, 3, padding=1), op, nn.Linear(into, 6), nn.Linear(6, 2))


IMAGES: Shape = (2, 3, 6, 6)
ROWS: Shape = (3, 5)
TOKENS: Shape = (2, 7, 5)

A_MAP, A_ROW = (4, 3, 3, 3), (4, 5)
"""What is left of a's weight when half of its channels go."""

WHOLE_MAP, WHOLE_ROW = (8, 3, 3, 3), (8, 5)
"""What a's weight is when none go."""


def halves(a: Shape, b: Shape) -> dict[str, Shape]:
    """The weights of the frame after the cut."""
    return {"a.weight": a, "b.weight": b}
