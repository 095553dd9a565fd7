"""How sparse a model is: per tensor and in all, and what its weights look like."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from secateur.mask.targets import Selector, Target, choose
from secateur.rich import Table
from secateur.tables import printed


@dataclass(frozen=True)
class TensorSparsity:
    """How sparse one tensor is.

    Attributes:
        name: The parameter.
        shape: Its shape.
        zeros: How many of its entries are zero, with its mask.
        is_masked: Whether it has a mask.
    """

    name: str
    shape: tuple[int, ...]
    zeros: int
    is_masked: bool

    @property
    def size(self) -> int:
        """How many entries it has."""
        return int(torch.Size(self.shape).numel())

    @property
    def sparsity(self) -> float:
        """The share of zeros."""
        return self.zeros / max(self.size, 1)


@dataclass(frozen=True)
class Sparsity:
    """How sparse the tensors of a model are.

    Attributes:
        tensors: One row for each, in the order of the model.
        left_alone: Tensors that a request did not fit, with the reason.
    """

    tensors: tuple[TensorSparsity, ...]
    left_alone: Mapping[str, str] = field(default_factory=dict)

    @property
    def zeros(self) -> int:
        """Zeros of all tensors."""
        return sum(one.zeros for one in self.tensors)

    @property
    def size(self) -> int:
        """Entries of all tensors."""
        return sum(one.size for one in self.tensors)

    @property
    def sparsity(self) -> float:
        """Share of zeros of all tensors together."""
        return self.zeros / max(self.size, 1)

    def __getitem__(self, name: str) -> float:
        return next(one.sparsity for one in self.tensors if one.name == name)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, for machines."""
        rows = [
            {"name": one.name, "shape": list(one.shape), "zeros": one.zeros, "sparsity": one.sparsity}
            for one in self.tensors
        ]
        return {"sparsity": self.sparsity, "zeros": self.zeros, "size": self.size, "tensors": rows}

    def __str__(self) -> str:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for heading in ("tensor", "shape", "zeros", "of", "sparsity"):
            table.add_column(heading, justify="left" if heading in ("tensor", "shape") else "right")
        for one in self.tensors:
            shape = "x".join(map(str, one.shape))
            table.add_row(one.name, shape, f"{one.zeros:,}", f"{one.size:,}", f"{one.sparsity:.2%}")
        table.add_row("all", "", f"{self.zeros:,}", f"{self.size:,}", f"{self.sparsity:.2%}")
        left = [f"{name} is left alone: {reason}" for name, reason in self.left_alone.items()]
        return "\n".join([printed(table), *left])


def sparsity_of(
    targets: Sequence[Target], left_alone: Mapping[str, str] | None = None, *, of_masks: bool = False
) -> Sparsity:
    """Count the zeros of chosen tensors, or of their masks.

    Weights that just grew are zero, yet not masked.
    """
    rows = [
        TensorSparsity(
            target.name,
            tuple(target.orig.shape),
            int(((target.mask if of_masks else target.value) == 0).sum()),
            target.is_masked,
        )
        for target in targets
    ]
    return Sparsity(tuple(rows), left_alone or {})


def report(
    model: nn.Module, select: Selector = None, parameters: Sequence[str] = ("weight", "bias")
) -> Sparsity:
    """Count the zeros of a model's tensors, masked or not.

    Args:
        model: Not changed.
        select: Which tensors; as for `prune`. None takes weights with two or more dims, and biases that have
            a mask.
        parameters: Names of parameters in their modules.

    Example:
        >>> net = nn.Linear(4, 2)
        >>> with torch.no_grad():
        ...     _ = net.weight[0].zero_()
        >>> print(report(net))
        tensor  shape  zeros  of  sparsity
        weight  2x4        4   8    50.00%
        all                4   8    50.00%
    """
    targets = choose(model, select, parameters)
    if select is None:
        targets = [target for target in targets if target.orig.dim() >= 2 or target.is_masked]
    return sparsity_of(targets)


def histogram(model: nn.Module, bins: int = 20, select: Selector = None) -> list[tuple[float, float, int]]:
    """How the weights that are not zero are spread.

    Args:
        model: Not changed.
        bins: How many intervals of equal width.
        select: Which tensors; as for `prune`.

    Returns:
        For each interval its lower and upper end and how many weights lie in it. Zeros are left out: of a
        pruned model they would dwarf the rest.

    Example:
        >>> net = nn.Linear(2, 2, bias=False)
        >>> with torch.no_grad():
        ...     _ = net.weight.copy_(torch.tensor([[1.0, 0.0], [2.0, 3.0]]))
        >>> histogram(net, bins=2)
        [(1.0, 2.0, 1), (2.0, 3.0, 2)]
    """
    values = torch.cat([target.value.flatten().double().cpu() for target in choose(model, select)])
    values = values[values != 0]
    if not len(values):
        return []
    counts, edges = torch.histogram(values, bins)
    ends = edges.tolist()
    return [(ends[at], ends[at + 1], int(count)) for at, count in enumerate(counts.tolist())]
