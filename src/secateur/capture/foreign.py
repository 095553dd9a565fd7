"""Tensors of another model: what is made of a model must compute with tensors of its own.

A copy can reach what it is a copy of by ways that no copying follows: a global name, a module in a list of
the class, an object that refuses to be copied. It then runs with right numbers, trains the other model's
weights, and changes when those are changed. So every operator of a new model is looked at: none may be given
memory of a parameter or buffer of the old one.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from secateur.capture.recorder import Recorder
from secateur.errors import ForeignTensorError


def memory_of(model: nn.Module) -> dict[int, str]:
    """The memory of each parameter and buffer, by what `memory` says of it.

    Args:
        model: Any module.

    Returns:
        The tensor's name.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> memory_of(layer)[memory(layer.weight.T)]
        'weight'
    """
    named = [*model.named_parameters(), *model.named_buffers()]
    return {memory(tensor): name for name, tensor in named if tensor.numel()}


def memory(tensor: Tensor) -> int:
    """What tensors that share memory have in common."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse tensors and subclasses have no memory of their own
        return id(tensor)


def require_own(tensors: Iterable[Any], foreign: Mapping[int, str], where: str) -> None:
    """Refuse an operator that is given a tensor of the original.

    Args:
        tensors: What it is given; all but tensors is passed over.
        foreign: The memory of the original, as `memory_of` lists it.
        where: The operator, in words.

    Raises:
        ForeignTensorError: It is.
    """
    for tensor in tensors:
        name = foreign.get(memory(tensor)) if isinstance(tensor, Tensor) else None
        if name is not None:
            raise ForeignTensorError(
                f"the new model computes with {name} of the original: {where}",
                ["its code reaches the original by a global name, or by an object that was not copied"],
                "let that code reach modules and tensors through self, or remove it while secateur runs",
            )


class WatchingRecorder(Recorder):
    """A recorder that refuses tensors of another model.

    Args:
        model: What runs.
        foreign: The memory of the other model.

    Raises:
        ForeignTensorError: It holds one, or, once it runs, an operator is given one.
    """

    def __init__(self, model: nn.Module, foreign: Mapping[int, str]) -> None:
        super().__init__(model)
        self.foreign = foreign
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            require_own([tensor], foreign, f"it is its {name}, too")

    def _argument(self, value: Any) -> Any:
        if isinstance(value, Tensor) and id(value) not in self._index_of:
            require_own([value], self.foreign, f"in {self._stack[-1] or 'the model'} at {self._source()}")
        return super()._argument(value)
