"""An independent reference: what a cut network must compute, found without the library.

Which positions were kept is read off the values: parameters are filled with numbers that occur once, so
every number of the cut network has one place in the original. The reference is the original in which every
parameter entry that is not in the cut network is zero. A removed channel then is made of zeros and read by
zeros. Where an operator takes a statistic over channels, zeros are not enough: `over_kept` lets it see the
kept channels only.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.capture.copies import copy_module

Kept = dict[str, list[Tensor]]
"""By the name of each parameter and buffer: the kept positions of every dim."""


def spread(model: nn.Module, seed: int = 0) -> nn.Module:
    """Fill parameters and buffers with distinct numbers of a sensible scale; positive ones stay positive."""
    generator = torch.Generator().manual_seed(seed)
    held = [*model.parameters(), *model.buffers()]
    with torch.no_grad():
        for tensor in {id(one): one for one in held if one.is_floating_point()}.values():
            count = tensor.numel()
            if not count or not tensor.isfinite().all():
                continue
            numbers = torch.linspace(-1.03, 1, count)[torch.randperm(count, generator=generator)]
            if bool((tensor > 0).all()):
                tensor.copy_((1 + 0.5 * numbers).view(tensor.shape))
            else:
                fan_in = tensor[0].numel() if tensor.dim() > 1 else 1
                tensor.copy_((numbers * 1.5 / max(fan_in, 1) ** 0.5).view(tensor.shape))
    return model


def kept_positions(model: nn.Module, cut: nn.Module) -> Kept:
    """Find by value which positions of every tensor a cut network holds."""
    originals, kept = _tensors(model), {}
    for name, tensor in _tensors(cut).items():
        kept[name] = _kept_in(originals[name], tensor, name)
    return kept


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    named = dict(model.named_parameters(remove_duplicate=False))
    named.update(model.named_buffers(remove_duplicate=False))
    return named


def _kept_in(original: Tensor, tensor: Tensor, name: str) -> list[Tensor]:
    if original.shape == tensor.shape:
        assert torch.equal(original, tensor), f"{name} kept its shape but not its values"
        return [torch.arange(size) for size in original.shape]
    assert original.dim() == tensor.dim(), f"{name} is {list(tensor.shape)}, was {list(original.shape)}"
    order = original.flatten().argsort()
    ordered = original.flatten()[order]
    assert (ordered.diff() > 0).all(), f"the numbers of {name} are not distinct, places cannot be told"
    at = torch.searchsorted(ordered, tensor.flatten()).clamp(max=len(order) - 1)
    places = torch.unravel_index(order[at], original.shape)
    kept = [place.unique() for place in places]
    assert torch.equal(original[torch.meshgrid(*kept, indexing="ij")], tensor), f"{name} is no slice"
    return kept


def zeroed(model: nn.Module, kept: Kept) -> nn.Module:
    """Copy a model in float64 and set every parameter entry that was not kept to zero."""
    result = copy_module(model).double().eval()
    with torch.no_grad():
        for name, parameter in result.named_parameters(remove_duplicate=False):
            if not parameter.dim():
                continue
            stays = torch.zeros_like(parameter, dtype=torch.bool)
            stays[torch.meshgrid(*kept[name], indexing="ij")] = True
            parameter.mul_(stays)
    return result


def run(model: nn.Module, inputs: Any) -> list[Tensor]:
    """The output tensors in float64 and eval mode."""
    model = copy_module(model).double().eval()
    inputs = pytree.tree_map(lambda leaf: _double(leaf), inputs)
    with torch.no_grad():
        if isinstance(inputs, dict):
            output = model(**inputs)
        else:
            output = model(*(inputs if isinstance(inputs, tuple) else (inputs,)))
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def _double(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def doubled(inputs: Any) -> Any:
    """Twice as many rows of every input."""
    return pytree.tree_map(
        lambda leaf: torch.cat([leaf, leaf]) if isinstance(leaf, Tensor) and leaf.dim() else leaf, inputs
    )


def runs(model: nn.Module, inputs: Any) -> bool:
    """Whether a model takes the inputs; some are written for one number of rows."""
    try:
        run(model, inputs)
    except (RuntimeError, ValueError, IndexError):
        return False
    return True


def ties(model: nn.Module) -> set[tuple[str, ...]]:
    """The names that share a tensor."""
    names: dict[int, list[str]] = {}
    for name, tensor in _tensors(model).items():
        names.setdefault(id(tensor), []).append(name)
    return {tuple(held) for held in names.values() if len(held) > 1}


def require_equal(expected: list[Tensor], got: list[Tensor]) -> None:
    """The same tensors, none of them so small that anything would be equal."""
    assert len(expected) == len(got)
    for one, two in zip(expected, got, strict=True):
        if one.is_floating_point():
            assert one.abs().max() > 1e-4
            assert one.isfinite().all()
        torch.testing.assert_close(two, one, rtol=1e-9, atol=1e-9)


Operation = Callable[[Any, Tensor, Tensor], Tensor]


def over_kept(
    name: str, of: str, dim: int, operation: Operation | None = None, *, back: bool = True
) -> Callable[[nn.Module, Kept], None]:
    """Make a reference in which a module sees the kept channels of its input only.

    Args:
        name: The module or function, an attribute of the network.
        of: The parameter whose first dim holds the channels.
        dim: Where they lie in the module's input.
        operation: Computes it from the module, the kept channels of the input, and their positions; None
            calls the module itself.
        back: Put the result back among zeros; else the channels are gone from the result.
    """

    def replace(model: nn.Module, kept: Kept) -> None:
        found, positions = getattr(model, name), kept[of][0]

        def narrowed(x: Tensor) -> Tensor:
            narrow = x.index_select(dim, positions)
            y = found(narrow) if operation is None else operation(found, narrow, positions)
            if not back:
                return y
            return x.new_zeros(x.shape).index_copy(dim, positions, y)

        delattr(model, name)
        object.__setattr__(model, name, narrowed)

    return replace
