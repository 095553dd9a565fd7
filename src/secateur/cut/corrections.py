"""Corrections: numbers that a module's code computes, replaced in it by what they must be after a cut.

The module gets a subclass of its own class, whose methods are its source with an expression replaced by a
number that the module holds (`cut/edits.py`). Nothing stands between the model and PyTorch when it runs.
"""

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakValueDictionary

from torch import nn

from secateur.capture.places import CodePlace
from secateur.capture.source import SourceMissingError
from secateur.cut.edits import Edit, edited_methods
from secateur.errors import CutError

PREFIX = "_pruned_"
"""What the attributes begin with that corrected code reads."""


@dataclass(frozen=True)
class Correction:
    """One number that the code of a module passes to PyTorch.

    Attributes:
        place: Where it is written.
        number: Name of the attribute of the module that is passed instead.
        was: What the cut model would compute there.
        now: What it must be.
        form: "number" where `now` takes its place; "factor" where `was` is a factor of it, the others being
            sizes that differ from run to run, such as the batch; "offset" where such sizes are added to it;
            "inferred" for the -1 of a view, where one line needs many numbers.
    """

    place: CodePlace
    number: str
    was: int | float
    now: int | float
    form: Literal["number", "factor", "offset", "inferred"] = "number"

    @property
    def numbers(self) -> dict[str, int | float]:
        """The attributes that the module gets."""
        if self.form == "inferred":
            return {}
        if self.form == "factor":
            return {self.number: self.now, divisor_of(self.number): self.was}
        return {self.number: self.now - self.was if self.form == "offset" else self.now}

    def serves(self, passed: float, needed: float) -> bool:
        """Whether a run that passes a number passes the one that it needs with this correction."""
        if self.form == "offset":
            return passed + self.now - self.was == needed
        if self.form == "factor":
            return passed % self.was == 0 and passed // self.was * self.now == needed
        return self.now == needed

    def replace(self, old: ast.expr, module: ast.expr) -> ast.expr:
        """The expression with the number of the module in it."""
        if self.form == "inferred":
            return ast.UnaryOp(ast.USub(), ast.Constant(1))
        number: ast.expr = ast.Attribute(module, self.number, ast.Load())
        if self.form == "offset":
            return ast.BinOp(old, ast.Add(), number)
        if self.form == "factor":
            divisor = ast.Attribute(module, divisor_of(self.number), ast.Load())
            return ast.BinOp(ast.BinOp(old, ast.FloorDiv(), divisor), ast.Mult(), number)
        return number

    def __str__(self) -> str:
        return f"{self.place}: {'-1' if self.form == 'inferred' else f'{self.was} -> {self.now}'}"


def number_name(at: int) -> str:
    """The name of a module's number, from 0."""
    return f"{PREFIX}{at}"


def divisor_of(number: str) -> str:
    """The name of the number that goes with a factor."""
    return f"{number}_of"


def correct(module: nn.Module, corrections: Sequence[Correction]) -> None:
    """Correct the code of a module, in place.

    Args:
        module: A module of the cut model.
        corrections: What to replace.

    Raises:
        CutError: Its code is not the one that the corrections were made for.
    """
    module.__class__ = _corrected_class(module, tuple(corrections))
    for correction in corrections:
        for name, number in correction.numbers.items():
            setattr(module, name, number)
        _follow_class(module, correction.place.method)


def _follow_class(module: nn.Module, method: str) -> None:
    """Let methods that the instance holds be the new ones of its class."""
    for name, held in list(vars(module).items()):
        if getattr(held, "__self__", None) is module and getattr(held, "__name__", "") == method:
            module.__dict__[name] = getattr(type(module), method).__get__(module)


def keep_off_fast_path(model: nn.Module) -> None:
    """Keep encoder layers with corrected attention from the fused one, which computes head widths itself.

    Layers with hooked parts do not take it. Attention elsewhere has no hook, as `torch.jit.script` compiles
    hooks.
    """
    for layer in model.modules():
        if isinstance(layer, nn.TransformerEncoderLayer):
            for part in layer.children():
                is_known = _nothing in part._forward_hooks.values()
                if isinstance(part, nn.MultiheadAttention) and _is_corrected(part) and not is_known:
                    part.register_forward_hook(_nothing)


def _is_corrected(module: nn.Module) -> bool:
    return hasattr(type(module), "_pruned_from")


def _nothing(*_: Any) -> None:
    """Do nothing, as a hook."""


_CLASSES: WeakValueDictionary[tuple[type, tuple[Correction, ...]], Any] = WeakValueDictionary()


def _corrected_class(module: nn.Module, corrections: tuple[Correction, ...]) -> Any:
    """A subclass of a module's class with its corrected code; the same for the same corrections."""
    kind = type(module)
    key = (kind, tuple(correction_without_values(one) for one in corrections))
    made = _CLASSES.get(key)
    if made is None:
        edits = [Edit(one.place, one.replace) for one in corrections]
        members: dict[str, Any] = {}
        bases = [kind]
        try:
            edited = edited_methods(module, edits)
        except SourceMissingError as error:
            raise CutError(
                f"the code of {kind.__name__} cannot follow the cut: {error}",
                do="use the version of the code that the cut was made with, or cut the model anew",
            ) from error
        for base, methods in edited:
            if base is None:
                members.update(methods)
            else:
                bases.append(_subclass(base, (base,), methods))
        first, before = getattr(kind, "_pruned_from", (kind, ()))
        members |= {"_pruned_from": (first, (*before, key[1])), "__reduce_ex__": _reduce}
        made = _CLASSES[key] = _subclass(kind, tuple(bases), members)
    return made


def correction_without_values(correction: Correction) -> Correction:
    """What the code of a corrected class depends on; the numbers are the module's."""
    return Correction(correction.place, correction.number, 0, 0, correction.form)


def _subclass(kind: type, bases: tuple[type, ...], members: dict[str, Any]) -> Any:
    own = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind)(kind.__name__, bases, {**own, **members})


def _reduce(module: nn.Module, protocol: Any) -> Any:
    """Pickle and copy by the original class, as the subclass has no name that could be imported."""
    kind: Any = type(module)
    return _rebuild, kind._pruned_from, module.__getstate__()


def _rebuild(kind: Any, steps: Sequence[tuple[Correction, ...]]) -> nn.Module:
    made: nn.Module = kind.__new__(kind)
    for corrections in steps:
        made.__class__ = _corrected_class(made, corrections)
    return made
