"""Packed tensors: a sparse tensor as one bit for each entry and the values that are not zero.

    name            the kept values, in the order of the dense tensor
    name::bits      one bit for each entry, 8 to a byte, highest first: whether it is kept
    name::signs     only if there is one: the bits of zeros that are negative (-0.0)

Which tensors are packed, and their shapes, stands in the file's metadata under `secateur_packed`. A tensor is
packed only where that is smaller, so a file is never larger than the dense one by more than its header. What
is read back equals what was written to the last bit.
"""

import json
from collections.abc import Mapping
from math import prod
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor

from secateur.errors import CheckpointError

KEY = "secateur_packed"
BITS, SIGNS = "::bits", "::signs"
_SHAPES = TypeAdapter(dict[str, list[Annotated[int, Field(ge=0, lt=2**31)]]])


def pack(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Pack the tensors that get smaller by it.

    Args:
        tensors: By name, on the CPU.

    Returns:
        What to write, and the metadata that belongs to it.

    Example:
        >>> written, metadata = pack({"w": torch.tensor([0.0, 0.0, 5.0, 0.0] * 8)})
        >>> {name: tensor.numel() * tensor.element_size() for name, tensor in written.items()}
        {'w': 32, 'w::bits': 4}
        >>> unpack(written, metadata)["w"][:4]
        tensor([0., 0., 5., 0.])
    """
    written: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    for name, tensor in tensors.items():
        parts = _pack(name, tensor)
        if _bytes(parts) < tensor.numel() * tensor.element_size():
            written |= parts
            shapes[name] = list(tensor.shape)
        else:
            written[name] = tensor
    return written, {KEY: json.dumps(shapes)}


def unpack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """Undo `pack`; a file without packed tensors comes out as it is.

    Raises:
        CheckpointError: Bits and values contradict each other, or the shapes in the metadata are none.
    """
    do = "the file is damaged; save the model again"
    try:
        shapes = _SHAPES.validate_json(metadata.get(KEY, "{}"))
    except ValidationError as error:
        raise CheckpointError("cannot unpack the file: it does not say which shapes", do=do) from error
    inner = {name + suffix for name in shapes for suffix in (BITS, SIGNS)}
    result = {name: tensor for name, tensor in tensors.items() if name not in inner}
    for name, shape in shapes.items():
        values, count = tensors.get(name), prod(shape)
        kept, negative = (_flags(tensors.get(name + suffix), count) for suffix in (BITS, SIGNS))
        if kept is None or values is None or (negative is None and name + SIGNS in tensors):
            what = f"cannot unpack {name}: its bits are missing or of another size"
            raise CheckpointError(what, [f"its shape is {shape}"], do)
        if values.shape != (int(kept.sum()),):
            what = f"cannot unpack {name}: {int(kept.sum())} bits are set, values are {list(values.shape)}"
            raise CheckpointError(what, do=do)
        dense = torch.zeros(count, dtype=values.dtype)
        try:
            dense[kept] = values
        except NotImplementedError as error:  # a type that torch can only hold
            what = f"cannot unpack {name}: its values are {values.dtype}"
            raise CheckpointError(what, do=do) from error
        if negative is not None and values.is_floating_point():
            dense[negative] = -0.0
        result[name] = dense.view(shape)
    return result


def _flags(bits: Tensor | None, count: int) -> Tensor | None:
    """Bits as flags; None where there are none, or not as many as are needed."""
    if bits is None or bits.dtype != torch.uint8 or bits.shape != (-(-count // 8),):
        return None
    return _read_bits(bits, count)


def _pack(name: str, tensor: Tensor) -> dict[str, Tensor]:
    flat = tensor.reshape(-1)
    kept = flat != 0
    parts = {name: flat[kept].contiguous(), name + BITS: _write_bits(kept)}
    if tensor.is_floating_point():
        negative = ~kept & torch.signbit(flat)
        if bool(negative.any()):
            parts[name + SIGNS] = _write_bits(negative)
    return parts


def _write_bits(flags: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(flags.numpy()))


def _read_bits(bits: Tensor, count: int) -> Tensor:
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=count).astype(bool))


def _bytes(parts: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in parts.values())
