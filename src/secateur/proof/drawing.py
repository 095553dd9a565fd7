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
from secateur.capture.inputs import map_inputs


def drawn_inputs(example_inputs: Any, seed: int | None, dtype: torch.dtype) -> Any:
    """Random inputs like the example; without a seed the example itself, in another precision."""
    inputs = cast_inputs(example_inputs, dtype)
    if seed is None:
        return inputs
    generator = torch.Generator().manual_seed(seed)
    return map_inputs(inputs, lambda leaf: random_like(leaf, generator).to(leaf.dtype))


def random_like(leaf: Tensor, generator: torch.Generator) -> Tensor:
    """Random numbers in float64 in place of a floating tensor; others stay."""
    if not leaf.is_floating_point():
        return leaf
    return torch.randn(leaf.shape, generator=generator, dtype=torch.float64, device="cpu").to(leaf.device)


def precise(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Bring the real and complex tensors of a model of ours to a precision, in place; integers stay.

    Args:
        model: A copy; changed.
        dtype: A real type; complex tensors get the complex type of its precision.
    """
    wide = torch.complex128 if dtype == torch.float64 else torch.complex64

    def cast(tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            return tensor.to(wide)
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    return model._apply(cast)


STYLES = ("signed", "positive", "near")
"""How parameters are drawn: with both signs; with those that were positive staying so, for models that take
their roots; near the values that they have, for models that are defined nowhere else."""


def randomised(
    model: nn.Module, seed: int, style: str = "signed", dtype: torch.dtype = torch.float64
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
        dtype: The precision of the copy.

    Example:
        >>> drawn = randomised(nn.LayerNorm(64), 0)
        >>> bool((drawn.weight.abs() > 0.5).all()), bool((drawn.weight < 0).any())
        (True, True)
    """
    generator = torch.Generator().manual_seed(seed)
    result = precise(copy_module(model), dtype)
    parameters = {id(held) for held in result.parameters()}
    with torch.no_grad():
        for tensor in {id(held): held for held in [*result.parameters(), *result.buffers()]}.values():
            if not tensor.numel() or not (tensor.is_floating_point() or tensor.is_complex()):
                continue
            values = torch.view_as_real(tensor) if tensor.is_complex() else tensor
            if style == "near" or id(tensor) not in parameters:
                _spread(values, generator)
            elif _is_vector(tensor):
                _draw_vector(values, generator, is_signed=style == "signed" and tensor.numel() > 1)
            else:
                _draw_weights(values, generator)
    return result


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
