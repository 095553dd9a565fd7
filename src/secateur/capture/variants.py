"""Other calls that people make of a model: padded batches, another attention, another forward.

A language model whose example is not padded takes a path of its own: no mask is made, heads are not repeated
because the kernel does it. What its code would read on the other path, a number of heads say, no record of
the example shows. So such a model is also recorded and proven as it is served: with a padded batch, and with
the other implementation of attention where it has two. Exporters set another method as the forward of some
modules. All are told by what the model offers, not by its name: a `forward` that takes an `attention_mask`, a
method `set_attn_implementation`, a method `forward_split` with the signature of `forward`.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from secateur.capture.inputs import as_call
from secateur.errors import CaptureError

MASK = "attention_mask"
_MASKED = ("input_ids", "inputs_embeds", "input_values")
_SETTER, _ABLE = "set_attn_implementation", "_can_set_attn_implementation"


@dataclass(frozen=True, eq=False)
class Variant:
    """Another call of a model.

    Attributes:
        name: What is different, in words.
        inputs: What it is called with.
        attention: The implementation of attention to set before; None leaves it.
        forward: The method that takes the place of `forward` in the modules that have it.
    """

    name: str
    inputs: Any
    attention: str | None = None
    forward: str | None = None

    def prepare(self, model: nn.Module) -> nn.Module:
        """Set what is different of the model.

        Args:
            model: A copy; changed.

        Returns:
            The model itself.

        Raises:
            CaptureError: The model has no such implementation.
        """
        for one in model.modules():
            if self.forward is not None and one is not model and self.forward in _alternatives_of(one):
                one.forward = getattr(one, self.forward)
        for one in [] if self.attention is None else _outermost(model):
            try:
                with _classes_kept(one):
                    getattr(one, _SETTER)(self.attention)
            except (ImportError, ValueError) as error:
                raise CaptureError(f"{self.name}: {error}") from error
            if _attention(one) != self.attention:
                raise CaptureError(f"{self.name} is not taken")
        return model


def variants_of(model: nn.Module, example_inputs: Any) -> Iterator[Variant]:
    """Yield the other calls of a model that may read what the example does not; it need not take them.

    The last one differs in all: a padded batch is what the other implementation gets.

    Args:
        model: Any module; not changed.
        example_inputs: As for `capture`.

    Example:
        >>> class Masked(nn.Module):
        ...     def forward(self, input_ids, attention_mask=None):
        ...         return input_ids.float()
        >>> [variant.name for variant in variants_of(Masked(), torch.zeros(2, 6, dtype=torch.long))]
        ['a padded batch']
        >>> list(variants_of(nn.Linear(2, 2), torch.zeros(1, 2)))
        []
    """
    inner = (one for one in model.modules() if one is not model)
    for name in sorted({name for one in inner for name in _alternatives_of(one)}):
        yield Variant(f"'{name}' as forward", example_inputs, forward=name)
    padded = _padded(model, example_inputs)
    if padded is not None:
        yield padded
    found = {_attention(one) for one in _outermost(model) if _can_set(one)}
    for other in ("eager", "sdpa"):
        if found & {"eager", "sdpa"} and other not in found:
            before = "" if padded is None else f"{padded.name} and "
            inputs = example_inputs if padded is None else padded.inputs
            yield Variant(f"{before}attention '{other}'", inputs, other)


@lru_cache(maxsize=1024)
def _alternatives(kind: Any) -> tuple[str, ...]:
    """The methods of a class that are written to take the place of its forward: exporters set them."""
    names = {name for base in kind.__mro__ for name in vars(base) if name.startswith("forward_")}
    return tuple(name for name in sorted(names) if _signature(kind, name) == _signature(kind, "forward"))


def _signature(kind: Any, method: str) -> list[tuple[str, Any]]:
    held = inspect.getattr_static(kind, method)
    if not inspect.isfunction(held):
        return []
    return [(name, one.kind) for name, one in inspect.signature(held).parameters.items()]


def _alternatives_of(module: nn.Module) -> tuple[str, ...]:
    kind: Any = type(module)
    return _alternatives(kind)


def _padded(model: nn.Module, example_inputs: Any) -> Variant | None:
    """The call with a batch of which the first sample is shorter; or with whole samples, if it is one."""
    args, kwargs = as_call(example_inputs)
    parameters = inspect.signature(model.forward).parameters
    kinds = {one.kind for one in parameters.values()}
    if (args and inspect.Parameter.VAR_POSITIONAL in kinds) or not (
        MASK in parameters or inspect.Parameter.VAR_KEYWORD in kinds
    ):
        return None
    named = dict(zip(parameters, args, strict=False)) | kwargs
    masked = next((named[name] for name in _MASKED if isinstance(named.get(name), Tensor)), None)
    given = named.get(MASK)
    if masked is None or masked.dim() < 2 or masked.shape[1] < 2:
        return None
    if isinstance(given, Tensor) and (given.dim() != 2 or given.is_meta):
        return None
    if isinstance(given, Tensor) and not bool(given.all()):
        return Variant("a batch without padding", {**named, MASK: torch.ones_like(given)})
    batch, length = masked.shape[:2]
    mask = torch.ones(batch, length, dtype=torch.long, device=masked.device)
    mask[0, length - max(length // 3, 1) :] = 0
    return Variant("a padded batch", {**named, MASK: mask})


def _outermost(model: nn.Module) -> list[nn.Module]:
    """The modules that set the attention of all inside them."""
    if callable(getattr(model, _SETTER, None)):
        return [model]
    return [found for child in model.children() for found in _outermost(child)]


def _attention(model: nn.Module) -> str | None:
    return getattr(getattr(model, "config", None), "_attn_implementation", None)


def _can_set(model: nn.Module) -> bool:
    """Whether a module does set its attention: older ones of transformers have the method and say no."""
    able = getattr(model, _ABLE, None)
    with _classes_kept(model):
        return able is None or bool(able())


@contextmanager
def _classes_kept(model: nn.Module) -> Iterator[None]:
    """Put back what the classes of a module's parts keep meanwhile, such as the answer to a question."""
    parts = dict.fromkeys(type(one) for one in model.modules())
    kinds: list[Any] = list(dict.fromkeys(base for kind in parts for base in kind.__mro__[:-1]))
    before = [dict(vars(kind)) for kind in kinds]
    try:
        yield
    finally:
        for kind, held in zip(kinds, before, strict=True):
            for name, value in list(vars(kind).items()):
                if name not in held:
                    delattr(kind, name)
                elif value is not held[name]:
                    setattr(kind, name, held[name])
