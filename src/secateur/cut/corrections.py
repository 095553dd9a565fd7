"""Corrections: numbers that a module's Python computes or holds, passed on as what they must be after a cut.

Where code derives a width from the shape of its input (`B, N, C = x.shape; ...; x.reshape(B, N, C)`), no
attribute can tell it of a cut. The module gets a subclass of its own class whose `forward` runs the same
Python under a `TorchFunctionMode` that replaces one number of one call.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from math import isclose
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

from secateur.capture.opened import opened
from secateur.capture.tracer import Traced
from secateur.errors import CutError

_ATTRIBUTE = "_secateur_corrections"


@dataclass(frozen=True)
class Correction:
    """One number of one call in the forward of a module.

    Attributes:
        function: Name of the function or method of PyTorch.
        ordinal: Which call of a function of that name since the module's forward began, from 1.
        position: Which of the call's numbers.
        was: What the cut model computes there; anything else is refused.
        now: What it must be.
        is_factor: The number is `was` times a size that no plan cuts (the batch), which stays.
    """

    function: str
    ordinal: int
    position: int
    was: int | float
    now: int | float
    is_factor: bool = False

    def apply(self, number: Any) -> int | float:
        """The corrected number.

        Raises:
            CutError: The code computes another number than when the cut was made.
        """
        times = 1
        if self.is_factor and number % self.was == 0:
            times = number // self.was
        if not isclose(number, times * self.was, rel_tol=1e-6):
            raise CutError(
                f"call {self.ordinal} of {self.function} passes {number}, the plan corrects {self.was}",
                do="the model takes another path than when it was cut; cut it with inputs that take this one",
            )
        return times * self.now

    def __str__(self) -> str:
        return f"{self.function} (call {self.ordinal}): {self.was} -> {self.now}"


class Corrected:
    """Mixed into the class of a module whose calls are corrected."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own forward with some numbers replaced."""
        with _Correcting(getattr(self, _ATTRIBUTE)):
            return super().forward(*args, **kwargs)  # type: ignore[misc]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle and copy by the original class, as the subclass has no name that could be imported."""
        return _rebuild, (type(self).__mro__[2],), self.__dict__


def correct(module: nn.Module, corrections: Sequence[Correction]) -> None:
    """Correct the calls of a module, in place.

    Args:
        module: A module of the cut model.
        corrections: What to replace.
    """
    module.__dict__[_ATTRIBUTE] = (*module.__dict__.get(_ATTRIBUTE, ()), *corrections)
    if not isinstance(module, Corrected):
        kind: Any = type(module)
        module.__class__ = _corrected_class(kind)
        if isinstance(module, nn.MultiheadAttention):
            module.register_forward_hook(keep_off_fast_path)


def keep_off_fast_path(*_: Any) -> None:
    """Do nothing, as a hook: the fused attention computes head widths itself, hooked modules excepted."""


@cache
def _corrected_class(kind: Any) -> Any:
    members: dict[str, Any] = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
    }
    return type(kind.__name__, (Corrected, kind), members)


def _rebuild(kind: type) -> nn.Module:
    made = _corrected_class(kind)
    result: nn.Module = made.__new__(made)
    return result


class _Correcting(TorchFunctionMode):
    """Replaces numbers of calls; counts calls by name as the trace did."""

    def __init__(self, corrections: Sequence[Correction]) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.wanted: dict[tuple[str, int], dict[int, Correction]] = {}
        for correction in corrections:
            at = (correction.function, correction.ordinal)
            self.wanted.setdefault(at, {})[correction.position] = correction

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        self.counts[name] += 1
        found = self.wanted.get((name, self.counts[name]))
        if found:
            changes = {at: partial(_corrected, one) for at, one in found.items()}
            args, kwargs = replace_numbers((args, kwargs), changes)
        twin = opened(func)
        if twin is None:
            return func(*args, **kwargs)
        with self:
            return twin(*args, **kwargs)


def _corrected(correction: Correction, number: Any) -> int | float:
    """The corrected number; a traced one keeps its origin, for the next cut."""
    now = correction.apply(number)
    return (
        Traced(int(now), number.origin, number.on_equal, is_corrected=True)
        if isinstance(number, Traced)
        else now
    )


def replace_numbers(arg: Any, changes: Mapping[int, Callable[[Any], int | float]]) -> Any:
    """Rebuild a call's arguments with some of their numbers changed, counted as `numbers_in` lists them.

    Example:
        >>> replace_numbers((1, [2, slice(None, 3)], {"dim": 4}), {2: lambda number: 30})
        (1, [2, slice(None, 30, None)], {'dim': 4})
    """
    return _Replacer(changes).replace(arg)


class _Replacer:
    def __init__(self, changes: Mapping[int, Callable[[Any], int | float]]) -> None:
        self.changes = changes
        self.at = -1

    def replace(self, arg: Any) -> Any:
        if isinstance(arg, (list, tuple)):
            parts = [self.replace(item) for item in arg]
            return type(arg)(parts) if type(arg) in (list, tuple) else tuple(parts)
        if isinstance(arg, dict):
            return {name: self.replace(item) for name, item in arg.items()}
        if isinstance(arg, slice):
            return slice(*(self.replace(item) for item in (arg.start, arg.stop, arg.step)))
        if isinstance(arg, (int, float)) and not isinstance(arg, bool):
            self.at += 1
            if self.at in self.changes:
                return self.changes[self.at](arg)
        return arg
