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

import numpy as np
import torch
from torch import Tensor

from secateur.errors import CheckpointError

KEY = "secateur_packed"
BITS, SIGNS = "::bits", "::signs"


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
        CheckpointError: Bits and values contradict each other.
    """
    shapes = json.loads(metadata.get(KEY, "{}"))
    inner = {name + suffix for name in shapes for suffix in (BITS, SIGNS)}
    result = {name: tensor for name, tensor in tensors.items() if name not in inner}
    for name, shape in shapes.items():
        bits, values = tensors.get(name + BITS), tensors.get(name)
        count = int(np.prod(shape, dtype=np.int64))
        if bits is None or values is None or bits.numel() != -(-count // 8):
            raise CheckpointError(f"cannot unpack {name}: its bits are missing or of another size")
        kept = _read_bits(bits, count)
        if int(kept.sum()) != values.numel():
            raise CheckpointError(
                f"cannot unpack {name}: {int(kept.sum())} bits are set, {values.numel()} values are there",
                do="the file is damaged; save the model again",
            )
        dense = torch.zeros(count, dtype=values.dtype)
        dense[kept] = values
        if name + SIGNS in tensors:
            dense[_read_bits(tensors[name + SIGNS], count)] = -0.0
        result[name] = dense.view(shape)
    return result


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
