"""The random numbers of a proof: inputs, parameters and buffers in which nothing hides.

A zero hides what it is multiplied with, and equal numbers hide their order. So every parameter is drawn about
one in size, with both signs: weights by the square root of their inputs, so that deep networks neither vanish
nor explode, and layer scales, gates and temperatures whatever they hold.
"""

from typing import Any

import torch
from torch import Tensor, nn

from secateur.capture import cast_inputs
from secateur.capture.copies import copy_module
from secateur.capture.inputs import cast_type, map_inputs


def drawn_inputs(example_inputs: Any, seed: int | None, dtype: torch.dtype | None) -> Any:
    """Random inputs like the example; without a seed the example itself, in another precision or its own."""
    inputs = example_inputs if dtype is None else cast_inputs(example_inputs, dtype)
    if seed is None:
        return inputs
    generator = torch.Generator().manual_seed(seed)
    return map_inputs(inputs, lambda leaf: random_like(leaf, generator).to(leaf.dtype))


def random_like(leaf: Tensor, generator: torch.Generator) -> Tensor:
    """Random numbers in float64 or complex128 in place of a real or complex tensor; others stay."""
    if not leaf.is_floating_point() and not leaf.is_complex():
        return leaf
    kind = cast_type(leaf, torch.float64)
    return torch.randn(leaf.shape, generator=generator, dtype=kind, device="cpu").to(leaf.device)


def precise(model: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """Bring the real and complex tensors of a model of ours to a precision, in place; integers stay.

    Args:
        model: A copy; changed.
        dtype: A real type; complex tensors get the complex type of its precision. None leaves each its own.
    """
    return model if dtype is None else model._apply(lambda tensor: tensor.to(cast_type(tensor, dtype)))


STYLES = ("signed", "positive", "near")
"""How parameters are drawn: with both signs; with those that were positive staying so, for models that take
their roots; near the values that they have, for models that are defined nowhere else."""


HELD = ("nothing", "marks", "vectors")
"""What keeps its own numbers, as the model may take them for positions and not run with others: nothing;
tensors of zeros and one other number, which mark positions; or all vectors."""


def randomised(
    model: nn.Module,
    seed: int,
    style: str = "signed",
    dtype: torch.dtype | None = torch.float64,
    held: str = "nothing",
) -> nn.Module:
    """Copy a model with random parameters and buffers.

    Weights have the size 1/sqrt(fan in). Vectors that are positive (the scales of norms and layers) are
    drawn about one; other vectors (biases) are normal about a half. Buffers are spread around their values,
    since they often have a meaning (a variance, an angle); those that are positive stay so, and integers
    stay as they are.

    Args:
        model: The model; not changed.
        seed: For the draw.
        style: One of `STYLES`.
        dtype: The precision of the copy; None for that which each tensor has.
        held: One of `HELD`.

    Example:
        >>> drawn = randomised(nn.LayerNorm(64), 0)
        >>> bool((drawn.weight.abs() > 0.5).all()), bool((drawn.weight < 0).any())
        (True, True)
    """
    generator = torch.Generator().manual_seed(seed)
    memo: dict[int, Any] = {}
    with torch.inference_mode(False), torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            is_number = tensor.is_floating_point() or tensor.is_complex()
            if id(tensor) in memo or not tensor.numel() or not is_number or _is_held(tensor, held):
                continue
            memo[id(tensor)] = _drawn(tensor, generator, style, dtype)
    return precise(copy_module(model, memo), dtype)


def _is_held(tensor: Tensor, held: str) -> bool:
    if held == "marks":
        zeros = tensor == 0
        others = tensor[~zeros]
        return bool(zeros.any()) and bool(others.numel()) and bool((others == others[0]).all())
    return held == "vectors" and _is_vector(tensor)


def _drawn(held: Tensor, generator: torch.Generator, style: str, dtype: torch.dtype | None) -> Tensor:
    """Numbers for one parameter or buffer; its own are copied only where they count."""
    is_parameter = isinstance(held, nn.Parameter)
    is_weight = is_parameter and style != "near" and not _is_vector(held)
    kind = cast_type(held, dtype)
    made = torch.empty_like(held, dtype=kind) if is_weight else held.detach().to(kind, copy=True)
    values = torch.view_as_real(made) if made.is_complex() else made
    if is_weight:
        _draw_weights(values, generator)
    elif is_parameter and style != "near":
        _draw_vector(values, generator, is_signed=style == "signed" and held.numel() > 1)
    else:
        _spread(values, generator)
    return nn.Parameter(made, requires_grad=held.requires_grad) if is_parameter else made


def _is_vector(tensor: Tensor) -> bool:
    """Whether at most one dim is longer than one, as of a bias and of a layer scale (channels, 1, 1)."""
    return tensor.numel() == max(tensor.shape, default=1)


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64, device="cpu").to(like.device)


def _spread(values: Tensor, generator: torch.Generator) -> None:
    """Move values by about a third; what is not finite (a mask) stays."""
    noise = _noise(values, generator)
    if bool((values > 0).all()):
        values.mul_(torch.exp(0.3 * noise.clamp(-2, 2)))
    elif bool(torch.isfinite(values).all()):
        values.add_(0.3 * noise)


def _draw_vector(values: Tensor, generator: torch.Generator, *, is_signed: bool) -> None:
    noise = _noise(values, generator)
    if values.numel() > 1 and not bool((values > 0).all()):
        values.copy_(0.5 + 0.5 * noise)  # so that most of what a ReLU follows is on
        return
    sizes = torch.exp(0.3 * noise.clamp(-2, 2))
    if is_signed:
        sizes *= torch.randint(0, 2, values.shape, generator=generator, device="cpu").to(sizes.device) * 2 - 1
    values.copy_(sizes)


_TILE = 65521
"""A prime, so that no two rows of a weight get the same numbers."""


def _draw_weights(weights: Tensor, generator: torch.Generator) -> None:
    """Fill with uniform numbers of variance 1 / fan in, repeated, as drawing them all would take long."""
    fan_in = weights[0].numel() if len(weights) > 1 else 4
    bound = (3 / fan_in) ** 0.5
    size = weights.numel()
    tile = torch.empty(min(size, _TILE), dtype=weights.dtype, device="cpu").uniform_(
        -bound, bound, generator=generator
    )
    repeated = tile if size <= _TILE else tile.repeat(-(-size // _TILE))[:size]
    weights.copy_(repeated.view(weights.shape))
