"""Memory: a cut model holds the plan that made it, so that what is cut further or saved knows where it began.

The plan is an attribute of the instance beside its parameters: no tensor, and in no state dict. It goes along
with copies, and into pickles as plain compressed text, which is read where this library is not installed,
also by `torch.load(weights_only=True)`. TorchScript, tracing and export pass it by, since nothing reads it.
"""

import codecs
import zlib
from typing import Any, Protocol

from torch import nn

_HELD = "_secateur_plan"


class Writable(Protocol):
    """What can be remembered: something that writes itself as JSON."""

    def to_json(self) -> str:
        """The text."""


class PlanMemory:
    """Holds a plan, which never changes: copies share it, and pickles hold its compressed text as bytes."""

    __slots__ = ("plan",)

    def __init__(self, plan: Writable) -> None:
        self.plan = plan

    def __copy__(self) -> "PlanMemory":
        return self

    def __deepcopy__(self, memo: Any) -> "PlanMemory":
        return self

    def __reduce__(self) -> Any:
        text = zlib.compress(self.plan.to_json().encode())
        return codecs.encode, (text.decode("latin1"), "latin1")  # as bytes are before pickle's protocol 3


def remember(model: nn.Module, plan: Writable) -> None:
    """Let a model of ours hold a plan, in place of the one that it held.

    Example:
        >>> import copy, pickle
        >>> class Word:
        ...     def to_json(self):
        ...         return '"plan"'
        >>> net = nn.Linear(2, 2)
        >>> remember(net, Word())
        >>> recalled(pickle.loads(pickle.dumps(copy.deepcopy(net))))
        b'"plan"'
        >>> list(net.state_dict())
        ['weight', 'bias']
    """
    model.__dict__[_HELD] = PlanMemory(plan)


def forget(model: nn.Module) -> None:
    """Let a model hold no plan: it is no longer what a plan makes."""
    vars(model).pop(_HELD, None)


def recalled(model: nn.Module) -> Any:
    """What a model remembers: the plan, or its text in a model that was pickled since; None if nothing."""
    held = vars(model).get(_HELD)
    if isinstance(held, PlanMemory):
        return held.plan
    return zlib.decompress(held) if isinstance(held, bytes) else None
