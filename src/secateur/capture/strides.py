"""Strides: how an element-wise operator lays out its result, as PyTorch's `TensorIterator` does."""

from collections.abc import Sequence

import torch
from torch import Tensor

Sizes = Sequence[int]


def strides_of(shape: Sizes, tensors: Sequence[Tensor]) -> list[int]:
    """The strides of what an element-wise operator makes.

    Operands of one size and strides are followed if they are dense. Else dims are sorted by the strides of
    the first operand that tells two apart; a dim along which it is repeated tells nothing. It is an insertion
    sort, as the order need not be transitive.

    Args:
        shape: Of the result.
        tensors: The operands; each can be broadcast to it.

    Example:
        >>> strides_of((2, 3, 4), [torch.zeros(4, 3, 2).permute(2, 1, 0), torch.zeros(3, 1)])
        [1, 2, 6]
    """
    first, rank = tensors[0], len(shape)
    if all(one.shape == first.shape for one in tensors):
        if rank == 4 and all(one.is_contiguous(memory_format=torch.channels_last) for one in tensors):
            _, c, h, w = shape
            return [h * w * c, 1, w * c, c]
        if all(one.stride() == first.stride() for one in tensors) and is_dense(first):
            return list(first.stride())
    known = [_repeated(one, shape) for one in tensors]
    order = list(range(rank))[::-1]
    for at in range(1, rank):
        moved = at
        for other in range(at - 1, -1, -1):
            swap = _compared(order[other], order[moved], known, shape)
            if swap > 0:
                order[other], order[moved] = order[moved], order[other]
                moved = other
            elif swap < 0:
                break
    strides, step = [0] * rank, 1
    for dim in order:
        strides[dim] = step
        step *= max(shape[dim], 1)
    return strides


def _repeated(tensor: Tensor, shape: Sizes) -> list[int]:
    """The strides of a tensor that is broadcast to a shape: 0 along what it is repeated."""
    missing = len(shape) - tensor.dim()
    own = zip(tensor.shape, tensor.stride(), shape[missing:], strict=True)
    return [0] * missing + [0 if size == 1 != wanted else stride for size, stride, wanted in own]


def _compared(one: int, two: int, known: list[list[int]], shape: Sizes) -> int:
    """Whether the inner dim of two must become the outer one (1), may not (-1), or nothing tells (0)."""
    for strides in known:
        inner, outer = strides[one], strides[two]
        if inner == 0 or outer == 0:
            continue
        if inner != outer:
            return -1 if inner < outer else 1
        if shape[one] > shape[two]:
            return 1
    return 0


def is_dense(tensor: Tensor) -> bool:
    """Whether every place in a tensor's memory is one position, from the first to the last."""
    step = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != step:
                return False
            step *= size
    return True


def is_channels_last(tensor: Tensor) -> bool:
    """Whether PyTorch takes a tensor for one whose channels lie in a row, as its kernels do.

    Args:
        tensor: Of any rank; images and volumes can be.

    Example:
        >>> x = torch.zeros(1, 3, 2, 2)
        >>> is_channels_last(x), is_channels_last(x.to(memory_format=torch.channels_last))
        (False, True)
    """
    if tensor.dim() not in (4, 5) or not tensor.stride(1):
        return False
    least = 0
    for dim in (1, *range(tensor.dim() - 1, 1, -1), 0):
        size, stride = tensor.shape[dim], tensor.stride(dim)
        if not size or stride < least or (not dim and least == tensor.stride(1)):
            return False
        least = stride * max(size, 1)
    return True


def is_viewable(tensor: Tensor, shape: Sizes) -> bool:
    """Whether a tensor that holds something can be seen in another shape without a copy.

    Dims that follow each other in memory are one chunk; each chunk has to be the product of some dims of the
    shape, as in PyTorch's `computeStride`.

    Args:
        tensor: With one position at least.
        shape: Of as many positions.

    Example:
        >>> x = torch.zeros(2, 3, 4)
        >>> is_viewable(x.transpose(0, 1), (3, 2, 2, 2)), is_viewable(x.transpose(0, 1), (6, 4))
        (True, False)
    """
    at, chunk = len(shape) - 1, 1
    sizes, strides = tensor.shape, tensor.stride()
    if not sizes:
        return True
    base = strides[-1]
    for dim in range(tensor.dim() - 1, -1, -1):
        chunk *= sizes[dim]
        if dim and (sizes[dim - 1] == 1 or strides[dim - 1] == chunk * base):
            continue
        filled = 1
        while at >= 0 and (filled < chunk or shape[at] == 1):
            filled *= shape[at]
            at -= 1
        if filled != chunk:
            return False
        if dim:
            chunk, base = 1, strides[dim - 1]
    return at == -1
