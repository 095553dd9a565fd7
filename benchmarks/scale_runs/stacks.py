"""Deep stacks of one kind, by their number of recorded operators.

    chain      conv-relu, each reads the one before            N nodes, N edges
    residual   x + relu(conv(x)), all of one width             N nodes, 4 N / 3 edges
    dense      each conv reads the concatenation of all before N nodes, N^2 / 8 edges

The concatenations of the dense stack have N^2 / 8 operands together: no analysis that looks at each of them
once can take less.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Chain(nn.Module):
    """1x1 convolutions, each followed by a ReLU."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(width if index else 3, width, 1) for index in range(depth))

    def forward(self, image: Tensor) -> Tensor:
        """The output of the last convolution, rectified."""
        for conv in self.convs:
            image = torch.relu(conv(image))
        return image


class Residual(nn.Module):
    """Residual blocks of one 1x1 convolution, between a stem and a head."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, width, 1), nn.Conv2d(width, 4, 1)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(depth))

    def forward(self, image: Tensor) -> Tensor:
        """The output of the head."""
        image = self.stem(image)
        for conv in self.convs:
            image = image + torch.relu(conv(image))
        return self.head(image)


class Dense(nn.Module):
    """1x1 convolutions, each of which reads the concatenation of all before it; the first reads the image."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(width * index or 3, width, 1) for index in range(depth))

    def forward(self, image: Tensor) -> Tensor:
        """The output of the last convolution."""
        seen: list[Tensor] = []
        for conv in self.convs:
            seen.append(conv(torch.cat(seen, dim=1) if seen else image))
        return seen[-1]


STACKS: dict[str, tuple[Callable[[int, int], nn.Module], int]] = {
    "chain": (Chain, 2),
    "residual": (Residual, 3),
    "dense": (Dense, 2),
}
"""The class of each stack, and how many operators one of its layers calls."""

WIDTH = 8


def make_stack(kind: str, nodes: int, width: int = WIDTH, device: str = "cpu") -> tuple[nn.Module, Tensor]:
    """A stack of about this many operators in eval mode, and its input."""
    make, calls = STACKS[kind]
    with torch.device(device):
        return make(max(2, nodes // calls), width).eval(), torch.zeros(1, 3, 8, 8)
