"""What a model costs: parameters, MACs and bytes."""

from dataclasses import dataclass

from torch import nn

from secateur.costs.memory import activation_bytes
from secateur.coupling import Groups


@dataclass(frozen=True)
class Cost:
    """What a model costs.

    Attributes:
        params: Number of parameters; tied ones count once.
        macs: Multiply-accumulates of one forward pass on the example inputs, as recorded.
        size_bytes: Bytes of its parameters and buffers.
        memory_bytes: Bytes that one forward pass without gradients needs at once: parameters, buffers, and
            the activations that are alive together (`secateur.costs.memory`).
    """

    params: int
    macs: int
    size_bytes: int
    memory_bytes: int

    def __str__(self) -> str:
        return f"{self.params:,} parameters, {self.macs:,} MACs, {self.size_bytes:,} bytes"


def cost_of(model: nn.Module, groups: Groups) -> Cost:
    """Measure a model from its record.

    Args:
        model: The model.
        groups: The groups of exactly this model.

    Example:
        >>> import torch, secateur as sc
        >>> print(sc.measure(nn.Conv2d(3, 8, 3), torch.zeros(1, 3, 6, 6)))
        224 parameters, 3,456 MACs, 896 bytes
    """
    tensors = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    size_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    return Cost(
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs=groups.macs({}),
        size_bytes=size_bytes,
        memory_bytes=size_bytes + activation_bytes(groups),
    )
